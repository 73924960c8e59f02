package doctor

import (
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestRetention(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	examine(t, db.URL, nil, "retention").want(t, "retention", OK, "0 topics")
	stop := sequence(t, db)
	run(t, conn, "select pgcast.publish(t, 'e') from unnest('{a,b,b,c:d}'::text[]) t")
	until(t, "the events are sequenced", func() bool {
		return pgtest.Value[int](t, db, "select count(*)::int from pgcast.replay") == 4
	})
	stop() // retention stops with it
	examine(t, db.URL, nil, "retention").want(t, "retention", OK, "3 topics")
	run(t, conn, "update pgcast.replay set sequenced_at = sequenced_at - interval '7 days 5 hours' where topic_id = (select id from pgcast.topic where name = 'b')")
	examine(t, db.URL, nil, "retention").want(t, "retention", Warn, "3 topics, 1 keep more", "b has events that should have been trimmed 5h", "pgcast serve")
	examine(t, db.URL, func(d *Doctor) { d.limits.overdueFail = time.Hour }, "retention").want(t, "retention", Fail)
	run(t, conn, "select pgcast.retain('b', max_age => '8 days', max_count => 1)") // the nearer rule counts
	examine(t, db.URL, nil, "retention").want(t, "retention", OK)
	examine(t, db.URL, func(d *Doctor) { d.limits.overdueMany = 0 }, "retention").want(t, "retention", Warn, "b has 1 event too many", "1 in all")
	run(t, conn, "delete from pgcast.retention")
	examine(t, db.URL, nil, "retention").want(t, "retention", Note, "for ever", "pgcast.retain")
	run(t, conn, "insert into pgcast.retention values ('a:**:b', '1 day')")
	rs := examine(t, db.URL, nil, "retention")
	rs.want(t, "retention", Fail, "'a:**:b'", "nothing at all is trimmed")
	rs.mends(t, conn, "retention")
	examine(t, db.URL, nil, "retention").want(t, "retention", Note)
}

func TestSpace(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	names := []string{"publish-keys", "steps", "size", "event-times", "vacuum", "disk"}
	rs := examine(t, db.URL, func(d *Doctor) { d.limits.diskWarn, d.limits.diskFail = 0, 0 }, names...)
	for _, n := range names {
		rs.want(t, n, OK)
	}
	run(t, conn, `select pgcast.publish('a', 'b', null, 'key');
		update pgcast.publish_key set created_at = created_at - interval '2 days';
		insert into pgcast.progress select 200000, 0, '1:1:', null, null;
		update pgcast.event_log set created_at = created_at + interval '1 hour';
		alter table pgcast.replay set (autovacuum_enabled = off);
		insert into pgcast.event_log (topic, event, data) select 'a', 'b', to_json(repeat(md5(g::text), 20)) from generate_series(1, 5000) g;
		delete from pgcast.event_log where id > 10`)
	run(t, conn, "vacuum (analyze) pgcast.event_log")
	rs = examine(t, db.URL, func(d *Doctor) {
		d.limits.bloatFrom, d.limits.diskWarn, d.limits.xidWarn = 0, 1.01, 1
	}, names...)
	rs.want(t, "publish-keys", Warn, "48h", "pgcast serve")
	rs.want(t, "steps", Warn, "200001 old steps")
	rs.want(t, "size", Warn, "the 10 events kept", "vacuum")
	rs.want(t, "event-times", Warn, "from now", "clock went back")
	rs.want(t, "vacuum", Warn, "pgcast.replay: autovacuum is off")
	rs.want(t, "vacuum", Warn, "vacuum does not keep up", "vacuum (freeze)")
	rs.want(t, "disk", Warn, "is free")
	rs = examine(t, db.URL, func(d *Doctor) { d.limits.diskFail, d.limits.xidFail = 1.01, 1 }, "vacuum", "disk")
	rs.want(t, "vacuum", Fail, "Postgres stops writing")
	rs.want(t, "disk", Fail, "is free")

	run(t, conn, "alter table pgcast.publish_key set (autovacuum_enabled = off)")
	for range 2 { // a session that ends tells at once what it has done
		db.Exec(t, "update pgcast.publish_key set event_id = event_id")
	}
	until(t, "dead rows are counted", func() bool {
		return examine(t, db.URL, func(d *Doctor) { d.limits.deadRows = 1 }, "vacuum").has("vacuum", Warn, "pgcast.publish_key has about", "vacuum (analyze)")
	})
}

func TestOpenFiles(t *testing.T) {
	t.Parallel()
	check := func(sessions int, files uint64) results {
		return examine(t, "postgres://"+nobody(t), func(d *Doctor) { d.opts.MaxSessions, d.limits.files = sessions, files }, "open-files")
	}
	if _, known := openFiles(); !known {
		check(1, 0).want(t, "open-files", Skip)
		return
	}
	check(1, 0).want(t, "open-files", OK)
	check(1<<40, 0).want(t, "open-files", Warn, "LimitNOFILE")
	if may, _ := openFiles(); may < 100_000 {
		check(0, 1).want(t, "open-files", Note)
		check(0, 1<<40).want(t, "open-files", Warn)
	}
}
