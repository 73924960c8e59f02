package faults

// Row is one row of the catalogue.
type Row struct {
	Number string
	Test   string
	Fault  string
}

// Rows are the rows of the catalogue that are provoked, each by a test.
var Rows = []Row{
	{"1", "TestFault01PostgresFastRestart", "Postgres restarted (fast) under load"},
	{"2", "TestFault02PostgresCrash", "Postgres crashes under load"},
	{"3", "TestFault03CrashAsyncCommit", "the same, writers with synchronous_commit = off"},
	{"4", "TestFault04LosslessFailover", "failover to a synchronous standby"},
	{"5", "TestFault05LossyFailover", "failover to a standby that lacks the newest events"},
	{"6", "TestFault06OlderCopy", "point-in-time recovery; a snapshot put back"},
	{"7", "TestFault07And48AnotherCluster", "restored into another cluster"},
	{"8", "TestFault08BackendsTerminated", "the server's database sessions terminated"},
	{"9", "TestFault09And10BlackHole", "black hole between server and Postgres"},
	{"10", "TestFault09And10BlackHole", "half-open connection to Postgres"},
	{"11", "TestFault11SlowPostgres", "slow Postgres"},
	{"12", "TestFault12NotifyQueueFull", "NOTIFY queue full"},
	{"13", "TestFault13IdleInTransaction", "listening line idle in a transaction"},
	{"14", "TestFault14Frozen", "servers frozen (SIGSTOP)"},
	{"15", "TestFault15GlobalLockHeld", "NOTIFY's global lock held by a foreign session"},
	{"16", "TestFault16ListenFails", "LISTEN fails"},
	{"17", "TestFault17LongTransaction", "long-running writer transaction"},
	{"18", "TestFault18RollbacksLeaveNothing", "rollbacks, savepoints"},
	{"19", "TestFault19And21Race", "commit-order race"},
	{"21", "TestFault19And21Race", "deadlocks"},
	{"22", "TestFault22Timeouts", "lock_timeout, statement_timeout of 10 ms"},
	{"23", "TestFault23IsolationLevels", "REPEATABLE READ and SERIALIZABLE writers"},
	{"24", "TestFault24PreparedTransactions", "two-phase commit"},
	{"25", "TestFault25ReconnectWindow", "listener's reconnect window"},
	{"27", "TestFault27TwoServers", "clients hop between two servers"},
	{"28", "TestFault28RollingDeploy", "rolling deploy"},
	{"30", "TestFault30ServerKilled", "servers killed (SIGKILL)"},
	{"33", "TestFault33ClockJumps", "clock jumps by ±1 h"},
	{"34", "TestFault34SlowConsumer", "slow client"},
	{"35", "TestFault35HalfOpenClient", "half-open client"},
	{"36", "TestFault36ReconnectStorm", "reconnect storm"},
	{"37", "TestFault37OlderThanRetention", "resume older than retention"},
	{"38", "TestFault38RetentionAgainstReaders", "retention against readers"},
	{"39", "TestFault39OversizeRows", "rows of 1 to 50 MB"},
	{"42", "TestFault42DroppedTables", "tables dropped and renamed"},
	{"43", "TestFault43Truncate", "TRUNCATE"},
	{"44", "TestFault44Partitions", "partitions"},
	{"45", "TestFault45BulkCopy", "bulk COPY"},
	{"46", "TestFault46Triggers", "triggers passed over or disabled"},
	{"47", "TestFault47Restore", "pg_dump and restore, three ways"},
	{"48", "TestFault07And48AnotherCluster", "major upgrade by dump"},
	{"49", "TestFault49DiskFull", "disk full"},
	{"54", "TestFault54NoConnectionsLeft", "max_connections exhausted"},
	{"55", "TestFault55Pooler", "a transaction pooler in the path"},
	{"55", "TestFault55GoneDeaf", "a line goes deaf"},
	{"55", "TestFault55PgBouncer", "PgBouncer in the path"},
	{"56", "TestFault56Standby", "led to a standby"},
	{"57", "TestFault57SearchPath", "search_path attack"},
	{"59", "TestFault59PoisonEvents", "poison payloads"},
	{"60", "TestFault60Combinations", "pairs of rows 1, 8, 9, 14, 28, 36, seeded"},
}
