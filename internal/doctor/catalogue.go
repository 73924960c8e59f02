package doctor

// catalogue is everything there is to look at, in the order in which a person wants to
// read of it: what the next ones rest on comes first.
var catalogue = []check{
	{"connection", nothing, "without the database nothing works", checkConnection},
	{"server-version", connection, "pgcast needs what PostgreSQL 14 brought", checkVersion},
	{"encoding", connection, "events are JSON, and JSON is UTF-8", checkEncoding},
	{"primary", connection, "on a standby nothing can be sequenced, trimmed or published", checkPrimary},
	{"pool-connection", connection | alone, "clients read and publish over database-url, the sequencer works over direct-database-url", checkPool},
	{"encryption", connection, "who reads the line reads every event and the password", checkEncryption},
	{"doorbell", primary | alone, "writers wake the sequencer by NOTIFY, and its locks belong to its session; a pooler in between swallows both", checkDoorbell},
	{"tcp-timeouts", connection, "a server that vanished must be noticed within 3 s, or its session keeps the sequencer's lock and the tail of the NOTIFY queue", checkTimeouts},
	{"clock", connection, "pgcast_write_to_delivery_seconds is measured by two clocks; logs are compared by them", checkClock},

	{"migrations", connection, "a server refuses to start on an older schema", checkMigrations},
	{"schema", schema, "the log's guarantees are unique indexes, and its speed is indexes", checkObjects},
	{"privileges", schema, "servers sequence, trim, publish, refresh triggers and end each other's frozen sessions", checkPrivileges},
	{"grants", schema, "who can write to the log can forge a transaction number, which hides an event", checkGrants},
	{"capture-switch", schema, "with pgcast.capture = off a write leaves no event, and nobody is told", checkSwitch},
	{"triggers", schema, "what is not captured is lost to subscribers", checkDrift},
	{"primary-keys", schema, "updates and deletes tell by the key which row they mean", checkKeys},
	{"replica-identity", schema, "Postgres refuses updates of published tables without one", checkReplicaIdentity},

	{"cluster-identity", primary | schema, "transaction numbers mean something only on the cluster that gave them out", checkIdentity},
	{"sequencer", schema, "without a server that sequences no event gets a place, and none is delivered", checkSequencer},
	{"lag", schema, "an event is delivered once it has its place", checkLag},
	{"notify-queue", connection, "a full queue makes NOTIFY fail, so writers stop ringing at half", checkQueue},
	{"long-transactions", connection, "an open transaction delays its own events, keeps vacuum from the log, and if it listens fills the NOTIFY queue", checkLongTransactions},
	{"prepared-transactions", connection, "NOTIFY makes PREPARE TRANSACTION fail, so where that is allowed nobody rings", checkPrepared},
	{"left-prepared", connection, "a prepared transaction holds its locks and delays its events until somebody ends it, also over a restart", checkLeftPrepared},

	{"retention", schema, "what is not trimmed fills the disk", checkRetention},
	{"publish-keys", schema, "idempotency keys are deleted after 24 hours, or they fill the disk", checkKeysKept},
	{"steps", schema, "each step of the sequencer leaves a row, which must be pruned", checkSteps},
	{"size", schema, "the log grows with what is written and shrinks with what is trimmed; vacuum makes the room usable again", checkSize},
	{"vacuum", connection, "steps and lookups slow down when dead rows pile up", checkVacuum},
	{"disk", connection, "a full disk stops every writer", checkDisk},
	{"event-times", schema, "retention by age goes by the database's clock", checkEventTimes},

	{"wal-level", connection, "backups and standbys are made from the WAL", checkWALLevel},
	{"slots", primary, "a replication slot that nobody reads fills the disk", checkSlots},
	{"replication", primary | alone, "capture from the WAL, and being woken by it, take a server, a role and a connection that let it be read", checkReplication},
	{"wake", primary | alone, "how soon an event is delivered depends on how servers learn of it", checkWake},
	{"publications", schema, "Postgres sends what they say, and fails without them", checkPublications},
	{"capture-slot", primary | schema, "Postgres keeps the WAL from which tables are captured as long as their slot says: too short, and events are lost; too long, and the disk fills", checkCaptureSlot},
	{"published", primary | schema, "while tables are captured from the WAL, publish() passes through it too, to keep the order", checkPublished},
	{"decoding", connection, "a transaction larger than logical_decoding_work_mem is sent before it has committed, and waits in pgcast.stage", checkDecoding},
	{"durability", connection, "nothing is delivered before it is durable, if the disk was really asked", checkDurability},
	{"standbys", primary, "commits wait for synchronous standbys, and a failover loses what the others lack", checkStandbys},
	{"track-activities", connection, "servers end a frozen one's session by what it does not do any more", checkActivities},
	{"session-limits", connection, "a limit made for applications also ends what servers do", checkSessionLimits},
	{"max-connections", connection, "a server that gets no connection serves nobody", checkConnections},

	{"redis", nothing, "servers share presence, cursors, groups and rate limits through it", checkRedis},
	{"redis-version", live, "live state needs what Redis 6.2 brought", checkRedisVersion},
	{"redis-role", live, "on a replica nothing can be written", checkRedisRole},
	{"redis-encryption", live, "who reads the line reads who is where, and the password", checkRedisEncryption},
	{"redis-memory", live, "what is evicted before its time are users who are still there", checkRedisMemory},
	{"redis-pubsub", live, "servers tell each other of changes by pub/sub; who hears nothing finds out late", checkRedisPubSub},
	{"redis-rights", live, "a command that is refused counts as a Redis that does not answer", checkRedisRights},

	{"open-files", nothing, "each client is an open file of the server", checkOpenFiles},
}
