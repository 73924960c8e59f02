package devpage

import (
	"testing"
	"time"
)

// In each theme and width everything is readable and nothing sticks out.
func testLooks(t *testing.T, c *chromium) {
	w := newWorld(t, true)
	w.write(t, 150*time.Millisecond)
	for _, look := range []struct {
		name          string
		width, height int
		scheme        string
	}{
		{"desktop-light", 1440, 900, "light"},
		{"desktop-dark", 1440, 900, "dark"},
		{"laptop", 1024, 700, "light"},
		{"phone-dark", 390, 844, "dark"},
		{"small-phone", 320, 568, "light"},
	} {
		p := w.ready(t, c, "?cut=0.5", look.width, look.height, map[string]string{"prefers-color-scheme": look.scheme})
		if look.name == "desktop-light" { // the others find it in the log
			p.preset("Move a card")
			p.preset("Transaction")
		}
		p.until(`document.querySelectorAll('.row .k').length > 0`)
		for _, name := range []string{"stream", "sql", "code", "shell"} {
			if name == "stream" && look.width >= 900 {
				continue
			}
			p.click("#tab-" + name)
			if sticks := eval[[]string](p, sticksOut); len(sticks) > 0 {
				t.Errorf("%s, %s: wider than the window: %v", look.name, name, sticks)
			}
			if pale := eval[[]string](p, tooPale); len(pale) > 0 {
				t.Errorf("%s, %s: too little contrast: %v", look.name, name, pale)
			}
			if nameless := eval[[]string](p, `[...document.querySelectorAll('button, a, input, textarea, [role=button], canvas, iframe')].filter((e) => e.checkVisibility()
				&& !(e.textContent.trim() || e.getAttribute('aria-label') || e.title)).map((e) => e.outerHTML.slice(0, 80))`); len(nameless) > 0 {
				t.Errorf("%s, %s: without a name: %v", look.name, name, nameless)
			}
			shot(p, look.name+"-"+name)
		}
		p.quiet()
		p.close()
	}

	// The toggle overrules the system, and is remembered.
	p := w.ready(t, c, "", 1440, 900, map[string]string{"prefers-color-scheme": "dark"})
	dark := `getComputedStyle(document.body).backgroundColor`
	before := eval[string](p, dark)
	p.click("#theme")
	if now := eval[string](p, dark); now == before {
		t.Errorf("the toggle leaves the background %s", now)
	}
	p.do("Page.reload", nil, nil)
	<-p.loaded
	p.until(isLive)
	if now := eval[string](p, dark); now == before {
		t.Error("the theme is forgotten")
	}
	eval[any](p, `localStorage.clear()`)
	p.quiet()
}

// sticksOut finds what makes the page scroll sideways.
const sticksOut = `(() => document.documentElement.scrollWidth <= innerWidth ? [] :
	[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map((e) => e.tagName + '.' + e.className + '#' + e.id))()`

// tooPale finds text whose contrast to what is behind it is below 4.5, as WCAG 2 counts.
const tooPale = `(() => {
	const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
	const rgba = (colour) => {
		canvas.clearRect(0, 0, 1, 1)
		canvas.fillStyle = colour
		canvas.fillRect(0, 0, 1, 1)
		const d = canvas.getImageData(0, 0, 1, 1).data
		return [d[0], d[1], d[2], d[3] / 255]
	}
	const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1]
	const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
	const behind = (e) => {
		const layers = []
		for (let n = e; n; n = n.parentElement) layers.push(rgba(getComputedStyle(n).backgroundColor))
		return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1])
	}
	const found = new Set()
	for (const e of document.querySelectorAll('body *')) {
		const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
		if (!own || !e.checkVisibility() || e.closest('textarea, .skip, .visually-hidden')) continue
		const back = behind(e)
		const front = over(rgba(getComputedStyle(e).color), back)
		const [a, b] = [light(front), light(back)].sort((x, y) => y - x)
		const ratio = (a + 0.05) / (b + 0.05)
		if (ratio < 4.5) found.add(e.tagName + '.' + e.className + ' ' + ratio.toFixed(2) + ' ' + e.textContent.trim().slice(0, 20))
	}
	return [...found].slice(0, 8)
})()`

// The parts that judge and compare, by themselves: a page that always says "missed 0"
// would prove nothing.
func testModules(t *testing.T, c *chromium) {
	w := newWorld(t, false)
	p := w.ready(t, c, "", 1440, 900, nil)
	for name, js := range map[string]string{
		"the ledger counts what is lost, doubled and late": `import('/dev/ledger.js').then(({ Ledger }) => {
			const l = new Ledger()
			l.start(10)
			const e = (position, topic, seq) => l.take({ position, topic, seq })
			const got = [e(11, 'a', 1), e(12, 'b', 7), e(13, 'a', 2), e(13, 'a', 2), e(12, 'b', 7), // two doubled
				e(17, 'a', 3), e(15, 'a', 9), e(18, 'a', 4), // 14, 15, 16 lost, 15 late
				e(19, 'a', 6), e(20, 'a', 6), // one lost by seq, one doubled by seq
			].join(' ')
			return [got, l.missed, l.doubled, l.late, l.events].join(', ') ===
				'next next next doubled doubled hole late next hole doubled, 3, 3, 1, 10' ? '' : [got, l.missed, l.doubled, l.late, l.events].join(', ')
		})`,
		"the ledger excuses what is trimmed, and nothing more": `import('/dev/ledger.js').then(({ Ledger }) => {
			const l = new Ledger()
			l.start(0)
			l.gap(6)
			l.take({ position: 4, topic: 'a', seq: 4 })
			l.take({ position: 9, topic: 'a', seq: 9 })
			return [l.trimmed, l.missed, l.doubled].join() === '4,3,0' ? '' : [l.trimmed, l.missed, l.doubled].join()
		})`,
		"the ledger begins anew after a reset": `import('/dev/ledger.js').then(({ Ledger }) => {
			const l = new Ledger()
			l.start(0)
			l.take({ position: 1, topic: 'a', seq: 1 })
			l.reset(40)
			l.take({ position: 41, topic: 'a', seq: 1 })
			return l.missed + l.doubled === 0 ? '' : l.missed + ' ' + l.doubled
		})`,
		"the cache knows what an update changed": `import('/dev/cache.js').then(({ Cache }) => {
			const c = new Cache()
			const changed = (e) => { const r = c.take({ topic: 't', ...e }); return r.changed ? [...r.changed].join('+') : String(r.changed) }
			const got = [
				changed({ event: 'updated', data: { id: 1, a: 1, b: 1 }, old: { id: 1 } }), // not seen before
				changed({ event: 'updated', data: { id: 1, a: 2, b: 1 }, old: { id: 1 } }),
				changed({ event: 'updated', data: { id: 2, a: 2, b: 1 }, old: { id: 1 } }), // only the key itself
				changed({ event: 'updated', data: { id: 2, a: 2, b: { x: 1 } }, old: { id: 2 } }),
				changed({ event: 'updated', data: { id: 2, a: 2, b: { x: 1 } }, old: { id: 2 } }), // nothing
				changed({ event: 'updated', data: { id: 9, a: 3, b: 1 }, old: { id: 9, a: 2, b: 1 } }), // all old values on the wire
				String(c.take({ topic: 't', event: 'deleted', data: { id: 2 }, old: { id: 2 } }).row.a),
				changed({ event: 'updated', data: { id: 2, a: 2, b: 1 }, old: { id: 2 } }), // forgotten
				changed({ event: 'typing', data: [1] }),
				changed({ event: 'truncated', data: null }),
			].join(' ')
			return got === 'null a id b  a 2 null null null' ? '' : got
		})`,
		"the cache learns a key that is not called id": `import('/dev/cache.js').then(({ Cache }) => {
			const c = new Cache()
			c.take({ topic: 't', event: 'updated', data: { a: 1, b: 1, v: 1 }, old: { a: 1, b: 1 } })
			const r = c.take({ topic: 't', event: 'updated', data: { a: 1, b: 1, v: 2 }, old: { a: 1, b: 1 } })
			return r.before.v === 1 && c.keys('t').join() === 'a,b' ? '' : JSON.stringify(r)
		})`,
		"the clock reads an event's id": `import('/dev/clock.js').then(({ written }) => written('2a-64d2c5b1a0f3e') === 0x64d2c5b1a0f3e / 1000
			&& written('') === undefined && written(undefined) === undefined ? '' : String(written('2a-64d2c5b1a0f3e')))`,
		"the clock follows a database elsewhere": `import('/dev/clock.js?2').then(({ now, compare }) => {
			const sent = now()
			compare(sent + 90_005, sent, sent + 10)
			const ahead = now() - Date.now()
			compare(now() + 1, now() - 5, now() + 5) // about the same: one clock
			const same = now() - Date.now()
			return Math.abs(ahead - 90_000) < 50 ? '' : ahead + ' ' + same
		})`,
		"the stream keeps its place": `import('/dev/stream.js').then(async ({ Stream }) => {
			const real = window.WebSocket
			const asked = []
			const states = []
			let script = [
				(s) => (s({ type: 'subscribed', seq: 7 }), s({ topic: 'a', event: 'e', position: 8, seq: 1, id: 'x8' }), 'going'),
				(s) => (s({ type: 'subscribed', seq: 8 }), s({ type: 'batch', events: [{ topic: 'a', event: 'e', position: 9, id: 'x9' }, { topic: '__system', event: 'recovered' }, { topic: 'b', event: 'e', position: 10, id: 'x10' }] }), 'gone'),
				(s) => (s({ type: 'error', ref: 'x' }), s({ type: 'subscribed', seq: 3 }), 'gone'), // it breaks before the reset that this announces
				(s) => (s({ type: 'subscribed', seq: 3 }), s({ type: 'reset', head: 3 }), 'gone'),
				(s) => (s({ type: 'subscribed', seq: 3 }), s({ type: 'gap', after: 3, tail: 9, head: 12 }), 'gone'),
				(s) => (s({ type: 'subscribe-denied', reason: 'INTERNAL_ERROR' }), 'stays'),
				() => 'never',
			]
			window.WebSocket = class {
				constructor() { setTimeout(() => this.onopen()) }
				send(text) {
					const frame = JSON.parse(text)
					if (frame.type !== 'subscribe') return
					asked.push([frame.after, frame.id].join('/'))
					const end = script.shift()((f) => this.onmessage({ data: JSON.stringify(f) }))
					if (end === 'going') this.onclose({ code: 1001, reason: 'retry=1' })
					if (end === 'gone') this.onclose({ code: 1006, reason: '' })
					if (end === 'never') this.onclose({ code: 1008, reason: '' })
				}
				close() {}
			}
			const got = []
			const s = new Stream('ws://x', '**', { events: (l) => got.push(...l.map((e) => e.position)), subscribed() {}, gap() {}, reset: (h) => got.push('reset' + h), state: (st) => states.push(st.kind), other: (f) => got.push(f.event ?? f.type) })
			s.start()
			for (let i = 0; i < 400 && states.at(-1) !== 'refused'; i++) {
				await new Promise((done) => setTimeout(done, 20))
				s.hurry()
			}
			window.WebSocket = real
			const result = asked.join(' ') + ' | ' + got.join(' ') + ' | ' + states.at(-1)
			return result === '/ 8/x8 10/x10 10/x10 3/ 3/ 3/ | 8 9 10 recovered error reset3 | refused' ? '' : result
		})`,
		"durations": `import('/dev/view.js').then(({ millis }) => [0.1, 9.94, 99.94, 99.96, 999.4, 999.6, 4210, 123456].map((v) => millis(v).join('')).join(' ')
			=== '0.1ms 9.9ms 99.9ms 100ms 999ms 1.0s 4.2s 123s' ? '' : 'wrong')`,
		"colours keep the text": `import('/dev/highlight.js').then(({ paint }) => {
			const el = document.createElement('pre')
			return ["select 'it''s', \"x\", $$ a $$, $q$ b $q$, 1.5 -- c\n/* d */ from t", "'open", '$$ open', '<b>'].find((text) => (paint(el, text, 'sql'), el.textContent !== text)) ?? ''
		})`,
		"a result is worded after what was counted": `import('/dev/cut.js').then(({ verdict }) => {
			const good = { from: 1041, missed: 0, doubled: 0, late: 0, trimmed: 0, arrived: 12, caughtUp: true, took: 31.2 }
			return [verdict(good), verdict({ ...good, missed: 2 }), verdict({ ...good, caughtUp: false }), verdict({ ...good, late: 1 })].map((v) => v[0] + '/' + v[2]).join(' ') ===
				'missed 0, doubled 0, resumed from #1,041/true missed 2, doubled 0, resumed from #1,041/false missed 0, doubled 0, resumed from #1,041 so far/false missed 0, doubled 0, resumed from #1,041/false' ? '' : 'wrong'
		})`,
	} {
		if wrong := eval[string](p, js); wrong != "" {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	p.quiet()
}
