package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/pgcast/pgcast/internal/pgtest"
)

const foldSchema = partitioned + `
	alter table p add n int;
	create table rooms (id int primary key, name text, n numeric);
	create table notes (room int references rooms on delete cascade on update cascade, who text, body text, primary key (room, who));
	create function bump() returns trigger language plpgsql as $$ begin
		if new.n = 3 then update rooms set n = n + 10 where id = new.id; end if;
		return null;
	end $$;
	create trigger bump after insert or update on rooms for each row execute function bump();
	create function swallow() returns trigger language plpgsql as $$ begin return case when new.body is distinct from 'lost' then new end; end $$;
	create trigger swallow before insert on p2 for each row execute function swallow();`

// The topic of a row, as its template makes it, in SQL.
var foldTables = []struct{ name, template, options, topic string }{
	{"rooms", "room:{id}", "", `'room:' || id`},
	{"notes", "room:{room}:{who}", ", old => true", `'room:' || room || ':' || who`},
	{"p", "k:{k}", "", `'k:' || k`},
}

// statement draws one statement, most of which do something.
func statement(rt *rapid.T) string {
	id := func() int { return rapid.IntRange(1, 5).Draw(rt, "id") }
	who := func() string { return rapid.SampledFrom([]string{"ann", "bob"}).Draw(rt, "who") }
	body := func() string { return rapid.SampledFrom([]string{"x", "lost", "é"}).Draw(rt, "body") }
	where := func(column string) string {
		return rapid.SampledFrom([]string{"true", fmt.Sprintf("%s = %d", column, id()), fmt.Sprintf("%s > %d", column, id())}).Draw(rt, "where")
	}
	leaf := rapid.SampledFrom([]string{"p", "p", "p1", "p2", "p3", "p33", "p34"}).Draw(rt, "leaf")
	switch rapid.IntRange(0, 14).Draw(rt, "statement") {
	case 0, 1:
		return fmt.Sprintf(`insert into rooms select i, %d, %d from generate_series(%d, %d) i on conflict do nothing`, id(), id(), id(), id()+2)
	case 2:
		return fmt.Sprintf(`insert into rooms values (%d, 'a', %d), (%d, 'b', 3) on conflict (id) do update set n = excluded.n, name = excluded.name`, id(), id(), id()+5)
	case 3:
		return fmt.Sprintf(`update rooms set n = n + 1 where %s`, where("id"))
	case 4:
		return fmt.Sprintf(`update rooms set id = id + 5 where id = %d`, id())
	case 5:
		return fmt.Sprintf(`delete from rooms where %s`, where("id"))
	case 6:
		return fmt.Sprintf(`insert into notes values (%d, '%s', '%s') on conflict (room, who) do update set body = excluded.body || notes.body`, id(), who(), body())
	case 7:
		return fmt.Sprintf(`update notes set who = '%s', body = '%s' where %s`, who(), body(), where("room"))
	case 8:
		return fmt.Sprintf(`delete from notes where %s`, where("room"))
	case 9, 10:
		return fmt.Sprintf(`insert into %s (id, k, body) select i, %d, '%s' from generate_series(%d, %d) i on conflict do nothing`, leaf, rapid.IntRange(1, 4).Draw(rt, "k"), body(), id(), id()+2)
	case 11:
		return fmt.Sprintf(`update %s set k = %d, n = 0 where %s`, leaf, rapid.SampledFrom([]int{2, 2, 1, 3, 4}).Draw(rt, "k"), where("id"))
	case 12:
		return fmt.Sprintf(`update %s set body = '%s' where %s`, leaf, body(), where("id"))
	case 13:
		return fmt.Sprintf(`delete from %s where %s`, leaf, where("id"))
	default:
		return rapid.SampledFrom([]string{`truncate notes`, `truncate rooms cascade`, `truncate p`, `truncate ` + leaf, `truncate p33, p3`, `truncate p33, p3`, `truncate p2, p`}).Draw(rt, "truncate")
	}
}

// Folding the log in id order rebuilds every attached table, row for row: random
// statements, savepoints rolled back, rows that move between topics and partitions, row
// triggers that write, cascades, writes straight into partitions, statements that fail.
func TestFoldProperty(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	attach := ""
	for _, table := range foldTables {
		attach += fmt.Sprintf(`select pgcast.attach('%s', topic => '%s'%s);`, table.name, table.template, table.options)
	}
	if _, err := conn.Exec(t.Context(), foldSchema+attach); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		if _, err := conn.Exec(t.Context(), `set pgcast.capture = off; truncate rooms, notes, p; truncate pgcast.event_log; reset pgcast.capture`); err != nil {
			rt.Fatal(err)
		}
		var script []string
		try := func(sql string) {
			script = append(script, sql)
			_, err := conn.Exec(t.Context(), sql)
			var pg *pgconn.PgError
			// Duplicate keys, wrong partitions and rows gone are the writer's own.
			if err != nil && (!errors.As(err, &pg) || !strings.HasPrefix(pg.Code, "23")) && pg.Code != "25P02" {
				rt.Fatalf("%s: %v", sql, err)
			}
		}
		for range rapid.IntRange(1, 4).Draw(rt, "transactions") {
			try("begin")
			for range rapid.IntRange(1, 5).Draw(rt, "statements") {
				if rapid.Bool().Draw(rt, "savepoint") {
					try("savepoint s")
					try(statement(rt))
					try(statement(rt))
					try("rollback to s")
				}
				try("savepoint f") // a statement that fails takes only itself back
				script = append(script, "?")
				sql := statement(rt)
				script[len(script)-1] = sql
				if _, err := conn.Exec(t.Context(), sql); err != nil {
					try("rollback to f")
				}
			}
			try(rapid.SampledFrom([]string{"commit", "commit", "rollback"}).Draw(rt, "end"))
		}
		want, got := tables(t.Context(), rt, conn), fold(t.Context(), rt, conn)
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("tables and folded log differ (-table +log):\n%s\nafter\n%s", diff, strings.Join(script, ";\n"))
		}
	})
}

// tables reads what is in the tables, as topic and row.
func tables(ctx context.Context, rt *rapid.T, conn *pgx.Conn) map[string]bool {
	found := map[string]bool{}
	for _, table := range foldTables {
		rows, _ := conn.Query(ctx, fmt.Sprintf(`select %s || ' ' || row_to_json(t.*)::text from %s t`, table.topic, table.name))
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			rt.Fatal(err)
		}
		for _, row := range list {
			found[row] = true
		}
	}
	return found
}

// fold does what a client does: each topic is a map from key to row.
func fold(ctx context.Context, rt *rapid.T, conn *pgx.Conn) map[string]bool {
	// room:1 is a row of rooms, room:1:ann one of notes.
	rows, _ := conn.Query(ctx, `
		select e.topic, e.event, coalesce(e.data::text, ''), k.columns,
			(select string_agg(coalesce(e.data->>c, ''), ' ') from unnest(k.columns) c), (select string_agg(coalesce(e.old->>c, ''), ' ') from unnest(k.columns) c)
		from pgcast.event_log e, lateral (select case when e.topic like 'k:%' then '{id,k}' when e.topic like '%:%:%' then '{room,who}' else '{id}' end::text[]) k (columns)
		order by e.id`)
	type row struct{ topic, key string }
	state := map[row]string{}
	var topic, event, data, key, old string
	var columns []string
	_, err := pgx.ForEachRow(rows, []any{&topic, &event, &data, &columns, &key, &old}, func() error {
		_, exists := state[row{topic, old}]
		switch event {
		case "created":
			if _, twice := state[row{topic, key}]; twice {
				rt.Errorf("created twice: %s %s", topic, data)
			}
			state[row{topic, key}] = data
		case "updated", "deleted":
			if !exists {
				rt.Errorf("%s what is not there: %s %s", event, topic, old)
			}
			delete(state, row{topic, old})
			if event == "updated" {
				state[row{topic, key}] = data
			}
		case "truncated":
			for r := range state {
				if r.topic == topic {
					delete(state, r)
				}
			}
		}
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
	folded := map[string]bool{}
	for r, data := range state {
		folded[r.topic+" "+data] = true
	}
	return folded
}
