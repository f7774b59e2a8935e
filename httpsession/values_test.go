package httpsession_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// A release is a release of an application whose values are of type V.
type release[V any] struct {
	*httpsession.Manager[V]
	t   *testing.T
	jar map[string]string // shared by the releases that one browser visits
}

func newRelease[V any](t *testing.T, store *pgsession.Store, jar map[string]string, opts ...httpsession.Option) release[V] {
	return release[V]{httpsession.New[V](store, append(opts, httpsession.WithLogger(new(logs).logger()))...), t, jar}
}

// do sends a request to the release that call answers.
func (v release[V]) do(call func(w http.ResponseWriter, r *http.Request) error) error {
	r, w := httptest.NewRequest("POST", "https://example.com/", nil), httptest.NewRecorder()
	for name, value := range v.jar {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	err := errors.New("not called")
	v.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { err = call(w, r) })).ServeHTTP(w, r)
	for _, cookie := range w.Result().Cookies() {
		if delete(v.jar, cookie.Name); cookie.MaxAge >= 0 {
			v.jar[cookie.Name] = cookie.Value
		}
	}
	return err
}

func (v release[V]) update(change func(*V) error) error {
	return v.do(func(w http.ResponseWriter, r *http.Request) error { return v.Update(w, r, change) })
}

func (v release[V]) logIn(user string, change func(*V) error, opts ...httpsession.LogInOption) error {
	return v.do(func(w http.ResponseWriter, r *http.Request) error { return v.LogIn(w, r, user, change, opts...) })
}

func (v release[V]) renewID(change func(*V) error) error {
	return v.do(func(w http.ResponseWriter, r *http.Request) error { return v.RenewID(w, r, change) })
}

func (v release[V]) get() (s httpsession.Session[V]) {
	require.NoError(v.t, v.do(func(_ http.ResponseWriter, r *http.Request) error { s = v.Get(r); return nil }))
	return s
}

// stored returns the values of the browser's session as the store has them.
func (v release[V]) stored(store *pgsession.Store) string {
	loaded, err := store.Find(v.t.Context(), v.get().Handle)
	require.NoError(v.t, err)
	raw, err := pgsession.Decode[json.RawMessage](loaded)
	require.NoError(v.t, err)
	return string(raw)
}

type (
	olderValues struct {
		Cart     []string `json:"cart"`
		Language string   `json:"language,omitempty"`
		Security struct {
			Password bool `json:"password"`
		} `json:"security"`
		Items []olderItem          `json:"items,omitempty"`
		ByID  map[string]olderItem `json:"by_id,omitempty"`
	}
	olderItem struct {
		Name string `json:"name"`
	}
	newerItem struct {
		olderItem
		IsGift bool `json:"is_gift"`
	}
	newerValues struct {
		Cart     []string `json:"cart"`
		Language string   `json:"language,omitempty"`
		MFA      bool     `json:"mfa"`
		Security struct {
			Password bool           `json:"password"`
			Keys     map[string]int `json:"keys"`
		} `json:"security"`
		Notes []string             `json:"notes,omitempty"`
		Items []newerItem          `json:"items,omitempty"`
		ByID  map[string]newerItem `json:"by_id,omitempty"`
	}
)

// During a deployment both releases serve one browser.
func TestValues_ReleasesSideBySide(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		store := newFixture(t).store
		add := func(v *olderValues) error {
			v.Cart, v.Items, v.Language = append(v.Cart, "ink"), append(v.Items, olderItem{"ink"}), ""
			return nil
		}
		for name, write := range map[string]func(older release[olderValues]) error{
			"Update":      func(older release[olderValues]) error { return older.update(add) },
			"Update, nil": func(older release[olderValues]) error { return older.update(nil) },
			"LogIn":       func(older release[olderValues]) error { return older.logIn("ann", add) },
			"LogIn, nil":  func(older release[olderValues]) error { return older.logIn("ann", nil) },
			"RenewID":     func(older release[olderValues]) error { return older.renewID(add) },
			"RenewID,nil": func(older release[olderValues]) error { return older.renewID(nil) },
		} {
			for _, user := range []string{"", "ann"} {
				t.Run(name+", "+user, func(t *testing.T) {
					jar := make(map[string]string)
					older, newer := newRelease[olderValues](t, store, jar), newRelease[newerValues](t, store, jar)
					fill := func(v *newerValues) error {
						v.Cart, v.Language, v.MFA = []string{"pen"}, "en", true
						v.Security.Password, v.Security.Keys = true, map[string]int{"<yubi>": 7}
						v.Notes = []string{"é"}
						v.Items = []newerItem{{olderItem{"pen"}, true}}
						v.ByID = map[string]newerItem{"1": {olderItem{"pen"}, true}}
						return nil
					}
					if user == "" {
						require.NoError(t, newer.update(fill))
					} else {
						require.NoError(t, newer.logIn(user, fill))
					}
					want := newer.get().Values
					before := newer.stored(store)
					require.NoError(t, write(older))
					if strings.HasSuffix(name, "nil") {
						require.Equal(t, before, newer.stored(store), "byte for byte")
					} else {
						want.Cart, want.Language = []string{"pen", "ink"}, ""
						want.Items = append(want.Items, newerItem{olderItem: olderItem{"ink"}})
						require.NotContains(t, newer.stored(store), "language", "what became empty goes")
					}
					require.Equal(t, want, newer.get().Values)
					require.NoError(t, newer.update(func(v *newerValues) error { v.Notes, v.Security.Keys = nil, nil; return nil }))
					want.Notes, want.Security.Keys = nil, nil
					require.NoError(t, older.update(add))
					want.Cart, want.Language = append(want.Cart, "ink"), ""
					want.Items = append(want.Items, newerItem{olderItem: olderItem{"ink"}})
					require.Equal(t, want, newer.get().Values, "and what the newer one removed stays away")
				})
			}
		}
	})
}

// One user's values are not for another, whichever release knows them.
func TestValues_AnotherUser(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		store := newFixture(t).store
		for name, change := range map[string]func(*olderValues) error{
			"nil": nil, "change": func(v *olderValues) error { v.Language = "de"; return nil },
		} {
			t.Run(name, func(t *testing.T) {
				jar := make(map[string]string)
				older, newer := newRelease[olderValues](t, store, jar), newRelease[newerValues](t, store, jar)
				require.NoError(t, newer.logIn("ann", func(v *newerValues) error { v.MFA, v.Cart = true, []string{"pen"}; return nil }))
				require.NoError(t, older.logIn("bob", change))
				require.False(t, newer.get().Values.MFA)
				require.Empty(t, newer.get().Values.Cart)
				require.NotContains(t, newer.stored(store), "mfa")
			})
		}
	})
}

// An upgraded is a type that takes the values of a release in which Cart was one string.
type upgraded struct {
	Cart []string `json:"cart"`
}

func (u *upgraded) UnmarshalJSON(data []byte) error {
	var earlier struct {
		Basket *string  `json:"basket"`
		Cart   []string `json:"cart"`
	}
	if err := json.Unmarshal(data, &earlier); err != nil {
		return fmt.Errorf("cannot read %s", data)
	}
	if u.Cart = earlier.Cart; earlier.Basket != nil {
		u.Cart = strings.Split(*earlier.Basket, ",")
	}
	return nil
}

// A type with methods of its own for JSON has all members to itself: what it has converted does not
// come back.
func TestValues_Converted(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		store, jar := newFixture(t).store, make(map[string]string)
		earlier := newRelease[map[string]string](t, store, jar)
		require.NoError(t, earlier.update(func(v *map[string]string) error { *v = map[string]string{"basket": "pen,ink"}; return nil }))
		now := newRelease[upgraded](t, store, jar)
		require.Equal(t, []string{"pen", "ink"}, now.get().Values.Cart)
		require.NoError(t, now.update(func(v *upgraded) error { v.Cart = v.Cart[1:]; return nil }))
		require.Equal(t, []string{"ink"}, now.get().Values.Cart)
		require.JSONEq(t, `{"cart":["ink"]}`, now.stored(store))
	})
}

// Values that do not decode begin anew, and the log says so without them.
func TestValues_DoNotDecode(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		store := newFixture(t).store
		for name, stored := range map[string]any{
			"another type":       map[string]any{"cart": map[string]int{"secret": 1}, "kept": "yes"},
			"its own error":      map[string]any{"cart": "secret", "kept": "yes"},
			"no object":          []string{"secret"},
			"bytes of the store": []byte(`{"cart":["secret"]}`),
		} {
			t.Run(name, func(t *testing.T) {
				logs := new(logs)
				m := httpsession.New[upgraded](store, httpsession.WithLogger(logs.logger()))
				planted, err := store.CreateAs(t.Context(), pgsession.NewIDFor("session"), pgsession.Data{UserID: "ann", Values: stored}, time.Hour)
				require.NoError(t, err)
				v := release[upgraded]{m, t, map[string]string{"__Host-session": planted.ID.Token()}}
				require.Equal(t, "ann", v.get().UserID, "still logged in")
				require.Empty(t, v.get().Values)
				require.Contains(t, logs.String(), "level=WARN")
				require.Contains(t, logs.String(), planted.Handle.String())
				require.NotContains(t, logs.String(), "secret")
				require.NoError(t, v.update(func(v *upgraded) error { v.Cart = append(v.Cart, "pen"); return nil }))
				require.Equal(t, []string{"pen"}, v.get().Values.Cart)
			})
		}
	})
}

type onlyText struct{ text string }

func (o onlyText) MarshalText() ([]byte, error) { return []byte(o.text), nil }

// oddValues have fields that encoding/json writes and does not read.
type oddValues struct {
	Err   error     `json:"err,omitempty"`
	Text  *onlyText `json:"text,omitempty"`
	Any   any       `json:"any,omitempty"`
	Count int       `json:"count"`
}

// What would not decode again is not stored, and the session stays as it was.
func TestValues_WouldNotDecode(t *testing.T) {
	var deep any
	for range 10_001 {
		deep = []any{deep}
	}
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		store := newFixture(t).store
		for name, change := range map[string]func(*oddValues){
			"an error":      func(v *oddValues) { v.Err = errors.New("secret") },
			"text alone":    func(v *oddValues) { v.Text = &onlyText{"secret"} },
			"a huge number": func(v *oddValues) { v.Any = json.Number("1e999") },
			"depth":         func(v *oddValues) { v.Any = deep },
			"a function":    func(v *oddValues) { v.Any = func() {} },
		} {
			t.Run(name, func(t *testing.T) {
				v := newRelease[oddValues](t, store, make(map[string]string))
				odd := func(v *oddValues) error { change(v); return nil }
				require.ErrorIs(t, v.update(odd), pgsession.ErrEncode)
				require.Empty(t, v.jar)
				require.ErrorIs(t, v.logIn("ann", odd), pgsession.ErrEncode)
				require.Empty(t, v.jar)
				require.NoError(t, v.logIn("ann", func(v *oddValues) error { v.Count = 1; return nil }))
				for _, err := range []error{v.update(odd), v.logIn("ann", odd), v.renewID(odd)} {
					require.ErrorIs(t, err, pgsession.ErrEncode)
					require.NotContains(t, err.Error(), "secret")
				}
				require.Equal(t, 1, v.get().Values.Count)
			})
		}
		t.Run("a token", func(t *testing.T) {
			m := httpsession.New[oddValues](store, httpsession.WithBearer())
			_, err := m.IssueToken(t.Context(), "ann", oddValues{Err: errors.New("secret")})
			require.ErrorIs(t, err, pgsession.ErrEncode)
		})
	})
}

// A method of a pointer writes as it reads.
type pointerMethods struct{ secret string }

func (p *pointerMethods) MarshalJSON() ([]byte, error)    { return json.Marshal(p.secret) }
func (p *pointerMethods) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &p.secret) }

type embeds struct {
	inner
	*pointed
}
type (
	inner   struct{ Count int }
	pointed struct{ Name string }
	self    struct {
		//lint:ignore U1000 a type that embeds itself
		*self
		Count int
	}
	pointers *pointers
	list     struct {
		Next *list
		Name string
	}
)

func TestNew_Values(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	for name, make := range map[string]func(){
		"no exported field": func() { httpsession.New[struct{ count int }](store) },
		"a pointer to such": func() { httpsession.New[*struct{ count int }](store) },
		"a list of such":    func() { httpsession.New[[]struct{ count int }](store) },
		"a map of such": func() {
			httpsession.New[struct {
				Parts map[string]*struct{ count int }
			}](store)
		},
		"a part of it": func() { httpsession.New[struct{ Part *struct{ count int } }](store) },
		"all left out": func() {
			httpsession.New[struct {
				Count int `json:"-"`
			}](store)
		},
		"a function":       func() { httpsession.New[func()](store) },
		"a channel inside": func() { httpsession.New[struct{ C chan int }](store) },
	} {
		require.Panics(t, make, name)
	}
	for name, make := range map[string]func(){
		"nothing":  func() { httpsession.New[struct{}](store) },
		"a number": func() { httpsession.New[int](store) },
		"anything": func() { httpsession.New[any](store) },
		"a map":    func() { httpsession.New[map[string]any](store) },
		"raw":      func() { httpsession.New[json.RawMessage](store) },
		"a time":   func() { httpsession.New[time.Time](store) },
		"methods":  func() { httpsession.New[pointerMethods](store) },
		"embedded": func() { httpsession.New[embeds](store) },
		"embedded, a name": func() {
			httpsession.New[struct {
				inner `json:"inner"`
			}](store)
		},
		"itself, embedded": func() { httpsession.New[self](store) },
		"itself":           func() { httpsession.New[list](store) },
		"pointers":         func() { httpsession.New[pointers](store) },
	} {
		require.NotPanics(t, make, name)
	}
	v := newRelease[pointerMethods](t, store, map[string]string{})
	require.NoError(t, v.update(func(p *pointerMethods) error { p.secret = "kept"; return nil }))
	require.Equal(t, "kept", v.get().Values.secret)
}
