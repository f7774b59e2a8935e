// Package quiet bounds what is logged in an outage, when every request meets the same trouble.
package quiet

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const interval = time.Second

// A Limiter lets each message through once a second. The zero Limiter is ready for use. It is safe
// for concurrent use. It remembers each message, so messages are constants.
type Limiter struct {
	mu       sync.Mutex
	messages map[string]*message
}

type message struct {
	logged  time.Time
	leftOut int
}

// Log logs a message, if it may be logged now. The attribute not_logged_before says how many times
// it was left out since it was last logged.
func (l *Limiter) Log(ctx context.Context, logger *slog.Logger, level slog.Level, text string, args ...any) {
	l.By(func(text string, args ...any) { logger.Log(ctx, level, text, args...) }, text, args...)
}

// By is Log for another logger.
func (l *Limiter) By(log func(text string, args ...any), text string, args ...any) {
	leftOut, ok := l.allow(text)
	if !ok {
		return
	}
	if leftOut > 0 {
		args = append(args, "not_logged_before", leftOut)
	}
	log(text, args...)
}

// allow reports whether a message may be logged now. If so, it also returns how many times it was
// left out since it was last logged.
func (l *Limiter) allow(text string) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.messages[text]
	if m == nil {
		if l.messages == nil {
			l.messages = make(map[string]*message)
		}
		m = &message{}
		l.messages[text] = m
	}
	now := time.Now()
	if now.Sub(m.logged) < interval {
		m.leftOut++
		return 0, false
	}
	leftOut = m.leftOut
	*m = message{logged: now}
	return leftOut, true
}
