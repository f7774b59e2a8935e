package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"

	"github.com/pgsession/pgsession"
)

// print writes a result as JSON, or for people.
func (a *app) print(result any, people func(w io.Writer)) error {
	if a.json {
		return printJSON(a.out, result, "  ")
	}
	w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
	people(w)
	return w.Flush()
}

func printJSON(w io.Writer, v any, indent string) error {
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetIndent("", indent)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, plainJSON(encoded.Bytes()))
	return err
}

// line writes the cells of a table's row.
func line(w io.Writer, cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprint(w, cell)
	}
	fmt.Fprintln(w)
}

// plain returns what an application has stored, quoted if a terminal might obey it.
func plain(text string) string {
	for _, r := range text {
		if !strconv.IsPrint(r) {
			return strconv.Quote(text)
		}
	}
	return text
}

// plainJSON returns JSON with the characters escaped that a terminal might obey.
func plainJSON(encoded []byte) string {
	var plain strings.Builder
	for _, r := range string(encoded) {
		if strconv.IsPrint(r) || r == '\n' {
			plain.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&plain, `\u%04x`, unit)
		}
	}
	return plain.String()
}

// moment is a time as people read it.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func momentOr(t *time.Time, otherwise string) string {
	if t == nil {
		return otherwise
	}
	return moment(*t)
}

// duration is a duration as people read it: 12h, 1h30m, 45s.
func duration(d time.Duration) string {
	if d >= time.Minute {
		d = d.Round(time.Second)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// plural returns "1 session", "2 sessions".
func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// confirm asks before something that cannot be undone. Without a terminal it refuses.
func (a *app) confirm(ctx context.Context, question string) error {
	if !isTerminal(a.in) {
		return usage("%s Give --yes: there is no terminal to ask at.", question)
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(text))
	}()
	select {
	case text := <-answer:
		if text == "y" || text == "yes" {
			return nil
		}
		return &exitError{exitFailed, errors.New("nothing was done")}
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return ctx.Err()
	}
}

// A meter shows how far a command is: on a terminal as a bar, otherwise as a line every ten
// seconds.
type meter struct {
	w        io.Writer
	terminal bool
	verb     string // "resealed"
	total    int64  // 0 if it is not known
	begun    time.Time
	shown    time.Time
	drawn    bool
}

const (
	barWidth     = 30
	barInterval  = 100 * time.Millisecond
	lineInterval = 10 * time.Second
)

func (a *app) newMeter(verb string, total int64) *meter {
	now := time.Now()
	return &meter{w: a.err, terminal: isTerminal(a.err), verb: verb, total: total, begun: now, shown: now}
}

func (m *meter) report(done int64) {
	interval := lineInterval
	if m.terminal {
		interval = barInterval
	}
	now := time.Now()
	if now.Sub(m.shown) < interval {
		return
	}
	m.shown = now
	text := m.text(done, now.Sub(m.begun))
	if !m.terminal {
		fmt.Fprintln(m.w, text)
		return
	}
	m.drawn = true
	fmt.Fprint(m.w, "\r", m.bar(done), text, "\x1b[K")
}

// text is what is said beside the bar.
func (m *meter) text(done int64, took time.Duration) string {
	rate := float64(done) / max(took.Seconds(), 0.001)
	text := fmt.Sprintf("%s %d", m.verb, done)
	if m.total > 0 {
		text += fmt.Sprintf(" of %d", m.total)
	}
	text += fmt.Sprintf(", %.0f a second", rate)
	if left := m.total - done; left > 0 && rate > 0 {
		text += ", " + duration(time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second)) + " left"
	}
	return text
}

func (m *meter) bar(done int64) string {
	if m.total == 0 {
		return ""
	}
	filled := int(barWidth * min(done, m.total) / m.total)
	return "[" + strings.Repeat("#", filled) + strings.Repeat(".", barWidth-filled) + "] "
}

// end takes the bar away, so that the result stands alone.
func (m *meter) end() {
	if m.drawn {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}

// withPrefix returns an error's text with the program's name, once.
func withPrefix(err error) string {
	text := err.Error()
	if strings.HasPrefix(text, "pgsession: ") {
		return text
	}
	return "pgsession: " + text
}

// explain adds to a store's error what an operator can do.
func explain(err error) error {
	switch {
	case errors.Is(err, pgsession.ErrRevoked):
		return errors.New("no live session has this handle: it was ended")
	case errors.Is(err, pgsession.ErrNotFound):
		return errors.New("no live session has this handle")
	case errors.Is(err, pgsession.ErrConflict):
		return errors.New("another node keeps writing such rows: give all nodes the new primary key, and run this again")
	case errors.Is(err, pgsession.ErrUnknownKey):
		return fmt.Errorf("%w: is a key missing from SESSION_KEYS?", err)
	}
	return err
}
