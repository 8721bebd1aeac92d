package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// printer writes for people: a mark a line, and on a terminal one line of progress that is drawn over.
type printer struct {
	out   io.Writer
	color bool
	live  bool // progress may be drawn over

	mu      sync.Mutex
	drawn   bool
	printed time.Time
}

func newPrinter(out io.Writer) *printer {
	f, isFile := out.(*os.File)
	tty := isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	return &printer{out: out, live: tty, color: tty && os.Getenv("NO_COLOR") == ""}
}

const (
	green = "\x1b[32m"
	red   = "\x1b[31m"
	dim   = "\x1b[2m"
	bold  = "\x1b[1m"
)

func (p *printer) paint(color, s string) string {
	if !p.color {
		return s
	}
	return color + s + "\x1b[0m"
}

func (p *printer) good(format string, args ...any) { p.line(p.paint(green, "✔ "), format, args...) }
func (p *printer) bad(format string, args ...any)  { p.line(p.paint(red, "✖ "), format, args...) }
func (p *printer) note(format string, args ...any) {
	p.line("  ", "%s", p.paint(dim, fmt.Sprintf(format, args...)))
}
func (p *printer) text(format string, args ...any) { p.line("", format, args...) }

func (p *printer) line(mark, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
	fmt.Fprintln(p.out, mark+fmt.Sprintf(format, args...))
}

// progress draws a bar over the last one; where that cannot be, a line every two seconds.
func (p *printer) progress(done, of int64, format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rest := fmt.Sprintf(format, args...)
	if !p.live {
		if time.Since(p.printed) >= 2*time.Second {
			p.printed = time.Now()
			fmt.Fprintf(p.out, "  %d/%d delivered  %s\n", done, of, rest)
		}
		return
	}
	const width = 28
	full := 0
	if of > 0 {
		full = int(min(done, of) * width / of)
	}
	bar := strings.Repeat("█", full) + strings.Repeat("░", width-full)
	fmt.Fprintf(p.out, "\r\x1b[K  %s %d/%d  %s", bar, done, of, rest)
	p.drawn = true
}
