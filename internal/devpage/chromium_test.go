package devpage

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// chromium is a headless browser of one test's own, driven over the DevTools protocol.
type chromium struct {
	t    *testing.T
	conn *websocket.Conn

	mu      sync.Mutex
	last    int
	answers map[int]chan answer
	tabs    map[string]*tab // by session
	closed  error
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

var browsers = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// patience is what anything in the browser may take on a busy machine.
const patience = time.Minute

// startChromium skips the test where there is no browser.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	var bin string
	for _, name := range browsers {
		if path, err := exec.LookPath(name); err == nil {
			bin = path
			break
		}
	}
	if bin == "" {
		t.Skipf("no browser to drive: none of %v is on PATH", browsers)
	}
	dir, err := os.MkdirTemp("", "pgcast-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "--headless", "--remote-debugging-port=0", "--user-data-dir="+dir, "--no-sandbox", "--disable-gpu",
		"--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-dev-shm-usage", "--hide-scrollbars", "about:blank")
	cmd.WaitDelay = 5 * time.Second // its children may hold on to the pipe
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", bin, err)
	}
	c := &chromium{t: t, answers: map[int]chan answer{}, tabs: map[string]*tab{}}
	t.Cleanup(func() { c.stop(cmd, dir) })

	found := make(chan string, 1)
	go func() {
		said := regexp.MustCompile(`DevTools listening on (ws://\S+)`)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if m := said.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
				break
			}
		}
		_, _ = io.Copy(io.Discard, stderr) // or it would block once the pipe is full
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case url := <-found:
		c.conn, _, err = websocket.Dial(ctx, url, nil)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		t.Fatalf("talk to %s: %v", bin, err)
	}
	c.conn.SetReadLimit(64 << 20) // screenshots
	go c.listen()
	return c
}

func (c *chromium) stop(cmd *exec.Cmd, dir string) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.conn.Write(ctx, websocket.MessageText, []byte(`{"id":1000000,"method":"Browser.close"}`))
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
	}
	_ = os.RemoveAll(dir)
}

func (c *chromium) listen() {
	for {
		_, text, err := c.conn.Read(context.Background())
		if err != nil {
			c.mu.Lock()
			c.closed = err
			for _, ch := range c.answers {
				close(ch)
			}
			c.answers = nil
			c.mu.Unlock()
			return
		}
		var m struct {
			ID        int
			SessionID string `json:"sessionId"`
			Method    string
			Params    json.RawMessage
			answer
		}
		if err := json.Unmarshal(text, &m); err != nil {
			continue
		}
		c.mu.Lock()
		if ch := c.answers[m.ID]; ch != nil {
			delete(c.answers, m.ID)
			ch <- m.answer
		} else if p := c.tabs[m.SessionID]; p != nil && m.Method != "" {
			p.heard(m.Method, m.Params)
		}
		c.mu.Unlock()
	}
}

func (c *chromium) call(session, method string, params any, result any) error {
	ch := make(chan answer, 1)
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		return fmt.Errorf("%s: the browser is gone: %w", method, c.closed)
	}
	c.last++
	id := c.last
	c.answers[id] = ch
	c.mu.Unlock()
	if params == nil {
		params = struct{}{}
	}
	text, err := json.Marshal(map[string]any{"id": id, "sessionId": session, "method": method, "params": params})
	if session == "" {
		text, err = json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, text); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case a, ok := <-ch:
		switch {
		case !ok:
			return fmt.Errorf("%s: the browser is gone", method)
		case a.Error != nil:
			return fmt.Errorf("%s: %s", method, a.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Result, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", method, ctx.Err())
	}
}

// tab is one page in the browser.
type tab struct {
	t       *testing.T
	c       *chromium
	target  string
	session string
	loaded  chan struct{}

	troubles []string // exceptions, console errors, refused loads; guarded by c.mu
}

// open opens a URL in a window of the given size. media are features like
// prefers-color-scheme.
func (c *chromium) open(t *testing.T, url string, width, height int, media map[string]string) *tab {
	t.Helper()
	p := &tab{t: t, c: c, loaded: make(chan struct{}, 1)}
	var target struct{ TargetID string }
	var attached struct{ SessionID string }
	// In a window of its own: a tab behind another one draws nothing.
	p.must(c.call("", "Target.createTarget", map[string]any{"url": "about:blank", "newWindow": true}, &target))
	p.must(c.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached))
	p.target, p.session = target.TargetID, attached.SessionID
	c.mu.Lock()
	c.tabs[p.session] = p
	c.mu.Unlock()
	t.Cleanup(p.close)
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		p.do(domain+".enable", nil, nil)
	}
	p.size(width, height, 1)
	features := []map[string]string{}
	for name, value := range media {
		features = append(features, map[string]string{"name": name, "value": value})
	}
	p.do("Emulation.setEmulatedMedia", map[string]any{"features": features}, nil)
	p.do("Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-p.loaded:
	case <-time.After(patience):
		t.Fatalf("%s did not load", url)
	}
	return p
}

// close closes the tab, as a person does it.
func (p *tab) close() {
	_ = p.c.call("", "Target.closeTarget", map[string]any{"targetId": p.target}, nil) // it may be closed already
}

// heard is called with c.mu held.
func (p *tab) heard(method string, params json.RawMessage) {
	var e struct {
		Type             string
		Args             []struct{ Value, Description any }
		Entry            struct{ Level, Text, URL string }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	_ = json.Unmarshal(params, &e)
	switch method {
	case "Page.loadEventFired":
		select {
		case p.loaded <- struct{}{}:
		default:
		}
	case "Runtime.exceptionThrown":
		p.troubles = append(p.troubles, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
	case "Runtime.consoleAPICalled":
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			p.troubles = append(p.troubles, fmt.Sprintf("console %s: %v", e.Type, e.Args))
		}
	case "Log.entryAdded":
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			p.troubles = append(p.troubles, e.Entry.Text+" "+e.Entry.URL)
		}
	}
}

// quiet checks that nothing went wrong on the page, so far.
func (p *tab) quiet() {
	p.t.Helper()
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for _, trouble := range p.troubles {
		p.t.Errorf("on the page: %s", trouble)
	}
	p.troubles = nil
}

func (p *tab) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) do(method string, params, result any) {
	p.t.Helper()
	p.must(p.c.call(p.session, method, params, result))
}

func (p *tab) size(width, height int, scale float64) {
	p.t.Helper()
	p.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height,
		"deviceScaleFactor": scale, "mobile": width < 600}, nil)
}

// eval gives the value of an expression, awaited.
func eval[T any](p *tab, js string) (v T) {
	p.t.Helper()
	var out struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	p.do("Runtime.evaluate", map[string]any{"expression": js, "awaitPromise": true, "returnByValue": true, "userGesture": true}, &out)
	if e := out.ExceptionDetails; e != nil {
		p.t.Fatalf("%s: %s %s", js, e.Text, e.Exception.Description)
	}
	if len(out.Result.Value) > 0 {
		if err := json.Unmarshal(out.Result.Value, &v); err != nil {
			p.t.Fatalf("%s gave %s: %v", js, out.Result.Value, err)
		}
	}
	return v
}

// until waits, in the page, for an expression to become true.
func (p *tab) until(js string) {
	p.t.Helper()
	ok := eval[bool](p, fmt.Sprintf(`new Promise((done) => {
		const end = performance.now() + %d
		const look = () => { if (%s) done(true); else if (performance.now() > end) done(false); else setTimeout(look, 10) }
		look()
	})`, (patience/2).Milliseconds(), js))
	if !ok {
		p.t.Fatalf("the page did not get to: %s\nit shows: %s", js, eval[string](p, `document.body.innerText.replaceAll(/\s+/g, ' ').slice(0, 900)`))
	}
}

// text gives what an element shows.
func (p *tab) text(selector string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

func (p *tab) click(selector string) {
	p.t.Helper()
	eval[any](p, fmt.Sprintf(`document.querySelector(%q).click()`, selector))
}

// screenshot gives the window as a PNG.
func (p *tab) screenshot() []byte {
	p.t.Helper()
	var shot struct{ Data string }
	p.do("Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": false}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	p.must(err)
	return png
}
