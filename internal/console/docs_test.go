package console

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/docs"
)

var inHTML = regexp.MustCompile(`<(?:a|img)[^>]* (?:href|src)="([^"]*)"`)

// Each page is reached from the index, and each link of one leads to a page, a heading, a picture
// or a file that is there.
func TestDocs(t *testing.T) {
	l, err := newLibrary(docs.Files)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{docsIndex: true}
	for _, g := range l.index.Groups {
		if len(g.Pages) == 0 {
			t.Errorf("nothing is under %q", g.Title)
		}
		for _, p := range g.Pages {
			listed[p.Name] = true
			if p.Title == p.Name {
				t.Errorf("%s has no title", p.Name)
			}
		}
	}
	links := 0
	for name, page := range l.pages {
		if !listed[name] {
			t.Errorf("%s.md is not in index.md, and so not to be found in the console", name)
		}
		for _, bad := range []string{"<script", "<!--", " style=", " onclick"} {
			if strings.Contains(page.HTML, bad) {
				t.Errorf("%s has %s", name, bad)
			}
		}
		for _, m := range inHTML.FindAllStringSubmatch(page.HTML, -1) {
			links++
			if why := l.resolve(m[1]); why != "" {
				t.Errorf("%s.md: %s: %s", name, m[1], why)
			}
		}
	}
	if links < 100 {
		t.Errorf("only %d links are found", links)
	}
}

// resolve tells why a link leads nowhere, or nothing.
func (l *library) resolve(link string) string {
	if rest, is := strings.CutPrefix(link, pageLink); is {
		name, heading, within := strings.Cut(rest, "/")
		page, there := l.pages[name]
		switch {
		case !there:
			return "no such page"
		case within && !slices.ContainsFunc(page.Headings, func(h DocsHeading) bool { return h.ID == heading }):
			return "the page has no such heading"
		}
		return ""
	}
	if name, is := strings.CutPrefix(link, "/console/api/docs-files/"); is && l.pictures[name] == nil {
		return "no such picture"
	}
	if path, is := strings.CutPrefix(link, source); is {
		path, heading, within := strings.Cut(path, "#")
		text, err := os.ReadFile("../../" + path)
		if info, statErr := os.Stat("../../" + path); err != nil && (statErr != nil || !info.IsDir()) {
			return "no such file"
		}
		page, err := render(path, text)
		if within && (err != nil || !slices.ContainsFunc(page.Headings, func(h DocsHeading) bool { return h.ID == heading })) {
			return "the file has no such heading"
		}
	}
	return ""
}

// Headings get the ids that GitHub gives them, and nothing of a page can run.
func TestRender(t *testing.T) {
	page, err := render("a", []byte("# What `it` is, & is not\n\n## Over_all  twice\n\n## Over_all  twice\n\n<script>alert(1)</script> <b onclick=x>b</b> <!-- c -->\n\n"+
		"[x](javascript:alert(1)) [y](b.md#z) [z](#over_all--twice) [w](https://example.com) [adr](adr/1.md) ![p](p.png)\n\n| a | b |\n| :-: | -: |\n| 1 | 2 |\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []DocsHeading{{1, "what-it-is--is-not", "What it is, & is not"}, {2, "over_all--twice", "Over_all  twice"}, {2, "over_all--twice-1", "Over_all  twice"}}
	if page.Title != want[0].Text || !slices.Equal(page.Headings, want) {
		t.Errorf("the headings are %+v", page.Headings)
	}
	for _, bad := range []string{"<script", "onclick", "javascript", "<!-- c", "style="} {
		if strings.Contains(page.HTML, bad) {
			t.Errorf("%s is in %s", bad, page.HTML)
		}
	}
	for _, good := range []string{`href="#/docs/b/z"`, `href="#/docs/a/over_all--twice"`, `<a href="https://example.com" target="_blank" rel="noopener noreferrer">`,
		`href="` + source + `docs/adr/1.md"`, `src="/console/api/docs-files/p.png"`, `<h2 id="over_all--twice-1">`, `align="center"`} {
		if !strings.Contains(page.HTML, good) {
			t.Errorf("%s is not in %s", good, page.HTML)
		}
	}
}
