package console

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/docs"
	"github.com/pgcast/pgcast/internal/static"
)

// DocsIndex is what there is to read.
type DocsIndex struct {
	Groups []DocsGroup `json:"groups"`
}

// DocsGroup is some pages that belong together.
type DocsGroup struct {
	Title string     `json:"title"`
	Pages []DocsLink `json:"pages"`
}

// DocsLink leads to a page.
type DocsLink struct {
	Name  string `json:"name"`
	Title string `json:"title"`
}

// DocsPage is one page, as HTML in which nothing runs.
type DocsPage struct {
	Name     string        `json:"name"`
	Title    string        `json:"title"`
	HTML     string        `json:"html"`
	Headings []DocsHeading `json:"headings"`
}

// DocsHeading is one heading of a page; ID is as GitHub makes it.
type DocsHeading struct {
	Level int    `json:"level"`
	ID    string `json:"id"`
	Text  string `json:"text"`
}

const (
	docsIndex = "index" // the page whose headings and links say what the others are
	// source is where what is not embedded can be read.
	source = "https://github.com/pgcast/pgcast/blob/main/"
)

// library is the pages, as they are shown.
type library struct {
	index    DocsIndex
	pages    map[string]DocsPage
	pictures map[string]*static.File
}

// shelf makes the library when it is first asked for: most servers never are.
var shelf = sync.OnceValue(func() *library {
	l, err := newLibrary(docs.Files)
	if err != nil {
		panic(fmt.Sprintf("console: the embedded docs cannot be read: %v", err)) // the build put them there
	}
	return l
})

// newLibrary reads the pages and pictures of a directory.
func newLibrary(files fs.FS) (*library, error) {
	l := &library{pages: map[string]DocsPage{}, pictures: map[string]*static.File{}}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return nil, err
		}
		name, is := strings.CutSuffix(e.Name(), ".md")
		if !is {
			l.pictures[e.Name()] = static.NewFile(e.Name(), text)
			continue
		}
		if l.pages[name], err = render(name, text); err != nil {
			return nil, fmt.Errorf("render %s: %w", e.Name(), err)
		}
	}
	index, err := fs.ReadFile(files, docsIndex+".md")
	if err != nil {
		return nil, err
	}
	l.index = l.grouped(index)
	return l, nil
}

// Not html.WithUnsafe, and without what is written as HTML in a page, comments too.
// Nor a style: the page's policy lets none through.
var markdown = goldmark.New(goldmark.WithExtensions(extension.Linkify, extension.Strikethrough, extension.TaskList,
	extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignAttribute))), goldmark.WithParserOptions(
	parser.WithAutoHeadingID(), parser.WithASTTransformers(util.Prioritized(linker{}, 500))))

// pageName is where a parser's context has the name of the page.
var pageName = parser.NewContextKey()

func parse(name string, source []byte) ast.Node {
	of := parser.NewContext(parser.WithIDs(&ids{taken: map[string]int{}}))
	of.Set(pageName, name)
	return markdown.Parser().Parse(text.NewReader(source), parser.WithContext(of))
}

// render makes a page of its Markdown.
func render(name string, source []byte) (DocsPage, error) {
	p := DocsPage{Name: name, Title: name, Headings: []DocsHeading{}}
	root := parse(name, source)
	err := ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		h, is := n.(*ast.Heading)
		if !entering || !is {
			return ast.WalkContinue, nil
		}
		id, _ := h.AttributeString("id")
		idText, _ := id.([]byte)
		heading := DocsHeading{h.Level, string(idText), plainText(h, source)}
		if p.Headings = append(p.Headings, heading); h.Level == 1 {
			p.Title = heading.Text
		}
		return ast.WalkSkipChildren, nil
	})
	var b bytes.Buffer
	if err == nil {
		err = markdown.Renderer().Render(&b, source, root)
	}
	p.HTML = b.String()
	return p, err
}

// plainText is what a node says, without what it looks like.
func plainText(n ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the walker gives no error
		switch n := n.(type) {
		case *ast.Text:
			if entering {
				b.Write(n.Segment.Value(source))
			}
		case *ast.String:
			if entering {
				b.Write(n.Value)
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// grouped reads the index: under each heading of the second level, the pages that are linked to
// there, each once.
func (l *library) grouped(source []byte) (index DocsIndex) {
	index.Groups = []DocsGroup{}
	seen := map[string]bool{}
	_ = ast.Walk(parse(docsIndex, source), func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the walker gives no error
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			if n.Level == 2 {
				index.Groups = append(index.Groups, DocsGroup{plainText(n, source), []DocsLink{}})
			}
		case *ast.Link:
			name, is := strings.CutPrefix(string(n.Destination), pageLink)
			page, there := l.pages[name]
			if at := len(index.Groups) - 1; is && there && at >= 0 && !seen[name] {
				seen[name] = true
				index.Groups[at].Pages = append(index.Groups[at].Pages, DocsLink{name, page.Title})
			}
		}
		return ast.WalkContinue, nil
	})
	return index
}

// pageLink is before a page's name, and maybe a slash and a heading's id, in a link of the console.
const pageLink = "#/docs/"

// linker makes a page's links lead to where the console has what they lead to.
type linker struct{}

// Transform implements [parser.ASTTransformer].
func (linker) Transform(root *ast.Document, _ text.Reader, of parser.Context) {
	name, _ := of.Get(pageName).(string)
	var raw []ast.Node
	defer func() {
		for _, n := range raw {
			n.Parent().RemoveChild(n.Parent(), n)
		}
	}()
	_ = ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the walker gives no error
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.RawHTML, *ast.HTMLBlock:
			raw = append(raw, n)
		case *ast.Link:
			to, outside := destination(name, string(n.Destination))
			n.Destination = []byte(to)
			if outside {
				elsewhere(n)
			}
		case *ast.AutoLink:
			elsewhere(n)
		case *ast.Image:
			n.Destination = []byte("/console/api/docs-files/" + url.PathEscape(path.Base(string(n.Destination))))
			n.SetAttributeString("loading", []byte("lazy"))
		}
		return ast.WalkContinue, nil
	})
}

// elsewhere has a link open beside the console, and tell nothing of it.
func elsewhere(n ast.Node) {
	n.SetAttributeString("target", []byte("_blank"))
	n.SetAttributeString("rel", []byte("noopener noreferrer"))
}

// destination is where a link of a page leads to in the console. What is no page of the docs is
// outside of it.
func destination(page, link string) (to string, outside bool) {
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "" || u.Host != "" {
		return link, true
	}
	name, isPage := strings.CutSuffix(u.Path, ".md")
	if u.Path == "" {
		name, isPage = page, true
	}
	switch {
	case isPage && !strings.Contains(name, "/"):
		if to = pageLink + name; u.Fragment != "" {
			to += "/" + u.Fragment
		}
		return to, false
	}
	to = source + strings.TrimPrefix(path.Join("/docs", u.Path), "/")
	if u.Fragment != "" {
		to += "#" + u.Fragment
	}
	return to, true
}

// ids makes the ids of headings as GitHub does: lower case, without what is no letter, number,
// hyphen or underscore, blanks as hyphens; one that comes again gets a number.
type ids struct{ taken map[string]int }

// Generate implements [parser.IDs].
func (i *ids) Generate(value []byte, _ ast.NodeKind) []byte {
	id := anchor(string(value))
	n, again := i.taken[id]
	i.taken[id] = n + 1
	if again {
		id = fmt.Sprintf("%s-%d", id, n)
	}
	return []byte(id)
}

// Put implements [parser.IDs].
func (i *ids) Put(value []byte) { i.taken[string(value)]++ }

func (c *console) docs(mux *http.ServeMux, get route) {
	get("docs", func(*http.Request) (any, error) { return shelf().index, nil })
	get("docs/{name}", func(r *http.Request) (any, error) {
		page, there := shelf().pages[r.PathValue("name")]
		if !there {
			return nil, &pgcast.Error{Code: pgcast.CodeNotFound, Message: "the docs have no such page"}
		}
		return page, nil
	})
	// A picture's request shows no token. They are no secrets: they are in the repository.
	mux.HandleFunc("GET /console/api/docs-files/{name}", func(w http.ResponseWriter, r *http.Request) {
		f := shelf().pictures[r.PathValue("name")]
		if f == nil {
			http.NotFound(w, r)
			return
		}
		f.ServeHTTP(w, r)
	})
}

// anchor is the id of a heading, before it may get a number.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsNumber(r):
			return r
		}
		return -1
	}, strings.ToLower(strings.TrimSpace(heading)))
}
