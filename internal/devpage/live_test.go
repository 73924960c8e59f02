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

const colourOfSelf = `document.querySelector('#people .me').style.getPropertyValue('--who')`

// Two tabs are two people, who see each other.
func testTwoTabs(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	w.write(t, 300*time.Millisecond)
	one := w.ready(t, c, "", 1280, 800, nil)
	ann := one.self()
	one.until(`document.querySelector('#people').innerText.includes('only you')`)
	two := w.ready(t, c, "", 390, 700, map[string]string{"prefers-color-scheme": "dark"})
	bob := two.self()
	if ann == bob || eval[string](one, colourOfSelf) == eval[string](two, colourOfSelf) {
		t.Errorf("%s and %s are to be told apart by their colours", ann, bob)
	}
	one.until(fmt.Sprintf(`%s === %q && document.querySelector('#people').innerText.includes('2 here')`, others, bob))
	two.until(fmt.Sprintf(`%s === %q && document.querySelectorAll('.faces .face').length === 2`, others, ann))
	one.until(fmt.Sprintf(`document.querySelector('#said').textContent === %q`, bob+" is here."))
	one.until(fmt.Sprintf(`document.querySelector('#people').getAttribute('aria-label') === %q`, "2 here: "+ann+" (you), "+bob))

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

	// Who reloads stays who he is, and the others notice nothing.
	eval[any](one, fmt.Sprintf(`(() => {
		window.gone = 0
		new MutationObserver(() => { if (%s !== %q) window.gone++ }).observe(document.querySelector('#who-list'), { childList: true })
	})()`, others, bob))
	two.do("Page.reload", nil, nil)
	<-two.loaded
	if now := two.self(); now != bob {
		t.Errorf("reloaded, %s is %s", bob, now)
	}
	two.until(fmt.Sprintf(`%s === %q`, others, ann))
	if n := eval[int](one, `window.gone`); n != 0 {
		t.Errorf("while %s reloaded he was away %d times", bob, n)
	}

	// A tab that was opened with a copy of this one's storage is somebody else.
	eval[any](one, `void (window.copy = open(location.href))`)
	one.until(fmt.Sprintf(`%s.split(',').length === 2 && !%s.split(',').includes(%q)`, others, others, ann))
	eval[any](one, `copy.close()`)

	two.close()
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
	} {
		if wrong := eval[string](p, js); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	p.quiet()
}
