package devpage

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/redistest"
)

// others are the names that a tab shows beside its own.
const others = `[...document.querySelectorAll('#who-list li')].filter((li) => !li.querySelector('.note')).map((li) => li.querySelector('.name').textContent).join()`

// self gives the name a tab has made up, once it has joined.
func (p *tab) self() string {
	p.t.Helper()
	p.until(`document.querySelector('#who-list .me + .name')`)
	return eval[string](p, `document.querySelector('#who-list .me + .name').textContent`)
}

// move moves the mouse to a share of an element's box.
func (p *tab) move(selector string, x, y float64) {
	p.t.Helper()
	at := eval[[]float64](p, fmt.Sprintf(`(() => { const b = document.querySelector(%q).getBoundingClientRect(); return [b.x + %g * b.width, b.y + %g * b.height] })()`, selector, x, y))
	p.do("Input.dispatchMouseEvent", map[string]any{"type": "mouseMoved", "x": at[0], "y": at[1]}, nil)
}

// pointsAt holds once the only cursor shown points at a share of an element's box.
func pointsAt(selector string, x, y float64) string {
	return fmt.Sprintf(`(() => {
		const cursors = document.querySelectorAll('.cursor')
		if (cursors.length !== 1 || cursors[0].hidden) return false
		const b = document.querySelector(%q).getBoundingClientRect()
		const at = cursors[0].getBoundingClientRect()
		return Math.abs(at.x - b.x - %g * b.width) < 2 && Math.abs(at.y - b.y - %g * b.height) < 2
	})()`, selector, x, y)
}

const (
	colourOfSelf   = `document.querySelector('#people .me').style.getPropertyValue('--who')`
	colourOfCursor = `document.querySelector('.cursor').style.getPropertyValue('--who')`
)

// Two tabs are two people, who see each other and each other's pointer.
func testTwoTabs(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	w.write(t, 300*time.Millisecond)
	one := w.ready(t, c, "", 1280, 800, nil)
	ann := one.self()
	one.until(`document.querySelector('#people').innerText.includes('only you')`)
	const boxes = `['.top', '.brand', '#state', '#theme', '.tabs', '.figures', '.tools', '.heads'].map((s) => document.querySelector(s).getBoundingClientRect())
		.map((b) => [b.x, b.y, b.width, b.height].join()).join(' ')`
	alone := eval[string](one, boxes)
	two := w.ready(t, c, "?cut=1", 390, 700, map[string]string{"prefers-color-scheme": "dark", "prefers-reduced-motion": "reduce"})
	bob := two.self()
	if ann == bob || eval[string](one, colourOfSelf) == eval[string](two, colourOfSelf) {
		t.Errorf("%s and %s are to be told apart by their colours", ann, bob)
	}
	one.until(fmt.Sprintf(`%s === %q && document.querySelector('#people').innerText.includes('2 here')`, others, bob))
	two.until(fmt.Sprintf(`%s === %q && document.querySelectorAll('.faces .face').length === 2`, others, ann))
	one.until(fmt.Sprintf(`document.querySelector('#said').textContent === %q`, bob+" is here."))
	one.until(fmt.Sprintf(`document.querySelector('#people').getAttribute('aria-label') === %q`, "2 here: "+ann+" (you), "+bob))

	// In windows of such different sizes the pointers are at the same things.
	for _, at := range []struct {
		part string
		x, y float64
	}{{".figures", 0.5, 0.5}, {".tools", 0.9, 0.25}, {"#rows", 0.3, 0.4}} {
		two.move(at.part, at.x, at.y)
		one.until(pointsAt(at.part, at.x, at.y))
		one.move(at.part, at.x, 1-at.y)
		two.until(pointsAt(at.part, at.x, 1-at.y))
	}
	one.has(".cursor", bob)
	two.has(".cursor", ann)
	if eval[string](one, colourOfCursor) != eval[string](two, colourOfSelf) {
		t.Errorf("the cursor and the face of %s differ in colour", bob)
	}
	if now := eval[string](one, boxes); now != alone {
		t.Errorf("the page has moved when somebody came, from %s to %s", alone, now)
	}
	for p, want := range map[*tab]string{one: "0.09s, 0.4s", two: "0s"} {
		if got := eval[string](p, `getComputedStyle(document.querySelector('.cursor')).transitionDuration`); got != want {
			t.Errorf("a cursor glides for %s, want %s", got, want)
		}
	}
	if !eval[bool](one, `(() => { const at = document.querySelector('.cursor').getBoundingClientRect(); return document.elementFromPoint(at.x + 3, at.y + 3).closest('.cursors') === null })()`) {
		t.Error("a cursor is in the way of the mouse")
	}
	for name, p := range map[string]*tab{"two-tabs-wide": one, "two-tabs-phone": two} {
		p.do("Page.bringToFront", nil, nil)
		if sticks := eval[[]string](p, sticksOut); len(sticks) > 0 {
			t.Errorf("wider than the window: %v", sticks)
		}
		shot(p, name)
		p.click("#people")
		if pale := eval[[]string](p, tooPale); len(pale) > 0 {
			t.Errorf("too little contrast: %v", pale)
		}
		shot(p, name+"-names")
		p.click("#people")
	}
	one.move("#sql-text", 0.5, 0.5) // it leaves the stream
	two.until(`document.querySelectorAll('.cursor').length === 0`)

	two.do("Emulation.setTouchEmulationEnabled", map[string]any{"enabled": true}, nil)
	two.do("Input.dispatchTouchEvent", map[string]any{"type": "touchStart", "touchPoints": []map[string]any{{"x": 195, "y": 600}}}, nil)
	two.do("Input.dispatchTouchEvent", map[string]any{"type": "touchEnd", "touchPoints": []any{}}, nil)
	one.until(pointsAt("#rows", 0.5, eval[float64](two, `(() => { const b = document.querySelector('#rows').getBoundingClientRect(); return (600 - b.y) / b.height })()`)))
	one.until(`document.querySelectorAll('.cursor').length === 0`)
	two.do("Emulation.setTouchEmulationEnabled", map[string]any{"enabled": false}, nil)

	// Who loses his connection, or reloads, stays who he is and is not seen to go.
	eval[any](one, fmt.Sprintf(`(() => {
		window.gone = 0
		new MutationObserver(() => { if (%s !== %q) window.gone++ }).observe(document.querySelector('#who-list'), { childList: true })
	})()`, others, bob))
	one.move("#rows", 0.5, 0.5)
	two.until(pointsAt("#rows", 0.5, 0.5))
	two.click("#cut")
	two.until(`document.querySelectorAll('.cursor').length === 0 && 'stale' in document.querySelector('#people').dataset`)
	two.until(`document.querySelector('#cut-result').dataset.kind === 'good' && !('stale' in document.querySelector('#people').dataset)`)
	two.until(pointsAt("#rows", 0.5, 0.5)) // where it was before
	two.do("Page.reload", nil, nil)
	<-two.loaded
	if now := two.self(); now != bob {
		t.Errorf("reloaded, %s is %s", bob, now)
	}
	two.until(fmt.Sprintf(`%s === %q`, others, ann))
	two.move("#rows", 0.6, 0.6)
	one.until(pointsAt("#rows", 0.6, 0.6))
	if n := eval[int](one, `window.gone`); n != 0 {
		t.Errorf("while %s reconnected and reloaded he was away %d times", bob, n)
	}

	// A tab that was opened with a copy of this one's storage is somebody else.
	eval[any](one, `void (window.copy = open(location.href))`)
	one.until(fmt.Sprintf(`%s.split(',').length === 2 && !%s.split(',').includes(%q)`, others, others, ann))
	eval[any](one, `copy.close()`)

	two.close()
	one.until(fmt.Sprintf(`document.querySelectorAll('.cursor').length === 0 && %s === ''`, others))
	one.until(`document.querySelector('#people').innerText.includes('only you')`)
	one.quiet()
}

// While Redis is away the page says so, and goes on.
func testRedisGone(t *testing.T, c *chromium) {
	redis := redistest.Start(t)
	w := &world{db: pgtest.New(t, nil), listen: "127.0.0.1:0", redis: redis.URL}
	demoSchema(t, w.db)
	w.start(t, true)
	p := w.ready(t, c, "", 1280, 800, nil)
	me := p.self()
	p.quiet()
	if eval[bool](p, `document.querySelector('#degraded').checkVisibility()`) {
		t.Error("nothing is away, and the page says: " + p.text("#degraded"))
	}
	redis.Kill()
	p.until(`document.querySelector('#degraded').checkVisibility() && document.querySelector('#degraded').innerText.startsWith('Redis is away')`)
	if pale := eval[[]string](p, tooPale); len(pale) > 0 {
		t.Errorf("too little contrast: %v", pale)
	}
	shot(p, "redis-gone")
	p.preset("Chat message")
	p.until(`document.querySelector('.row .fields').innerText.includes('Hello from the page')`)

	// A tab that comes now is told, too, and is somebody as soon as that is possible.
	late := w.ready(t, c, "", 390, 844, nil)
	late.until(`document.querySelector('#degraded').checkVisibility()`)
	shot(late, "redis-gone-phone")
	redis.Restart()
	for _, tab := range []*tab{p, late} {
		tab.until(`!document.querySelector('#degraded').checkVisibility() && document.querySelector('#people').innerText.includes('2 here')`)
	}
	if now := p.self(); now != me {
		t.Errorf("%s became %s", me, now)
	}
	late.quiet()
	p.quiet()
}

// What others say of themselves, who may be of another application, does no harm.
func testStrangers(t *testing.T, c *chromium) {
	w := newWorld(t, false)
	p := w.ready(t, c, "", 1440, 900, nil)
	for name, js := range map[string]string{
		"anybody has a name and a colour": `import('/dev/people.js').then(({ looks }) => {
			const names = [{}, { name: ' Ann ' }, { name: 7, id: 'u7' }, { name: '', id: 8 }, null, 'text', { name: 'x'.repeat(99) }].map((u) => looks('k1', u).name)
			const colours = ['#0f766e', 'red', 'url(//x)', '#0F766E', 7, undefined].map((color) => looks('k1', { color }).colour)
			const fine = colours.every((c) => /^#[0-9a-f]{6}$/.test(c)) && colours[0] === '#0f766e' && new Set(colours.slice(1)).size === 1
			return fine && names.join() === ['k1', 'Ann', 'u7', 'k1', 'k1', 'k1', 'x'.repeat(40)].join() ? '' : names + ' ' + colours
		})`,
		"joins and leaves": `import('/dev/people.js').then(({ People }) => {
			const [button, list, sent, said] = [document.createElement('button'), document.createElement('ul'), [], []]
			let joined = 0
			const people = new People({ button, list }, { send: (f) => sent.push(f), say: (t) => said.push(t), joined: () => joined++ })
			people.topic = 'a'
			const live = (event, data, topic = '__presence:a') => people.read({ topic, event, data })
			people.connected()
			people.read({ type: 'presence', op: 'list', data: { users: {} } })
			const me = sent[1].data
			people.read({ type: 'presence', op: 'join', data: { key: me.id } })
			live('presence_state', { ann: { name: 'Ann' }, [me.id]: me })
			live('presence_state', { eva: { name: 'Eva' } }, '__presence:b')
			live('presence_diff', { joins: { bob: { name: 'Bob B. Bobson' } }, leaves: { ann: {} } })
			live('presence_diff', { joins: { bob: { name: 'Rob' } }, leaves: { bob: {} } }) // he has another name
			live('anything', null)
			people.lost()
			people.connected()
			const got = [sent.map((f) => f.op), joined, said, button.innerText || button.textContent, button.getAttribute('aria-label')].join(' | ')
			const words = me.name.split(' ')
			return got === 'list,join,join | 1 | Ann has left.,Bob B. Bobson is here. | ' + words[0][0] + words[1][0] + 'R2 here | 2 here: ' + me.name + ' (you), Rob' ? '' : got
		})`,
		"everybody has a colour, also when there are more than colours, and not all are drawn": `import('/dev/people.js').then(({ People }) => {
			const [button, list, sent] = [document.createElement('button'), document.createElement('ul'), []]
			const people = new People({ button, list }, { send: (f) => sent.push(f), say() {}, joined() {} })
			people.topic = 'a'
			const users = Object.fromEntries([...Array(2000).keys()].map((n) => ['k' + n, { name: 'N ' + n, color: '#0f766e' }]))
			people.read({ type: 'presence', op: 'list', data: { users } })
			people.read({ topic: '__presence:a', event: 'presence_state', data: users })
			const got = [sent[0].data.color !== '#0f766e', button.querySelectorAll('.face').length, button.textContent.endsWith('2,000 here'), list.children.length, list.lastChild.textContent]
			return got.join() === 'true,5,true,101,and 1,900 more' ? '' : got.join()
		})`,
		"a server that cannot is asked again": `import('/dev/people.js').then(async ({ People }) => {
			const sent = []
			const people = new People({ button: document.createElement('button'), list: document.createElement('ul') }, { send: (f) => sent.push(f.op), say() {}, joined() {} })
			people.topic = 'a'
			people.connected()
			people.read({ type: 'error', ref: 'presence-list', code: 'unavailable' })
			people.read({ type: 'error', ref: 'presence-join', code: 'unavailable', retry_after: 1 })
			await new Promise((done) => setTimeout(done, 300))
			people.read({ type: 'error', ref: 'presence-join', code: 'unsupported', retry_after: 1 })
			people.read({ type: 'error', code: 'rate_limited', retry_after: 1 })
			await new Promise((done) => setTimeout(done, 300))
			return sent.join() === 'list,join,join' ? '' : sent.join()
		})`,
		"what is away": `import('/dev/health.js').then(async ({ Health }) => {
			const [line, said] = [document.createElement('p'), []]
			const health = new Health(line, (t) => said.push(t))
			const got = []
			for (const frames of [[['degraded', 'redis'], ['degraded', 'postgres']], [['recovered', 'postgres']], [['degraded', 'a bus']], [['recovered', 'redis'], ['recovered', 'a bus']], []]) {
				for (const [event, backend] of frames) health.read({ topic: '__system', event, data: { backend } })
				await new Promise((done) => setTimeout(done, 300))
				got.push([...line.textContent.matchAll(/(\w+) is away/g)].map((m) => m[1]).join('+') + (line.hidden ? '-' : ''))
			}
			health.read({ topic: '__system', event: 'degraded', data: { backend: 'redis' } })
			health.read({ type: 'welcome' })
			await new Promise((done) => setTimeout(done, 300))
			const text = [...got, said.length].join(' ')
			return text === 'Postgres+Redis Redis bus+Redis - - 4' ? '' : text
		})`,
		"cursors come, move and go": `import('/dev/cursors.js').then(({ Cursors }) => {
			const layer = document.querySelector('#cursors')
			const cursors = new Cursors({ area: document.querySelector('#stream'), layer }, { send() {}, ready: () => false })
			cursors.topic = 'a'
			const got = []
			const told = (event, data, topic = '__cursor:a') => {
				cursors.read({ topic, event, data })
				got.push([...layer.children].map((el) => el.textContent + el.style.transform.replace(/.*\((\d+).*/, '@$1')).join('+'))
			}
			const width = document.querySelector('#rows').getBoundingClientRect().width
			const at = (key, x, more) => ({ key, user: { name: key }, data: { part: 'rows', x: x / width, y: 0.5, ...more } })
			told('snapshot', [at('p', 10), at('q', 20)])
			told('bulk', [at('q', 30), at('r', 40)])
			told('update', at('p', 50))
			told('update', at('z', 50), '__cursor:b')
			told('remove', { key: 'q' })
			told('update', at('r', 0, { x: 2 })) // pixels, of somebody else's page
			told('update', { key: 's', data: null })
			told('update', { key: 's', data: { x: '0.5', y: {} } })
			told('anything', null)
			told('snapshot', [at('t', 60)])
			cursors.clear()
			return got.join() === 'p@10+q@20,p@10+q@30+r@40,p@50+q@30+r@40,p@50+q@30+r@40,p@50+r@40,p@50,p@50,p@50,p@50,t@60' && layer.children.length === 0 ? '' : got.join()
		})`,
	} {
		if wrong := eval[string](p, js); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	p.quiet()
}
