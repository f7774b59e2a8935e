package move

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const barWidth = 30

// Bar returns a function for [Import] that shows its progress. On a terminal it draws a bar, which
// it redraws in place. Otherwise it writes a line at most every ten seconds. It writes nothing
// about a session.
func Bar(w io.Writer) func(Progress) {
	if file, ok := w.(*os.File); ok {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return func(p Progress) { fmt.Fprint(w, "\r"+drawn(p)) }
		}
	}
	return lines(w, 10*time.Second)
}

func drawn(p Progress) string {
	done, total := p.Moved+p.Left, max(p.Total, p.Moved+p.Left)
	filled := barWidth
	if total > 0 {
		filled = int(barWidth * done / total)
	}
	text := fmt.Sprintf("[%s%s] %d of %d", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), done, total)
	if p.Left > 0 {
		text += fmt.Sprintf(", %d left", p.Left)
	}
	if done == total {
		text += "\n"
	}
	return text
}

func lines(w io.Writer, interval time.Duration) func(Progress) {
	var last time.Time
	return func(p Progress) {
		if done := p.Moved+p.Left >= p.Total; done || time.Since(last) >= interval {
			last = time.Now()
			fmt.Fprintf(w, "sessions: %d moved, %d left, of %d\n", p.Moved, p.Left, p.Total)
		}
	}
}
