package bench

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// idle measures the processor time of a server that nobody uses, and of one that a
// transaction left open keeps from sleeping.
func idle(ctx context.Context, w *world) ([]Row, error) {
	b, err := w.bed(ctx, true, schema)
	if err != nil {
		return nil, err
	}
	defer b.close()
	rounds := w.opts.Rounds
	if w.opts.Full {
		rounds = 1 // ten minutes each
	}
	names := []string{"nothing happens", "a writer's transaction is left open"}
	server, postgres := make([][]float64, 2), make([][]float64, 2)
	for range rounds {
		for i := range names {
			if i == 1 {
				if err := b.leaveOpen(ctx); err != nil {
					return nil, err
				}
			}
			cpu, pg, err := b.idleFor(ctx, w.sizes.idle)
			if err != nil {
				return nil, err
			}
			if _, err := b.conn.Exec(ctx, "rollback"); err != nil { // of nothing: a warning
				return nil, err
			}
			server[i] = append(server[i], cpu)
			postgres[i] = append(postgres[i], pg)
			w.say("%s: server %.2f %%, Postgres %.2f %% of one core", names[i], cpu, pg)
		}
	}
	var rows []Row
	for i, name := range names {
		rows = append(rows, row(name, "server CPU", "% of a core", server[i], nil))
		if w.cluster != nil {
			rows = append(rows, row(name, "Postgres CPU", "% of a core", postgres[i], nil))
		}
	}
	return rows, nil
}

// leaveOpen begins a transaction that keeps the sequencer awake: one that wrote while it
// was. A writer who meets it asleep rings at its commit and costs nothing until then.
func (b *bed) leaveOpen(ctx context.Context) error {
	other, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer other.Close(context.WithoutCancel(ctx))
	if _, err := b.conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	for range 1000 {
		var holds bool
		if _, err := other.Exec(ctx, "select pgcast.publish('other', 'bench')"); err != nil { // it wakes
			return err
		}
		if _, err := b.conn.Exec(ctx, "insert into bench.attached (room, body) values (1, 'x')"); err != nil {
			return err
		}
		if err := b.conn.QueryRow(ctx, `select exists (select from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'
			and mode = 'ShareLock')`).Scan(&holds); err != nil || holds {
			return err
		}
	}
	b.note("the open transaction never met the sequencer awake, so it kept nobody from sleeping")
	return nil
}

// idleFor gives the processor time of the server and of all of Postgres over a while, as
// a share of one core in percent. Of a cluster that is not ours it cannot be seen.
func (b *bed) idleFor(ctx context.Context, d time.Duration) (server, postgres float64, err error) {
	postgresCPU := func() (time.Duration, error) {
		if b.cluster == nil {
			return 0, nil
		}
		return cpuOfFamily(b.cluster.PID())
	}
	// What came before is to be done with.
	if err := pause(ctx, min(d, time.Second)); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	pg, err := postgresCPU()
	if err != nil {
		return 0, 0, err
	}
	cpu, err := b.server.cpu(func() error { return pause(ctx, d) })
	if err != nil {
		return 0, 0, err
	}
	after, err := postgresCPU()
	share := func(used time.Duration) float64 { return 100 * used.Seconds() / time.Since(began).Seconds() }
	return share(cpu), share(after - pg), err
}
