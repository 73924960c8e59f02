package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Load is the process that makes the load: it does what it is asked, a line at a time,
// until nobody asks any more.
func Load(ctx context.Context, in io.Reader, out io.Writer) error {
	l := &loader{}
	defer func() { l.swarm.close() }()
	jobs := map[string]job{"write": writeJob, "copy": copyJob, "listen": listenJob}
	maps.Copy(jobs, swarmJobs())
	lines := bufio.NewReader(in)
	enc := json.NewEncoder(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		var q ask
		if err == nil {
			err = json.Unmarshal(line, &q)
		}
		if err != nil {
			return fmt.Errorf("read what to do: %w", err)
		}
		var a answer
		if do := jobs[q.Do]; do == nil {
			a.Error = "it is not something this load does"
		} else if is, err := do(ctx, l, q.With); err != nil {
			a.Error = err.Error()
		} else if a.Is, err = json.Marshal(is); err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
}

// loader is the load's state between two jobs.
type loader struct{ swarm *swarm }

type job func(context.Context, *loader, json.RawMessage) (any, error)

// writing asks for writers, each committing one row after the other.
type writing struct {
	URL       string
	Table     string // rows are inserted into it, unless there is a
	Statement string // with a topic's number for $1 and the body for $2
	Writers   int
	Topics    int
	Seconds   float64
	Channel   string // to listen on meanwhile
}

type written struct {
	Commits int64
	Seconds float64
	Heard   int64
}

func writeJob(ctx context.Context, _ *loader, with json.RawMessage) (any, error) {
	var w writing
	if err := json.Unmarshal(with, &w); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var conns []*pgx.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close(context.Background())
		}
	}()
	statement := w.Statement
	if statement == "" {
		statement = "insert into " + w.Table + " (room, body) values ($1, $2)"
	}
	for range w.Writers {
		conn, err := pgx.Connect(ctx, w.URL)
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
		if _, err := conn.Prepare(ctx, "write", statement); err != nil {
			return nil, err
		}
	}
	var heard atomic.Int64
	if w.Channel != "" {
		conn, err := listenOn(ctx, w.URL, w.Channel)
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() {
			for {
				if _, err := conn.WaitForNotification(ctx); err != nil {
					return
				}
				heard.Add(1)
			}
		})
	}
	var commits atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, w.Writers)
	began := time.Now()
	end := began.Add(time.Duration(w.Seconds * float64(time.Second)))
	for i, conn := range conns[:w.Writers] {
		wg.Go(func() {
			for n := i; time.Now().Before(end); n += w.Writers {
				if _, err := conn.Exec(ctx, "write", 1+n*7919%w.Topics, body); err != nil {
					errs <- err
					return
				}
				commits.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	select {
	case err := <-errs:
		return nil, err
	default:
		return written{commits.Load(), took, heard.Load()}, nil
	}
}

// body is what every row holds beside its numbers: about 100 bytes.
const body = "The quick brown fox jumps over the lazy dog while nobody in the room is looking, and then sleeps."

func listenOn(ctx context.Context, url, channel string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "listen "+channel)
	return conn, err
}

// copying asks for one COPY.
type copying struct {
	URL    string
	Table  string
	Rows   int
	Topics int
}

func copyJob(ctx context.Context, _ *loader, with json.RawMessage) (any, error) {
	var c copying
	if err := json.Unmarshal(with, &c); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, c.URL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	r, out := io.Pipe()
	go func() {
		b := bufio.NewWriterSize(out, 64<<10)
		var line []byte
		for i := range c.Rows {
			line = append(strconv.AppendInt(line[:0], int64(1+i%c.Topics), 10), "\t"+body+"\n"...)
			if _, err := b.Write(line); err != nil {
				return // COPY has ended, and says why
			}
		}
		_ = out.CloseWithError(b.Flush())
	}()
	began := time.Now()
	_, err = conn.PgConn().CopyFrom(ctx, r, "copy "+c.Table+" (room, body) from stdin")
	_ = r.Close()
	return written{Commits: int64(c.Rows), Seconds: time.Since(began).Seconds()}, err
}

// paced writes n rows at a rate and gives the moments their commits were acknowledged,
// counted from began.
func paced(ctx context.Context, conn *pgx.Conn, statement string, args func(i int) []any, rate, n int, began time.Time) ([]time.Duration, error) {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	acked := make([]time.Duration, 0, n)
	for i := range n {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
		if _, err := conn.Exec(ctx, statement, args(i)...); err != nil {
			return nil, err
		}
		acked = append(acked, time.Since(began))
	}
	return acked, nil
}

func (p *pacing) count() int { return max(1, int(p.Seconds*float64(p.Rate))) }

// listenJob is the bare loop: LISTEN, and a row trigger that notifies.
func listenJob(ctx context.Context, _ *loader, with json.RawMessage) (any, error) {
	var p pacing
	if err := json.Unmarshal(with, &p); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Seconds*float64(time.Second))+time.Minute)
	defer cancel()
	reader, err := listenOn(ctx, p.URL, p.Channel)
	if err != nil {
		return nil, err
	}
	defer reader.Close(context.WithoutCancel(ctx))
	writer, err := pgx.Connect(ctx, p.URL)
	if err != nil {
		return nil, err
	}
	defer writer.Close(context.WithoutCancel(ctx))

	began, n := time.Now(), p.count()
	var heard []time.Duration
	var hearing error
	var wg sync.WaitGroup
	wg.Go(func() {
		for len(heard) < n && hearing == nil {
			if _, hearing = reader.WaitForNotification(ctx); hearing == nil {
				heard = append(heard, time.Since(began))
			}
		}
	})
	acked, err := paced(ctx, writer, "insert into "+p.Table+" (room, body) values (1, $1)", func(int) []any { return []any{body} }, p.Rate, n, began)
	if err != nil {
		cancel()
	}
	wg.Wait()
	if err == nil {
		err = hearing
	}
	if err != nil {
		return nil, err
	}
	late := make([]float64, n)
	for i := range late {
		late[i] = milliseconds(heard[i] - acked[i])
	}
	return lateness{Events: n, P50: quantile(late, 0.5), P99: quantile(late, 0.99)}, nil
}
