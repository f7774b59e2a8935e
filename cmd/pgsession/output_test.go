package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// A meter draws a bar on a terminal, and otherwise writes a line every ten seconds.
func TestMeter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := &meter{w: &out, verb: "resealed", total: 1200, begun: time.Now(), shown: time.Now()}
		for second := range 25 {
			m.report(int64(10 * second))
			time.Sleep(time.Second)
		}
		m.end()
		require.Equal(t, "resealed 100 of 1200, 10 a second, 1m50s left\nresealed 200 of 1200, 10 a second, 1m40s left\n", out.String())
	})
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		m := &meter{w: &out, terminal: true, verb: "sealed", total: 1200, begun: time.Now(), shown: time.Now()}
		m.report(1)
		require.Empty(t, out.String())
		time.Sleep(6 * time.Second)
		m.report(600)
		require.Equal(t, "\r[###############...............] sealed 600 of 1200, 100 a second, 6s left\x1b[K", out.String())
		out.Reset()
		m.end()
		require.Equal(t, "\r\x1b[K", out.String())
	})
	synctest.Test(t, func(t *testing.T) {
		m := &meter{terminal: true, verb: "removed"}
		require.Equal(t, "removed 1000, 500 a second", m.bar(1000)+m.text(1000, 2*time.Second))
	})
}

func TestDuration(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		12 * time.Hour:                         "12h",
		90 * time.Minute:                       "1h30m",
		20 * time.Minute:                       "20m",
		time.Hour + time.Second:                "1h0m1s",
		100*time.Second + 300*time.Millisecond: "1m40s",
		1500 * time.Millisecond:                "1.5s",
		0:                                      "0s",
	} {
		require.Equal(t, want, duration(d))
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	require.Equal(t, "1023 B", size(1023))
	require.Equal(t, "1.0 KiB", size(1024))
	require.Equal(t, "1.5 GiB", size(3<<29))
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		pgsession.ErrRevoked:    "no live session has this handle: it was ended",
		pgsession.ErrNotFound:   "no live session has this handle",
		pgsession.ErrConflict:   "another node keeps writing such rows: give all nodes the new primary key, and run this again",
		pgsession.ErrUnknownKey: "pgsession: session is sealed under an unknown key: is a key missing from SESSION_KEYS?",
		io.EOF:                  "EOF",
	} {
		require.EqualError(t, explain(err), want)
	}
	require.NoError(t, explain(nil))
}

// What an application has stored cannot make a terminal do something.
func TestPlain(t *testing.T) {
	t.Parallel()
	require.Equal(t, "älice@example.com", plain("älice@example.com"))
	require.Equal(t, `"a\x1b[2Jb\n"`, plain("a\x1b[2Jb\n"))
	require.Equal(t, `"\u202eecila"`, plain("\u202eecila"))

	// encoding/json escapes less: not the control characters U+0080 to U+009F, and no marks.
	values := map[string]string{"device": "Fïrefox\u009b2J\u202e\x7f\U000e0041\x1b[2J"}
	var printed bytes.Buffer
	require.NoError(t, printJSON(&printed, values, ""))
	require.Equal(t, `{"device":"Fïrefox\u009b2J\u202e\u007f\udb40\udc41\u001b[2J"}`+"\n", printed.String())
	var again map[string]string
	require.NoError(t, json.Unmarshal(printed.Bytes(), &again))
	require.Equal(t, values, again)
}

// go run …@latest refuses a module with such a directive. The go.work beside it has one.
func TestModule_HasNoReplace(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"go.mod": false, "go.work": true} {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, strings.Contains(string(content), "replace"), name)
	}
}
