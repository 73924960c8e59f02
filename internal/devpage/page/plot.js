// The plot: one point per event, at the time it was written and as high as it took to get
// here, on a logarithmic scale; below, events per second. A cut shows as a band: what was
// written in it arrives at its end, and so falls along a slope.

const span = 60_000 // that is shown
const maxPoints = 6000
const floor = 0.5 // ms, the scale's lower end
const still = matchMedia('(prefers-reduced-motion: reduce)')
const colours = ['plot-point', 'plot-late', 'plot-bar', 'plot-line', 'plot-text', 'plot-band']

export class Plot {
  #canvas
  #clock // gives the time, as the events have it
  #points = [] // {at, ms, late}, in order of arrival
  #seconds = new Map() // second to events written in it
  #bands = [] // {from, to}; to is undefined while it lasts
  #top = 100 // ms, the scale's upper end
  #ink = {}
  #font = ''
  #dirty = true
  #drawn = 0

  constructor(canvas, clock) {
    this.#canvas = canvas
    this.#clock = clock
    this.recolour()
    new ResizeObserver(() => { this.#dirty = true }).observe(canvas)
    const frame = (t) => {
      requestAnimationFrame(frame)
      // It glides by some pixels a second, for which a few frames a second are plenty;
      // the others belong to the list.
      if (t - this.#drawn < (still.matches ? 1000 : this.#dirty ? 30 : 60)) return
      this.#drawn = t
      this.#dirty = false
      this.#draw()
    }
    requestAnimationFrame(frame)
  }

  add(at, ms, late) {
    this.#points.push({ at, ms: Math.max(ms, floor), late })
    if (this.#points.length > maxPoints) this.#points.splice(0, maxPoints / 4)
    const second = Math.floor(at / 1000)
    this.#seconds.set(second, (this.#seconds.get(second) ?? 0) + 1)
    this.#dirty = true
  }

  cut() {
    this.#bands.push({ from: this.#clock(), to: undefined })
  }

  mended() {
    const last = this.#bands.at(-1)
    if (last) last.to ??= this.#clock()
  }

  // recolour reads colours and font of the theme, which a canvas cannot inherit.
  recolour() {
    const probe = document.createElement('span')
    probe.hidden = true
    this.#canvas.after(probe)
    for (const name of colours) {
      probe.style.color = `var(--${name})`
      this.#ink[name] = getComputedStyle(probe).color
    }
    probe.remove()
    this.#font = '11px ' + getComputedStyle(this.#canvas).fontFamily
    this.#dirty = true
  }

  #forget(now) {
    const oldest = now - span - 2000
    let n = 0
    while (n < this.#points.length && this.#points[n].at < oldest) n++
    if (n > 0) this.#points.splice(0, n)
    for (const s of this.#seconds.keys()) if ((s + 1) * 1000 < oldest) this.#seconds.delete(s)
    this.#bands = this.#bands.filter((b) => b.to === undefined || b.to > oldest)
  }

  #draw() {
    const box = this.#canvas.getBoundingClientRect()
    if (box.width === 0) return // on another tab of a phone
    const scale = devicePixelRatio || 1
    const [w, h] = [Math.round(box.width * scale), Math.round(box.height * scale)]
    if (this.#canvas.width !== w || this.#canvas.height !== h) Object.assign(this.#canvas, { width: w, height: h })
    const g = this.#canvas.getContext('2d')
    g.setTransform(scale, 0, 0, scale, 0, 0)
    g.clearRect(0, 0, box.width, box.height)

    const now = this.#clock()
    this.#forget(now)
    let slowest = 0
    for (const p of this.#points) slowest = Math.max(slowest, p.ms)
    this.#top = slowest > 1000 ? 10_000 : slowest > 100 ? 1000 : 100

    const frame = { left: 52, right: box.width - 18, top: 8, low: box.height - 44, bottom: box.height - 18 }
    const x = (at) => frame.right - ((now - at) / span) * (frame.right - frame.left)
    const y = (ms) => {
      const part = Math.log(Math.min(ms, this.#top) / floor) / Math.log(this.#top / floor)
      return frame.low - part * (frame.low - frame.top)
    }
    g.font = this.#font
    this.#drawBands(g, frame, x)
    this.#drawGrid(g, frame, x, y, now)
    this.#drawBars(g, frame, x, now)
    this.#drawPoints(g, frame, x, y)
  }

  #drawGrid(g, frame, x, y, now) {
    g.lineWidth = 1
    g.textBaseline = 'middle'
    g.textAlign = 'right'
    const apart = y(1) - y(10)
    for (const [ms, text] of [[1, '1 ms'], [10, '10 ms'], [100, '100 ms'], [1000, '1 s'], [10_000, '10 s']]) {
      if (ms > this.#top) break
      if (apart < 14 && (ms === 10 || ms === 1000)) continue // no room for every one
      const at = Math.round(y(ms)) + 0.5
      line(g, this.#ink['plot-line'], frame.left, at, frame.right, at)
      g.fillStyle = this.#ink['plot-text']
      g.fillText(text, frame.left - 7, at)
    }
    const base = frame.bottom + 0.5
    line(g, this.#ink['plot-line'], frame.left, base, frame.right, base)
    g.fillText('/s', frame.left - 7, frame.bottom - 6)
    g.textAlign = 'center'
    const step = frame.right - frame.left < 280 ? 30 : 15 // as many as there is room for
    for (let s = 60; s > 0; s -= step) g.fillText(`${s} s ago`, Math.max(x(now - s * 1000), frame.left + 16), frame.bottom + 10)
    g.textAlign = 'right'
    g.fillText('now', frame.right, frame.bottom + 10)
  }

  #drawBars(g, frame, x, now) {
    let most = 10
    for (const n of this.#seconds.values()) most = Math.max(most, n)
    g.fillStyle = this.#ink['plot-bar']
    for (const [second, n] of this.#seconds) {
      const from = Math.max(x(second * 1000) + 0.75, frame.left)
      const to = Math.min(x(Math.min((second + 1) * 1000, now)) - 0.75, frame.right)
      if (to <= from) continue
      // By the root, or one bulk insert would flatten everything else to nothing.
      const height = Math.max(Math.sqrt(n / most) * (frame.bottom - frame.low - 8), 1.5)
      g.fillRect(from, frame.bottom - height, to - from, height)
    }
  }

  #drawBands(g, frame, x) {
    for (const { from, to } of this.#bands) {
      const [a, b] = [Math.max(x(from), frame.left), to === undefined ? frame.right : x(to)]
      if (b <= frame.left) continue
      g.fillStyle = this.#ink['plot-band']
      g.fillRect(a, frame.top - 4, b - a, frame.bottom - frame.top + 4)
      if (b - a < 44) continue
      g.fillStyle = this.#ink['plot-late']
      g.textAlign = 'left'
      g.textBaseline = 'alphabetic'
      g.fillText('wire cut', a + 5, frame.low + 3)
    }
  }

  #drawPoints(g, frame, x, y) {
    for (const late of [false, true]) {
      g.fillStyle = this.#ink[late ? 'plot-late' : 'plot-point']
      g.beginPath()
      for (const p of this.#points) {
        if (p.late !== late) continue
        const at = x(p.at)
        if (at < frame.left || at > frame.right + 3) continue
        const up = y(p.ms)
        g.moveTo(at + 2, up)
        g.arc(at, up, 2, 0, 2 * Math.PI)
      }
      g.fill()
    }
  }
}

function line(g, colour, x1, y1, x2, y2) {
  g.strokeStyle = colour
  g.beginPath()
  g.moveTo(x1, y1)
  g.lineTo(x2, y2)
  g.stroke()
}

// Figures are the numbers above the plot, of the last minute.
export class Figures {
  #live = [] // {seen, ms} of events that came as they were written
  #seen = [] // when each event arrived, for the rate

  add(seen, ms, late) {
    this.#seen.push(seen)
    if (!late && ms !== undefined) this.#live.push({ seen, ms })
    if (this.#seen.length > 20_000) this.#seen.splice(0, 5000)
    if (this.#live.length > 20_000) this.#live.splice(0, 5000)
  }

  read(now) {
    this.#live = this.#live.filter((e) => e.seen > now - span)
    this.#seen = this.#seen.filter((t) => t > now - span)
    const sorted = this.#live.map((e) => e.ms).sort((a, b) => a - b)
    const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]
    return { p50: at(0.5), p99: at(0.99), rate: this.#seen.filter((t) => t > now - 5000).length / 5 }
  }
}
