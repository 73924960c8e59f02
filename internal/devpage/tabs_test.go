package devpage

import (
	"strings"
	"testing"
)

// The example works as it stands on the page.
func testCode(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	p := w.ready(t, c, "?tab=code", 1440, 900, nil)
	_, source := get(t, w.url+"dev/example.html")
	if got := p.text("#example"); strings.TrimSpace(got) != strings.TrimSpace(source) {
		t.Errorf("the page shows\n%s\nand serves\n%s", got, source)
	}
	p.click("#run-example")
	list := `document.querySelector('iframe').contentDocument.querySelector('#list').textContent`
	p.until(`document.querySelector('iframe')?.contentDocument?.querySelector('#list')`)
	// It starts at the head of the moment it is subscribed, which it does not tell.
	for n := 0; eval[string](p, list) == ""; n++ {
		w.db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'to the example')`)
		eval[any](p, `new Promise((done) => setTimeout(done, 50))`)
		if n > 200 {
			t.Fatal("no event arrives in the example")
		}
	}
	p.until(`/^#\d+ created \{.*to the example/.test(` + list + `)`)
	shot(p, "code")
	p.click("#run-example")
	p.until(`!document.querySelector('iframe')`)
	p.quiet()

	// In a tab of its own, across a restart of the server.
	own := c.open(t, w.url+"dev/example.html", 800, 600, nil)
	for n := 0; eval[string](own, `list.textContent`) == ""; n++ {
		w.db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'to its own tab')`)
		eval[any](own, `new Promise((done) => setTimeout(done, 50))`)
		if n > 200 {
			t.Fatal("no event arrives in the example's own tab")
		}
	}
	own.quiet()
	w.stop()
	w.db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'in between')`)
	w.start(t, true)
	w.db.Exec(t, `insert into demo.messages (room_id, author, body) values (1, 'ann', 'after it')`)
	own.until(`list.textContent.includes('after it')`)
	seqs := eval[[]int](own, `[...list.textContent.matchAll(/^#(\d+)/gm)].map((m) => Number(m[1])).reverse()`)
	for i := 1; i < len(seqs); i++ {
		if seqs[i] != seqs[i-1]+1 {
			t.Fatalf("the example got %v", seqs)
		}
	}
}

func testShell(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	p := w.ready(t, c, "", 1440, 900, nil)
	eval[any](p, `document.querySelector('#tab-sql').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }))`)
	p.until(`document.activeElement.id === 'tab-shell' && document.querySelector('#shell').checkVisibility()`)
	for _, want := range []string{"pgcast tail 'room:*'", "pgcast sql ", "pgcast publish room:1 typing", "pgcast attached", "curl -s http://127.0.0.1:9187/metrics", "pgcast attach public.orders"} {
		p.has("#shell", want)
	}
	p.has("#version", "v1.2.3")
	shot(p, "shell")
	p.quiet()
}

func testNoDemo(t *testing.T, c *chromium) {
	w := newWorld(t, false)
	p := w.ready(t, c, "", 1440, 900, nil)
	if !eval[bool](p, `document.querySelector('#empty').checkVisibility()`) {
		t.Error("an empty log shows nothing")
	}
	for _, name := range []string{"A table", "Insert", "Update", "Delete", "500 rows", "publish()", "Transaction", "Rolled back"} {
		p.preset(name)
		if eval[bool](p, `document.querySelector('#result .problem') !== null`) {
			t.Errorf("%s: %s", name, p.text("#result"))
		}
	}
	p.until(`Number(document.querySelector('#received').innerText) >= 507`)
	p.quiet()
}
