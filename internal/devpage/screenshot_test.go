package devpage

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestScreenshot renews docs/screenshot.png from a running pgcast dev:
//
//	PGCAST_SCREENSHOT=http://127.0.0.1:8080/ go test -run TestScreenshot ./internal/devpage
func TestScreenshot(t *testing.T) {
	url := os.Getenv("PGCAST_SCREENSHOT")
	if url == "" {
		t.Skip("PGCAST_SCREENSHOT names no page to take a screenshot of")
	}
	c := startChromium(t)
	as := func(name, color string) *tab {
		// The page takes who it is from the storage; this one has the same and leaves it alone.
		p := c.open(t, url+"dev/example.html", 1280, 780, map[string]string{"prefers-color-scheme": "light"})
		eval[any](p, fmt.Sprintf(`sessionStorage.setItem('pgcast-me', JSON.stringify({ id: %[1]q, name: %[1]q, color: %[2]q }))`, name, color))
		p.do("Page.navigate", map[string]any{"url": url}, nil)
		<-p.loaded
		p.until(isLive)
		return p
	}
	other := as("Rose Heron", "#be185d")
	p := as("Teal Otter", "#0f766e")
	p.size(1280, 780, 2)
	wait := func(seconds string) { eval[any](p, `new Promise((done) => setTimeout(done, 1000 * `+seconds+`))`) }
	wait("34")
	p.click("#cut")
	p.until(`document.querySelector('#cut-result').dataset.kind === 'good'`)
	wait("9")
	p.preset("Move a card")
	wait("4.2")
	p.preset("Transaction")
	p.until(`document.querySelector('#rows').innerText.includes('cheer')`)
	wait("1.4")
	other.move("#rows", 0.74, 0.42)
	p.until(pointsAt("#rows", 0.74, 0.42))
	wait("0.2")
	small, err := fewColours(p.screenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("..", "..", "docs", "screenshot.png"), small, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kB", len(small)/1000)
	p.quiet()
}

// fewColours gives a PNG with a palette: of a page, which has few colours and their
// shades at the edges of letters, the 256 most frequent are enough for the eye.
func fewColours(text []byte) ([]byte, error) {
	img, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	box := img.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(img.At(x, y)).(color.RGBA) }
	often := map[color.RGBA]int{}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			often[at(x, y)]++
		}
	}
	all := make([]color.RGBA, 0, len(often))
	for c := range often {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return often[b] - often[a] })
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	nearest := map[color.RGBA]uint8{}
	for _, c := range all {
		nearest[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(box, palette)
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			out.SetColorIndex(x, y, nearest[at(x, y)])
		}
	}
	var b bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, out)
	return b.Bytes(), err
}
