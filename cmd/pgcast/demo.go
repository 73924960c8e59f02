package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed demo.sql
var demoSQL string

// makeDemo makes the demo's schema, or brings it up to date. A schema of the same name
// that is somebody's own is left alone.
func makeDemo(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var foreign bool
		err := tx.QueryRow(ctx, `select exists (select from pg_namespace where nspname = 'demo'
			and coalesce(obj_description(oid, 'pg_namespace'), '') not like 'Made by pgcast dev%')`).Scan(&foreign)
		if err != nil {
			return fmt.Errorf("look for schema demo: %w", err)
		}
		if foreign {
			return invalid("start with --no-demo, or use another database", "this database has a schema demo that is not pgcast's")
		}
		// Without arguments pgx sends it as it is, with all its statements.
		if _, err := tx.Conn().PgConn().Exec(ctx, "set local client_min_messages = warning;"+demoSQL).ReadAll(); err != nil {
			return fmt.Errorf("make schema demo: %w", err)
		}
		return nil
	})
}

// demo writes now and then to the demo's tables, as a few people at work would.
type demo struct {
	pool *pgxpool.Pool
	log  *slog.Logger
}

// A few writes a second, at uneven times.
const demoPause = 350 * time.Millisecond

// run writes until ctx ends. What fails is logged and tried again: the database may be
// somebody's own, and may be restarted.
func (d *demo) run(ctx context.Context) error {
	failed := 0
	for {
		pause := demoPause/2 + rand.N(demoPause)
		err := d.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failed++
			pause = min(time.Duration(failed)*time.Second, 10*time.Second)
			if failed == 1 {
				d.log.Warn("the demo cannot write, will try again", "error", err)
			}
		default:
			failed = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// demoActs are what the people do, each with how often in a hundred.
var demoActs = []struct {
	often int
	act   func(d *demo, ctx context.Context) error
}{
	{45, (*demo).say}, {8, (*demo).correct}, {6, (*demo).takeBack},
	{25, (*demo).move}, {8, (*demo).estimate}, {8, (*demo).plan},
}

func (d *demo) step(ctx context.Context) error {
	n := rand.N(100)
	for _, a := range demoActs {
		if n -= a.often; n < 0 {
			return a.act(d, ctx)
		}
	}
	return nil
}

func (d *demo) exec(ctx context.Context, sql string, args ...any) error {
	_, err := d.pool.Exec(ctx, sql, args...)
	return err
}

// say writes a message, and clears away what has scrolled out of sight.
func (d *demo) say(ctx context.Context) error {
	room := 1 + rand.N(3)
	err := d.exec(ctx, `insert into demo.messages (room_id, author, body) values ($1, $2, $3)`, room, one(demoPeople), one(demoLines))
	if err != nil {
		return err
	}
	return d.exec(ctx, `delete from demo.messages where room_id = $1 and id <
		(select id from demo.messages where room_id = $1 order by id desc offset 40 limit 1)`, room)
}

func (d *demo) correct(ctx context.Context) error {
	return d.exec(ctx, `update demo.messages set body = rtrim(body, '.!?') || $1, edited_at = now()
		where id = (select id from demo.messages where edited_at is null order by id desc offset $2 limit 1)`,
		one([]string{" :)", "!", ", I mean it.", "…"}), rand.N(6))
}

func (d *demo) takeBack(ctx context.Context) error {
	return d.exec(ctx, `delete from demo.messages where id = (select id from demo.messages order by id desc offset $1 limit 1)`, 2+rand.N(20))
}

// move takes a card one column on; a card that has been done for long leaves the board.
func (d *demo) move(ctx context.Context) error {
	tag, err := d.pool.Exec(ctx, `update demo.cards c set moved_at = now(), assignee = coalesce(assignee, $1),
			column_id = (select id from demo.columns n where n.board_id = c.board_id and n.place > o.place order by n.place limit 1)
		from demo.columns o
		where o.id = c.column_id and c.id = (select id from demo.cards where column_id <> 4 order by random() limit 1)`, one(demoPeople))
	if err != nil || tag.RowsAffected() > 0 {
		return errors.Join(err, d.exec(ctx, `delete from demo.cards where id in
			(select id from demo.cards where column_id = 4 order by moved_at desc offset 6)`))
	}
	return d.plan(ctx)
}

func (d *demo) estimate(ctx context.Context) error {
	return d.exec(ctx, `update demo.cards set points = $1, assignee = $2
		where id = (select id from demo.cards where column_id < 3 order by random() limit 1)`, one([]int{1, 2, 3, 5, 8}), one(demoPeople))
}

// plan adds a card while the board has room.
func (d *demo) plan(ctx context.Context) error {
	return d.exec(ctx, `insert into demo.cards (board_id, column_id, title, points)
		select 1, 1, $1, $2 where (select count(*) from demo.cards where column_id <> 4) < 14`, one(demoTasks), 1+rand.N(5))
}

func one[T any](list []T) T { return list[rand.N(len(list))] }

var demoPeople = []string{"ann", "bob", "chloe", "dmitri", "eva", "farid"}

var demoLines = []string{
	"Good morning!", "The build is green again.", "Who is in for lunch at twelve?", "I will look at it now.",
	"Can somebody review my change?", "Merged, thank you.", "That one was hard to find.", "The coffee machine is fixed.",
	"Shall we talk about it at the stand-up?", "It works on my machine.", "Deploying in five minutes.", "Deployed.",
	"Nice!", "The graph looks flat, as it should.", "Does anybody know where the log went?", "Found it.",
	"Soup or salad?", "I wrote it down in the docs.", "The test has caught it.", "One more, and then I go home.",
}

var demoTasks = []string{
	"Write the release notes", "Upgrade the database", "Fix the flaky test", "Dark mode for the settings page",
	"Measure start-up time", "Remove the old importer", "Search by author", "Keyboard shortcuts",
	"Rotate the certificates", "Explain the error on sign-in", "Trim the docker image", "Rate limits for the API",
	"Export as CSV", "Update the screenshots", "Faster cold start", "Welcome mail",
}
