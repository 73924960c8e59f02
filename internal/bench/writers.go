package bench

import (
	"context"
	"fmt"
)

// The tables differ in their triggers only. The log that the event-row-only trigger
// writes to is the real one's twin, so that nobody sequences its events; its trigger is
// the least that one could write by hand.
const schema = `
create schema bench;
create table bench.bare (id bigint generated always as identity primary key, room int not null, body text not null);
create table bench.attached (like bench.bare including all);
create table bench.event_row (like bench.bare including all);
create table bench.notify (like bench.bare including all);
select pgcast.attach('bench.attached', topic => 'room:{room}');
create table bench.event_log (like pgcast.event_log including all);
create function bench.event_row() returns trigger language plpgsql as $$
begin
  insert into bench.event_log (topic, event, data) values ('room:' || new.room, 'created', row_to_json(new));
  return null;
end $$;
create trigger event_row after insert on bench.event_row for each row execute function bench.event_row();
create function bench.notify() returns trigger language plpgsql as $$
begin
  perform pg_notify('bench', row_to_json(new)::text);
  return null;
end $$;
create trigger notify after insert on bench.notify for each row execute function bench.notify();`

var variants = []string{"bare", "attached", "event_row", "notify"}

// writers commits one row a transaction as fast as it goes, by some writers at a time,
// into each table in turn. The server sequences all the while.
func writers(ctx context.Context, w *world) ([]Row, error) {
	b, err := w.bed(ctx, true, schema)
	if err != nil {
		return nil, err
	}
	defer b.close()
	var rows []Row
	one := map[int][]float64{} // attached, on one topic
	for _, topics := range []int{1, w.sizes.topics} {
		for _, n := range w.sizes.writers {
			got := map[string][]float64{}
			var drained []float64
			for round := range w.opts.Rounds {
				for i := range variants {
					v := variants[(i+round)%len(variants)]
					b.checkpoint(ctx)
					job := writing{URL: b.url, Table: "bench." + v, Writers: n, Topics: topics, Seconds: w.opts.Duration.Seconds()}
					if v == "notify" {
						job.Channel = "bench"
					}
					is, err := call[written](ctx, b.load, "write", job)
					if err != nil {
						return rows, err
					}
					got[v] = append(got[v], float64(is.Commits)/is.Seconds)
					if v == "attached" {
						d, err := b.sequenced(ctx)
						if err != nil {
							return rows, err
						}
						drained = append(drained, milliseconds(d))
					}
				}
			}
			name := fmt.Sprintf("%s, %s", plural(n, "writer"), plural(topics, "topic"))
			w.say("%s: bare %.0f, attached %.0f, event row %.0f, notify %.0f commits/s", name, quantile(got["bare"], 0.5),
				quantile(got["attached"], 0.5), quantile(got["event_row"], 0.5), quantile(got["notify"], 0.5))
			for _, v := range variants {
				rows = append(rows, row(name, v, "commits/s", got[v], nil))
			}
			rows = append(rows, row(name, "all sequenced after the last commit", "ms", drained, nil))
			var bare, notify *Target
			if n == 8 && topics == w.sizes.topics {
				bare = atLeast(0.7)
			}
			if n >= 8 {
				notify = atLeast(1.6)
			}
			rows = append(rows,
				row(name, "attached / event row only", "", ratios(got["attached"], got["event_row"]), atLeast(0.9)),
				row(name, "attached / bare", "", ratios(got["attached"], got["bare"]), bare),
				row(name, "attached / notify", "", ratios(got["attached"], got["notify"]), notify))
			if topics == 1 {
				one[n] = got["attached"]
			} else {
				// Not of the same turns: the median of one against that of the other.
				r := quantile(one[n], 0.5) / quantile(got["attached"], 0.5)
				rows = append(rows, row(plural(n, "writer"), "attached, one topic / many", "", []float64{r}, atLeast(0.85)))
			}
		}
	}
	return rows, nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
