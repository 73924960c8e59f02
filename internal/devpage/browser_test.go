package devpage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/server"
)

// world is a server with the page on a database of the test's own.
type world struct {
	db     *pgtest.DB
	listen string
	redis  string // its URL; without one the server keeps live state itself
	url    string
	stop   func()
}

// demoSchema is what pgcast dev's demo makes: the presets must fit it.
func demoSchema(t *testing.T, db *pgtest.DB) {
	t.Helper()
	sql, err := os.ReadFile(filepath.Join("..", "..", "cmd", "pgcast", "demo.sql"))
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, string(sql))
	db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'Good morning!'), (2, 'bob', 'Merged.'), (3, 'eva', 'Soup or salad?');
		insert into demo.cards (board_id, column_id, title) values (1, 1, 'Write the release notes'), (1, 2, 'Fix the flaky test')`)
}

func newWorld(t *testing.T, demo bool) *world {
	t.Helper()
	w := &world{db: pgtest.New(t, nil), listen: "127.0.0.1:0"}
	if demo {
		demoSchema(t, w.db)
	}
	w.start(t, demo)
	return w
}

func (w *world) start(t *testing.T, demo bool) {
	t.Helper()
	ready := make(chan string, 1)
	s, err := server.New(&server.Options{
		DatabaseURL: w.db.URL, Listen: w.listen, AdminListen: "127.0.0.1:0", DrainTimeout: 2 * time.Second,
		Live: server.LiveOptions{RedisURL: w.redis},
		Public: Handler(Options{Pool: w.db.Pool(t), Version: "v1.2.3", Demo: demo, Metrics: func() string { return "http://127.0.0.1:9187/metrics" },
			Console: func() string { return "http://127.0.0.1:9187/console/" }}),
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
		OnReady: func(listen, _ string) { ready <- listen },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err, ok := <-ended; ok && err != nil {
			t.Errorf("the server ended with: %v", err)
		}
		close(ended)
		w.stop = func() {}
	}
	t.Cleanup(func() { w.stop() })
	select {
	case w.listen = <-ready:
	case err := <-ended:
		t.Fatalf("the server did not start: %v", err)
	}
	w.url = "http://" + w.listen + "/"
}

// write goes on writing, a row at a time, until the test or the returned func ends it.
func (w *world) write(t *testing.T, every time.Duration) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	pool := w.db.Pool(t)
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := pool.Exec(ctx, `insert into demo.messages (room_id, author, body) values ($1, 'writer', $2)`,
				1+n%3, fmt.Sprint("message ", n)); err != nil && ctx.Err() == nil {
				t.Errorf("write: %v", err)
			}
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

// shot keeps a screenshot where PGCAST_SHOTS names a directory.
func shot(p *tab, name string) {
	if dir := os.Getenv("PGCAST_SHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), p.screenshot(), 0o644); err != nil {
			p.t.Error(err)
		}
	}
}

// isLive holds once the stream is subscribed.
const isLive = `document.querySelector('#state').dataset.kind === 'live'`

// ready opens the page and waits until it has what was in the log and its SQL box is filled.
func (w *world) ready(t *testing.T, c *chromium, query string, width, height int, media map[string]string) *tab {
	t.Helper()
	p := c.open(t, w.url+query, width, height, media)
	p.until(isLive)
	p.until(`document.querySelector('#sql-text').value && document.querySelector('#example').innerText`)
	head := eval[int](p, `fetch('/dev/head').then((r) => r.json()).then((h) => h.position)`)
	p.until(fmt.Sprintf(`Number(document.querySelector('#position').innerText.replaceAll(',', '')) >= %d`, head))
	return p
}

// preset clicks one of the examples and runs it, and waits for the answer.
func (p *tab) preset(name string) {
	p.t.Helper()
	eval[any](p, fmt.Sprintf(`[...document.querySelectorAll('#presets button')].find((b) => b.textContent === %q).click()`, name))
	p.run()
}

func (p *tab) run() {
	p.t.Helper()
	eval[any](p, `document.querySelector('#result').replaceChildren()`)
	// As a person does it: by the keyboard.
	eval[any](p, `document.querySelector('#sql-text').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', ctrlKey: true, cancelable: true }))`)
	p.until(`document.querySelector('#result').children.length && document.querySelector('#run').innerText.startsWith('Run')`)
}

func (p *tab) has(selector, want string) {
	p.t.Helper()
	if got := p.text(selector); !strings.Contains(got, want) {
		p.t.Errorf("%s shows %q, want %q in it", selector, got, want)
	}
}

func TestPage(t *testing.T) {
	c := startChromium(t)
	t.Run("SQL", func(t *testing.T) { testSQL(t, c) })
	t.Run("burst", func(t *testing.T) { testBurst(t, c) })
	t.Run("list", func(t *testing.T) { testList(t, c) })
	t.Run("cut", func(t *testing.T) { testCut(t, c) })
	t.Run("server gone", func(t *testing.T) { testServerGone(t, c) })
	t.Run("code", func(t *testing.T) { testCode(t, c) })
	t.Run("shell", func(t *testing.T) { testShell(t, c) })
	t.Run("without the demo", func(t *testing.T) { testNoDemo(t, c) })
	t.Run("looks", func(t *testing.T) { testLooks(t, c) })
	t.Run("two tabs", func(t *testing.T) { testTwoTabs(t, c) })
	t.Run("strangers", func(t *testing.T) { testStrangers(t, c) })
	t.Run("Redis gone", func(t *testing.T) { testRedisGone(t, c) })
	t.Run("modules", func(t *testing.T) { testModules(t, c) })
}

// Each preset runs, and its events arrive as they should.
func testSQL(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	p := w.ready(t, c, "", 1440, 900, nil)
	for _, preset := range []struct{ name, tag, row string }{
		{"Chat message", "INSERT 0 1", "room:1 created Hello from the page"},
		{"Update", "UPDATE 1", "room:1 updated HELLO FROM THE PAGE"},
		{"Delete", "DELETE 1", "room:1 deleted HELLO FROM THE PAGE"},
		{"Move a card", "UPDATE 1", "board:1 updated column_id"},
		{"publish()", "SELECT 1", `room:1 typing you`},
		{"Transaction", "COMMIT", `team cheer you`},
		{"Read the log", "SELECT 20", ""},
	} {
		before := eval[int](p, `Number(document.querySelector('#received').innerText)`)
		p.preset(preset.name)
		p.has("#result .tags", preset.tag)
		if preset.row == "" {
			continue
		}
		p.until(fmt.Sprintf(`Number(document.querySelector('#received').innerText) > %d`, before))
		parts := strings.SplitN(preset.row, " ", 3)
		p.until(fmt.Sprintf(`[...document.querySelectorAll('.row')].slice(0, 3).some((r) => r.querySelector('.topic').innerText === %q
			&& r.querySelector('.event').innerText.includes(%q) && r.querySelector('.fields').innerText.includes(%q)
			&& /^\d+(\.\d)?\s*m?s$/.test(r.querySelector('.latency').innerText))`, parts[0], parts[1], parts[2]))
	}
	// What an update has changed is marked, with the value it had.
	if got := eval[string](p, `[...document.querySelectorAll('.updated .changed')].map((f) => f.querySelector('.k').innerText + ' ' +
		f.querySelector('del').innerText + ' ' + f.querySelector('ins').innerText).find((s) => s.startsWith('body'))`); got != "body Hello from the page HELLO FROM THE PAGE" {
		t.Errorf("the changed column shows as %q", got)
	}
	p.until(`document.querySelector('#p50').innerText.includes('ms') && document.querySelector('#p99').innerText.includes('ms')`)

	// Nothing arrives of what was rolled back or is not captured.
	for _, name := range []string{"Rolled back", "Uncaptured"} {
		p.preset(name)
	}
	p.preset("Chat message")
	p.until(`document.querySelector('.row .fields').innerText.includes('Hello from the page')`)
	if eval[bool](p, `document.querySelector('#rows').innerText.includes('Nobody will ever see this')`) {
		t.Error("a rolled back row has arrived")
	}
	p.quiet()

	// Errors come in words, with the place.
	eval[any](p, `document.querySelector('#sql-text').value = "select 'ü' as ok;\nselect bodi from demo.messages"`)
	p.run()
	p.has("#result .problem", `column "bodi" does not exist`)
	p.has("#result .problem", "2 │ select bodi from demo.messages\n           ^")
	p.has("#result", "Nothing of it was kept")
	if got := eval[string](p, `(() => { const e = document.querySelector('#sql-text'); return e.value.slice(e.selectionStart, e.selectionEnd) })()`); got != "bodi" {
		t.Errorf("selected is %q", got)
	}
	eval[any](p, `document.querySelector('#sql-text').value = "begin; delete from demo.messages"`)
	p.run()
	p.has("#result", "was left open, so it was rolled back")
	p.quiet()
}

// Many rows at once: every one counts, few are in the document.
func testBurst(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	p := w.ready(t, c, "", 1440, 900, nil)
	before := eval[int](p, `Number(document.querySelector('#received').innerText)`)
	eval[any](p, `(() => {
		window.longest = 0
		let last = performance.now()
		const frame = (t) => { window.longest = Math.max(window.longest, t - last); last = t; requestAnimationFrame(frame) }
		requestAnimationFrame(frame)
	})()`)
	for range 3 {
		p.preset("500 rows")
	}
	p.until(fmt.Sprintf(`document.querySelector('#received').innerText.replace(',', '') === '%d'`, before+1500))
	p.until(`document.querySelector('.row .fields').textContent.includes('Row 500 of 500')`)
	if n := eval[int](p, `document.querySelectorAll('.row').length`); n > 300 {
		t.Errorf("%d rows are in the document", n)
	}
	if got := p.text("#missed") + " " + p.text("#doubled"); got != "0 0" {
		t.Errorf("missed and doubled: %s", got)
	}
	t.Logf("longest frame: %.0f ms", eval[float64](p, `window.longest`))
	p.quiet()
}

// Filter, pause, clear, keyboard.
func testList(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	p := w.ready(t, c, "", 1440, 900, nil)
	count := `document.querySelectorAll('.row').length`
	filter := func(text string) {
		eval[any](p, fmt.Sprintf(`(() => { const f = document.querySelector('#filter'); f.value = %q; f.dispatchEvent(new Event('input')) })()`, text))
	}
	w.db.Exec(t, `select pgcast.publish('a:b', 'one'), pgcast.publish('a:b:c', 'two'), pgcast.publish('a', 'three'), pgcast.publish('x', 'four', '"needle"')`)
	p.until(`document.querySelector('#rows').innerText.includes('needle')`)
	for pattern, want := range map[string]string{"a:*": "one", "a:**": "one two", "*": "three four", "needle": "four", "**": "one two three four", "[": ""} {
		filter(pattern)
		p.until(fmt.Sprintf(`(() => { const shown = [...document.querySelectorAll('.row .event')].map((e) => e.innerText.slice(1).trim())
			return ['one', 'two', 'three', 'four'].filter((n) => shown.includes(n)).join(' ') === %q })()`, want))
	}
	filter("")
	p.until(count + ` > 5`)

	p.click("#pause")
	rows := eval[int](p, count)
	w.db.Exec(t, `select pgcast.publish('a:b', 'unseen')`)
	p.until(`document.querySelector('#newer').checkVisibility() && document.querySelector('#newer').innerText.startsWith('1 newer')`)
	if now := eval[int](p, count); now != rows {
		t.Errorf("paused, the list went from %d to %d rows", rows, now)
	}
	p.click("#pause")
	p.until(`document.querySelector('.row .event').innerText.includes('unseen') && !document.querySelector('#newer').checkVisibility()`)

	// By the keyboard: to the newest row, and open it.
	for _, key := range []string{"ArrowDown", "Enter"} {
		eval[any](p, fmt.Sprintf(`(document.querySelector('#rows').contains(document.activeElement) ? document.activeElement : document.querySelector('#rows'))
			.dispatchEvent(new KeyboardEvent('keydown', { key: %q, bubbles: true, cancelable: true }))`, key))
	}
	p.until(`document.querySelector('.row.open .whole').innerText.includes('"event": "unseen"')`)
	p.until(`document.activeElement.getAttribute('aria-expanded') === 'true'`)
	w.db.Exec(t, `select pgcast.publish('a:b', 'later')`)
	p.until(`document.querySelector('#newer').checkVisibility()`) // an open row holds the list
	p.click("#newer")
	p.until(`document.querySelector('.row .event').innerText.includes('later')`)

	p.click("#clear")
	if n := eval[int](p, count); n != 0 {
		t.Errorf("cleared, %d rows are left", n)
	}
	p.quiet()
}

// While rows keep coming, the wire is cut, and nothing is lost.
func testCut(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	w.write(t, 15*time.Millisecond)
	p := w.ready(t, c, "?cut=3", 1440, 900, nil)
	p.until(`Number(document.querySelector('#received').innerText) > 20`)
	// A cut is over soon: what is shown in it is taken down as it comes.
	eval[any](p, `(() => {
		window.shown = []
		new MutationObserver(() => window.shown.push(document.querySelector('#state').dataset.kind + ': ' + document.querySelector('#cut-result').innerText))
			.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['data-kind'] })
	})()`)
	for range 2 {
		eval[any](p, `document.querySelector('#cut-result').removeAttribute('data-kind')`)
		p.click("#cut")
		p.until(`['good', 'bad'].includes(document.querySelector('#cut-result').dataset.kind)`)
		p.has("#cut-result", "missed 0, doubled 0, resumed from #")
		if !regexp.MustCompile(`[1-9][\d,]* events written meanwhile, all here [\d,]+ ms after`).MatchString(p.text("#cut-result")) {
			t.Errorf("the result is %q", p.text("#cut-result"))
		}
		p.until(isLive)
		shot(p, "cut")
	}
	if !eval[bool](p, `window.shown.some((s) => /^cut: .*[1-9][\d,]* events written by others so far/s.test(s))`) {
		t.Errorf("meanwhile it showed %q", eval[[]string](p, `[...new Set(window.shown)].slice(0, 20)`))
	}
	if got := p.text("#missed") + " " + p.text("#doubled"); got != "0 0" {
		t.Errorf("missed and doubled: %s", got)
	}
	if eval[int](p, `document.querySelectorAll('.latency.late').length`) == 0 {
		t.Error("no event shows that it came late")
	}
	p.quiet()
}

// The server goes and comes back; the page says so, and resumes.
func testServerGone(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	p := w.ready(t, c, "", 1440, 900, nil)
	w.db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'before')`)
	p.until(`document.querySelector('#rows').innerText.includes('before')`)
	p.quiet()
	w.stop()
	p.until(`/The server is (gone|going away)\. Trying again in \d+ s\./.test(document.querySelector('#state').innerText)`)
	p.until(`'stale' in document.querySelector('#people').dataset`)
	p.run()
	p.has("#result .problem", "The server did not answer.")
	shot(p, "gone")
	w.db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'in between')`)
	w.start(t, true)
	p.until(isLive)
	p.until(`document.querySelector('#rows').innerText.includes('in between')`)
	p.until(`document.querySelector('#people').innerText.includes('only you') && !('stale' in document.querySelector('#people').dataset)`)
	if got := p.text("#missed") + " " + p.text("#doubled"); got != "0 0" {
		t.Errorf("missed and doubled: %s", got)
	}
}
