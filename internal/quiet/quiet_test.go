package quiet_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/quiet"
)

func TestLimiter_Log(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))
		var l quiet.Limiter
		for range 3 {
			l.Log(t.Context(), logger, slog.LevelError, "away", "error", "x")
			l.Log(t.Context(), logger, slog.LevelWarn, "other")
		}
		time.Sleep(time.Second) // of the bubble's clock
		for range 2 {
			l.Log(t.Context(), logger, slog.LevelError, "away", "error", "y")
		}
		time.Sleep(time.Hour)
		l.Log(t.Context(), logger, slog.LevelError, "away")
		require.Equal(t, []string{
			"level=ERROR msg=away error=x",
			"level=WARN msg=other",
			"level=ERROR msg=away error=y not_logged_before=2",
			"level=ERROR msg=away not_logged_before=1",
		}, strings.Split(strings.TrimSpace(text.String()), "\n"))
	})
}
