package migrations_test

import (
	"testing"
)

// Two levels of partitions; p2 has its columns in another order, with a dropped one before.
const partitioned = `
	create table p (id int, k int, body text, primary key (id, k)) partition by list (k);
	create table p1 partition of p for values in (1);
	create table p2 (junk int, body text, k int not null, id int not null, primary key (id, k));
	alter table p2 drop junk; alter table p attach partition p2 for values in (2);
	create table p3 partition of p for values in (3, 4) partition by list (k);
	create table p33 partition of p3 for values in (3);
	create table p34 partition of p3 for values in (4);`

func TestCapturePartitions(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: partitioned + `select pgcast.attach('p', topic => 'k:{k}')`},
		{`insert into p values (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')`, []string{
			`k:1 created {"id":1,"k":1,"body":"a"}`, `k:2 created {"id":2,"k":2,"body":"b"}`, `k:3 created {"id":3,"k":3,"body":"c"}`,
		}},
		// Straight into a partition: once, and with the same names in the same order.
		{`insert into p1 values (4, 1, 'd'); insert into p2 (id, k, body) values (5, 2, 'e'); insert into p3 values (6, 3, 'f'); insert into p34 values (7, 4, 'g')`, []string{
			`k:1 created {"id":4,"k":1,"body":"d"}`, `k:2 created {"id":5,"k":2,"body":"e"}`, `k:3 created {"id":6,"k":3,"body":"f"}`, `k:4 created {"id":7,"k":4,"body":"g"}`,
		}},
		{`update p set k = 2 where id = 1; update p3 set k = 4 where id = 6; update p2 set body = 'x' where id = 5`, []string{
			`k:1 deleted old {"id":1,"k":1}`, `k:2 created {"id":1,"k":2,"body":"a"}`,
			`k:3 deleted old {"id":6,"k":3}`, `k:4 created {"id":6,"k":4,"body":"f"}`,
			`k:2 updated {"id":5,"k":2,"body":"x"} old {"id":5,"k":2}`,
		}},
		{`delete from p where id in (1, 2); delete from p2; delete from p3 where id = 3`, []string{
			`k:2 deleted old {"id":2,"k":2}`, `k:2 deleted old {"id":1,"k":2}`, `k:2 deleted old {"id":5,"k":2}`, `k:3 deleted old {"id":3,"k":3}`,
		}},
		// A new partition is covered through the root at once, by itself after attaching again.
		{`create table p5 partition of p for values in (5); insert into p values (8, 5, 'h'); insert into p5 values (9, 5, 'i')`, []string{`k:5 created {"id":8,"k":5,"body":"h"}`}},
		{`select pgcast.attach('p', topic => 'k:{k}'); insert into p5 values (10, 5, 'j')`, []string{`k:5 created {"id":10,"k":5,"body":"j"}`}},
		// A detached partition is a table of its own.
		{`alter table p detach partition p5; insert into p5 values (11, 5, 'k'); update p5 set body = ''; truncate p5`, nil},
		{`alter table p attach partition p5 for values in (5); insert into p5 values (12, 5, 'l')`, []string{`k:5 created {"id":12,"k":5,"body":"l"}`}},
	})
}

func TestCapturePartitionsAltered(t *testing.T) {
	t.Parallel()
	steps := []step{
		{sql: partitioned + `select pgcast.attach('p', topic => 'k:{k}', without => '{body}')`},
		{sql: `alter table p rename k to kind; alter table p rename body to hidden; alter table p add extra int default 7`},
	}
	write := []step{
		{`insert into p values (1, 1, 'a'), (2, 2, 'b'); insert into p2 (id, kind) values (3, 2); insert into p34 values (4, 4)`, []string{
			`k:1 created {"id":1,"kind":1,"extra":7}`, `k:2 created {"id":2,"kind":2,"extra":7}`, `k:2 created {"id":3,"kind":2,"extra":7}`, `k:4 created {"id":4,"kind":4,"extra":7}`,
		}},
		{`update p2 set extra = 8 where id = 3; delete from p`, []string{
			`k:2 updated {"id":3,"kind":2,"extra":8} old {"id":3,"kind":2}`,
			`k:1 deleted old {"id":1,"kind":1}`, `k:2 deleted old {"id":2,"kind":2}`, `k:2 deleted old {"id":3,"kind":2}`, `k:4 deleted old {"id":4,"kind":4}`,
		}},
	}
	steps = append(steps, write...)
	steps = append(steps, step{sql: `do $$ begin assert pgcast.refresh() = 1; assert pgcast.refresh() = 0; assert not exists (select from pgcast.drift()); end $$`})
	run(t, nil, append(steps, write...))
}

// A trigger on the partition a row moves to may keep it from arriving.
func TestCapturePartitionMoveSuppressed(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"k", "k:{body}"} {
		name := map[string]string{"k": "k", "k:{body}": "k:x"}[topic]
		run(t, nil, []step{
			{sql: partitioned + `create function swallow() returns trigger language plpgsql as $$ begin return case when new.id % 2 = 0 then new end; end $$;
				create trigger swallow before insert on p2 for each row execute function swallow();
				insert into p select i, 1, 'x' from generate_series(1, 4) i; select pgcast.attach('p', topic => '` + topic + `')`},
			{`update p set k = k + 1`, []string{ // the key changes, so these pair with nothing
				name + ` deleted old {"id":1,"k":1}`, name + ` created {"id":2,"k":2,"body":"x"}`, name + ` deleted old {"id":2,"k":1}`,
				name + ` created {"id":4,"k":2,"body":"x"}`, name + ` deleted old {"id":3,"k":1}`, name + ` deleted old {"id":4,"k":1}`,
			}},
		})
	}
}

// Rows that are all alike pair one to one.
func TestCapturePartitionMoveSuppressedWithoutKey(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: `create table q (k int, body text) partition by list (k);
			create table q1 partition of q for values in (1); create table q2 partition of q for values in (2);
			create function swallow() returns trigger language plpgsql as $$ begin return case when new.body <> 'lost' then new end; end $$;
			create trigger swallow before insert on q2 for each row execute function swallow();
			insert into q values (2, 'a'), (2, 'a'), (2, 'b'), (1, 'lost'), (1, 'a'); select pgcast.attach('q')`},
		{`update q set k = 2`, []string{
			`q deleted old {"k":1,"body":"lost"}`,
			`q deleted old {"k":1,"body":"a"}`, `q updated {"k":2,"body":"a"} old {"k":2,"body":"a"}`,
			`q created {"k":2,"body":"a"}`, `q updated {"k":2,"body":"a"} old {"k":2,"body":"a"}`, `q updated {"k":2,"body":"b"} old {"k":2,"body":"b"}`,
		}},
	})
}

func TestCaptureTruncatePartitions(t *testing.T) {
	t.Parallel()
	const fill = `set pgcast.capture = off; truncate p; insert into p values (1, 1, ''), (2, 2, ''), (3, 3, ''), (4, 4, ''); reset pgcast.capture;`
	everything := []string{`p truncated {"schema":"public","table":"p"}`}
	tests := []struct {
		sql  string
		want []string
	}{
		{`truncate p`, everything},
		{`truncate p restart identity cascade`, everything},
		{`truncate p, p3, p33`, everything},
		{`truncate p2`, []string{`p deleted old {"id":2,"k":2}`}},
		{`truncate p3`, []string{`p deleted old {"id":3,"k":3}`, `p deleted old {"id":4,"k":4}`}},
		{`truncate p3, p33`, []string{`p deleted old {"id":3,"k":3}`, `p deleted old {"id":4,"k":4}`}},
		{`truncate p33, p3`, []string{`p deleted old {"id":3,"k":3}`, `p deleted old {"id":4,"k":4}`}},
		{`truncate p33, p1`, []string{`p deleted old {"id":3,"k":3}`, `p deleted old {"id":1,"k":1}`}},
		{`truncate p2, p`, append([]string{`p deleted old {"id":2,"k":2}`}, everything...)},
		// The mark that a root is being truncated ends with the statement.
		{`begin; truncate p; insert into p values (5, 1, ''); truncate p1; commit`, append(append([]string{}, everything...), `p created {"id":5,"k":1,"body":""}`, `p deleted old {"id":5,"k":1}`)},
		{`begin; savepoint a; truncate p; rollback to a; truncate p1; commit`, []string{`p deleted old {"id":1,"k":1}`}},
		{`begin; truncate p3; truncate p33; truncate p2; truncate p; commit`, append([]string{`p deleted old {"id":3,"k":3}`, `p deleted old {"id":4,"k":4}`, `p deleted old {"id":2,"k":2}`}, everything...)},
	}
	steps := []step{{sql: partitioned + `select pgcast.attach('p')`}}
	for _, tt := range tests {
		steps = append(steps, step{sql: fill}, step{tt.sql, tt.want})
	}
	run(t, nil, steps)
}

func TestCaptureInheritance(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{sql: `create table city (id int primary key, name text);
			create table capital (country text) inherits (city); alter table capital add primary key (id);
			create table seat (throne text) inherits (capital);
			select pgcast.attach('city')`},
		{`insert into city values (1, 'a'); insert into capital values (2, 'b', 'x'); insert into seat values (3, 'c', 'y', 'z')`, []string{ // only the parent's columns
			`city created {"id":1,"name":"a"}`, `city created {"id":2,"name":"b"}`, `city created {"id":3,"name":"c"}`,
		}},
		{`update city set name = name || '!'; update capital set name = 'q'; update only city set name = 'only'`, []string{
			`city updated {"id":1,"name":"a!"} old {"id":1}`, `city updated {"id":2,"name":"b!"} old {"id":2}`, `city updated {"id":3,"name":"c!"} old {"id":3}`,
			`city updated {"id":2,"name":"q"} old {"id":2}`, `city updated {"id":3,"name":"q"} old {"id":3}`,
			`city updated {"id":1,"name":"only"} old {"id":1}`,
		}},
		{`delete from seat`, []string{`city deleted old {"id":3}`}},
		{`alter table city rename name to title; alter table capital add more int; insert into capital values (4, 'd', 'x', 9)`, []string{`city created {"id":4,"title":"d"}`}},
		{`select pgcast.refresh(); insert into capital values (5, 'e', 'x', 9)`, []string{`city created {"id":5,"title":"e"}`}},
		// TRUNCATE ONLY takes one table's rows, so whatever TRUNCATE takes is told row by row.
		{`truncate only city`, []string{`city deleted old {"id":1}`}},
		{`truncate capital`, []string{`city deleted old {"id":2}`, `city deleted old {"id":4}`, `city deleted old {"id":5}`}},
		{`insert into city values (6); insert into seat values (7)`, []string{`city created {"id":6,"title":null}`, `city created {"id":7,"title":null}`}},
		{`truncate city`, []string{`city deleted old {"id":6}`, `city deleted old {"id":7}`}},
		{`alter table capital no inherit city; insert into capital values (8); truncate capital`, nil},
		{`insert into city values (9)`, []string{`city created {"id":9,"title":null}`}},
		{sql: `do $$ begin perform pgcast.detach('city'); assert not exists (select from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace <> 'pgcast'::regnamespace); end $$`},
	})
}
