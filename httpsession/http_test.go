package httpsession_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// The tests in this file do with the ResponseWriter what middleware that wraps it tends to break.

func TestHTTP_ResponseWriter(t *testing.T) {
	t.Parallel()
	f := newInMemory(t)
	var outer, inner http.ResponseWriter
	handler := f.Handler(f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner = w })))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outer = w
		handler.ServeHTTP(w, r)
	}))
	newBrowser(t, server).do("GET /")
	require.Same(t, outer, inner)
}

func TestHTTP_ResponseController(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /controlled", func(w http.ResponseWriter, r *http.Request) {
			control := http.NewResponseController(w)
			require.NoError(t, control.SetReadDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, control.SetWriteDeadline(time.Now().Add(time.Minute)))
			require.NoError(t, control.EnableFullDuplex())
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
			io.WriteString(w, "first ")
			require.NoError(t, control.Flush())
			// The cookie is out, and the session goes on.
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
			fmt.Fprint(w, f.Get(r).Values.Count)
		})
		b := f.serve(t, mux)
		answer := b.do("POST /controlled")
		require.Equal(t, "first 2", answer.body)
		require.Equal(t, []string{"set session-guest"}, answer.setCookies())
		require.Equal(t, 2, b.get().Values.Count)
	})
}

// A stream ends after a log-out, a log-out elsewhere and a log-in as another user.
func TestHTTP_Stream(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		tick := make(chan struct{})
		mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
			user := f.Get(r).UserID
			for i := 0; ; i++ {
				s, err := f.Reload(r)
				if err == nil && s.UserID != user {
					return
				}
				fmt.Fprintf(w, "data: %d %v\n", s.Values.Count, err != nil)
				w.(http.Flusher).Flush()
				select {
				case <-tick:
				case <-r.Context().Done():
					return
				}
			}
		})
		b := f.serve(t, mux)
		for name, end := range map[string]func(b *browser){
			"log-out": func(b *browser) { b.do("POST /logout") },
			"log-in":  func(b *browser) { b.do("POST /login?user=bob") },
			"everywhere": func(*browser) {
				_, err := f.store.DeleteByUser(t.Context(), "ann")
				require.NoError(t, err)
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := b.another()
				b.do("POST /login?user=ann")
				request, err := http.NewRequestWithContext(t.Context(), "GET", b.url+"/events", nil)
				require.NoError(t, err)
				stream, err := b.Do(request)
				require.NoError(t, err)
				defer stream.Body.Close()
				lines := bufio.NewReader(stream.Body)
				read := func() string {
					line, err := lines.ReadString('\n')
					if errors.Is(err, io.EOF) {
						return "end"
					}
					require.NoError(t, err)
					return line
				}
				require.Equal(t, "data: 0 false\n", read())
				b.do("POST /add")
				tick <- struct{}{}
				require.Equal(t, "data: 1 false\n", read())
				f.outage(true)
				tick <- struct{}{}
				require.Equal(t, "data: 0 true\n", read(), "an outage ends nothing")
				f.outage(false)
				end(b)
				tick <- struct{}{}
				require.Equal(t, "end", read())
			})
		}
	})
}

// What Watch returns ends soon after the session does, however that happens, and not before.
func TestManager_Watch(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("GET /watch", func(w http.ResponseWriter, r *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			watched := f.Watch(r)
			if f.Get(r).Handle.IsZero() {
				require.Equal(t, r.Context(), watched, "there is nothing to watch")
				return
			}
			select {
			case <-watched.Done():
				fmt.Fprint(w, context.Cause(watched))
			case <-time.After(patience):
			}
		})
		server := f.serve(t, mux)
		require.Equal(t, http.StatusOK, server.do("GET /watch").StatusCode)
		for name, end := range map[string]func(b *browser){
			"log-out": func(b *browser) { b.do("POST /logout") },
			"new id":  func(b *browser) { b.do("POST /renew") },
			"everywhere": func(*browser) {
				_, err := f.store.DeleteByUser(t.Context(), "ann")
				require.NoError(t, err)
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := server.another()
				b.do("POST /login?user=ann")
				request, err := http.NewRequestWithContext(t.Context(), "GET", b.url+"/watch", nil)
				require.NoError(t, err)
				stream, err := b.Do(request)
				require.NoError(t, err)
				defer stream.Body.Close()
				end(b)
				cause, err := io.ReadAll(stream.Body)
				require.NoError(t, err)
				require.Equal(t, pgsession.ErrRevoked.Error(), string(cause))
			})
		}
		mux.HandleFunc("POST /late", func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, f.store.RevokeAny(r.Context(), f.Get(r).Handle))
			require.ErrorIs(t, f.Update(w, r, nil), pgsession.ErrNotFound)
			receive(t, f.Watch(r).Done())
		})
		for _, begin := range []string{"POST /add", "POST /login?user=ann"} {
			b := server.another()
			b.do(begin)
			require.Equal(t, http.StatusOK, b.do("POST /late").StatusCode, "a session that the request has found over")
		}
	})
}

func TestHTTP_Hijack(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("GET /socket", func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Flash = "opened"; return nil }))
			conn, buffered, err := http.NewResponseController(w).Hijack()
			require.NoError(t, err)
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: lines\r\nConnection: Upgrade\r\n\r\n")
			for {
				if _, err := buffered.ReadString('\n'); err != nil {
					return
				}
				if s, err := f.Reload(r); err != nil || s.UserID == "" {
					io.WriteString(conn, "bye\n")
					return
				}
				err := f.Update(w, r, func(v *Values) error { v.Count++; return nil })
				fmt.Fprintln(conn, f.Get(r).Values.Count, err)
			}
		})
		b := f.serve(t, mux)
		b.do("POST /login?user=ann")
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", b.address().Host)
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: %s\r\nUpgrade: lines\r\nConnection: Upgrade\r\nCookie: session=%s\r\n\r\n",
			b.address().Host, b.token("session"))
		lines := bufio.NewReader(conn)
		answer, err := http.ReadResponse(lines, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, answer.StatusCode)
		say := func() string {
			fmt.Fprintln(conn, "hello")
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			return line
		}
		require.Equal(t, "1 <nil>\n", say())
		b.do("POST /add")
		require.Equal(t, "3 <nil>\n", say())
		b.do("POST /logout")
		require.Equal(t, "bye\n", say())
	})
}

func TestHTTP_Panic(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /panic", func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
			panic("after")
		})
		mux.HandleFunc("POST /recovered", func(w http.ResponseWriter, r *http.Request) {
			func() {
				defer func() { require.Equal(t, "within", recover()) }()
				f.Update(w, r, func(v *Values) error { v.Count = 100; panic("within") })
			}()
			f.answer(w, r, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
		})
		b := f.serve(t, mux)
		b.do("POST /add")
		_, err := b.try("POST /panic")
		require.Error(t, err)
		require.Equal(t, 2, b.get().Values.Count, "what Update returned nil for is stored")
		require.Equal(t, 3, b.do("POST /recovered").session(t).Values.Count)
		require.Equal(t, 3, b.get().Values.Count)
	})
}

func TestHTTP_HeadAndNotModified(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("/{status}", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
			if r.PathValue("status") == "304" {
				w.WriteHeader(http.StatusNotModified)
			}
		})
		server := f.serve(t, mux)
		for request, status := range map[string]int{"HEAD /200": 200, "GET /304": 304} {
			b := server.another()
			answer := b.do(request)
			require.Equal(t, status, answer.StatusCode)
			require.Equal(t, []string{"set session-guest"}, answer.setCookies())
			require.Equal(t, "no-store", answer.Header.Get("Cache-Control"), "no cache may store the cookie")
			require.Equal(t, 1, b.get().Values.Count)
			answer = b.do(request)
			require.Empty(t, answer.setCookies())
			require.Equal(t, "public, max-age=3600", answer.Header.Get("Cache-Control"), "the application's own")
		}
	})
}

// A cache in front of the application stores what it may, and gives it to everybody.
func TestHTTP_SharedCache(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("GET /page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "public, max-age=60")
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
			f.write(w, r)
		})
		app := f.Handler(mux)
		var stored *httptest.ResponseRecorder
		cache := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := stored
			if answer == nil {
				answer = httptest.NewRecorder()
				app.ServeHTTP(answer, r)
				if answer.Header().Get("Cache-Control") != "no-store" {
					stored = answer
				}
			}
			for key, values := range answer.Header() {
				w.Header()[key] = values
			}
			w.WriteHeader(answer.Code)
			w.Write(answer.Body.Bytes())
		})
		first := newBrowser(t, httptest.NewServer(cache))
		second := first.another()
		first.do("GET /page")
		second.do("GET /page")
		require.NotEqual(t, first.token("session-guest"), second.token("session-guest"))
	})
}

func TestHTTP2(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		server := httptest.NewUnstartedServer(f.Handler(f.app()))
		server.EnableHTTP2 = true
		server.StartTLS()
		b := newBrowser(t, server)
		answer := b.do("POST /login?user=ann")
		require.Equal(t, 2, answer.ProtoMajor)
		require.Equal(t, []string{"set __Host-session"}, answer.setCookies())
		require.Equal(t, "ann", b.get().UserID)
	})
}
