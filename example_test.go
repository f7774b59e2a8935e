package pgsession_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// exampleStore is what an application has from its start-up: see the package's
// example.
func exampleStore() (store *pgsession.Store, stop func()) {
	return exampleStoreWith(test.Must(pgsession.NewCrypto(pgsession.GenerateKey())))
}

func exampleStoreWith(crypto *pgsession.Crypto) (store *pgsession.Store, stop func()) {
	pool := test.Must(pgxpool.New(context.Background(), test.Must(pgtest.Shared()).URL()))
	store = pgsession.New(pool, crypto, pgsession.WithTable("example "+rand.Text()))
	if err := store.Init(context.Background()); err != nil {
		panic(err)
	}
	return store, pool.Close
}

// An application's start-up.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		slog.Error("no database", "error", err)
		return
	}
	crypto, err := pgsession.ParseKeyRing(os.Getenv("SESSION_KEYS"))
	if err != nil {
		slog.Error("no keys", "error", err)
		return
	}
	store := pgsession.New(pool, crypto, pgsession.WithAbsoluteLifetime(12*time.Hour))
	if err := store.Init(ctx); err != nil {
		slog.Error("no table", "error", err)
		return
	}
	cleanup := store.SpawnCleanup(ctx, 10*time.Minute)
	defer cleanup.Stop()
	http.Handle("/healthz", store.HealthHandler())
}

type Cart struct{ Items []string }

func ExampleStore_Create() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()

	session, err := store.Create(ctx, pgsession.Data{UserID: "alice", Values: Cart{Items: []string{"tea"}}}, 24*time.Hour)
	if err != nil {
		panic(err)
	}
	cookie := &http.Cookie{
		Name: "__Host-session", Value: session.ID.Token(), Path: "/",
		HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	}

	// A later request brings the cookie back.
	id, err := pgsession.ParseID(cookie.Value)
	if err != nil {
		panic(err)
	}
	session, err = store.Load(ctx, id)
	if err != nil {
		panic(err)
	}
	cart, err := pgsession.Decode[Cart](session)
	fmt.Println(session.UserID, cart.Items, err)
	// Output: alice [tea] <nil>
}

// A request reads its session, and keeps it alive. Only ErrNotFound means that nobody is logged in.
// Any other error is an outage, and no reason to show the log-in page.
func ExampleStore_Load() {
	store, stop := exampleStore()
	defer stop()

	handler := func(w http.ResponseWriter, r *http.Request) {
		var id pgsession.ID // the zero ID, without a valid cookie: no session is found
		if cookie, err := r.Cookie("__Host-session"); err == nil {
			id, _ = pgsession.ParseID(cookie.Value)
		}
		session, err := store.Load(r.Context(), id)
		switch {
		case errors.Is(err, pgsession.ErrNotFound):
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		case err != nil:
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		if _, err := store.Touch(r.Context(), session, 0); err != nil { // 0: its IdleTimeout
			slog.Warn("session not prolonged", "session", session, "error", err)
		}
		fmt.Fprintln(w, "Hello", session.UserID)
	}
	_ = http.HandlerFunc(handler)
}

func ExampleStore_Update() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()
	session, _ := store.Create(ctx, pgsession.Data{UserID: "alice", Values: Cart{}}, time.Hour)

	for _, item := range []string{"tea", "milk"} {
		var err error
		session, err = store.Update(ctx, session, 0, func(session *pgsession.Session) (any, error) {
			cart, err := pgsession.Decode[Cart](session)
			cart.Items = append(cart.Items, item)
			return cart, err
		})
		if err != nil {
			panic(err)
		}
	}
	cart, _ := pgsession.Decode[Cart](session)
	fmt.Println(cart.Items)
	// Output: [tea milk]
}

// A log-in moves what the guest had to a new id. The old id, which somebody may have known, opens
// nothing any more.
func ExampleStore_Renew() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()
	guest, _ := store.Create(ctx, pgsession.Data{Values: Cart{Items: []string{"tea"}}}, time.Hour)

	session, err := store.Renew(ctx, guest, 24*time.Hour, func(guest *pgsession.Session) (pgsession.Data, error) {
		data := guest.Data()
		data.UserID = "alice"
		return data, nil
	})
	if err != nil {
		panic(err)
	}
	// The cookie is now session.ID.Token().
	cart, _ := pgsession.Decode[Cart](session)
	fmt.Println(session.UserID, cart.Items)

	_, err = store.Load(ctx, guest.ID)
	fmt.Println(errors.Is(err, pgsession.ErrNotFound), err)
	// Output:
	// alice [tea]
	// true pgsession: session was ended
}

// "Remember me" is a longer ttl and a longer Lifetime.
func ExampleData_rememberMe() {
	store, stop := exampleStore()
	defer stop()

	const day = 24 * time.Hour
	session, err := store.Create(context.Background(), pgsession.Data{
		UserID:   "alice",
		Lifetime: 90 * day,
	}, 30*day)
	if err != nil {
		panic(err)
	}
	fmt.Println(session.IdleTimeout, session.EndsAt.Sub(session.CreatedAt))
	// Output: 720h0m0s 2160h0m0s
}

// A page lists the user's devices. One is logged out by its handle, and all others but this one at
// once.
func ExampleStore_FindByUser() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()
	store.Create(ctx, pgsession.Data{UserID: "alice", Values: "tablet"}, time.Hour)
	phone, _ := store.Create(ctx, pgsession.Data{UserID: "alice", Values: "phone"}, time.Hour)
	laptop, _ := store.Create(ctx, pgsession.Data{UserID: "alice", Values: "laptop"}, time.Hour)

	devices, _ := store.FindByUser(ctx, "alice", 20)
	for _, device := range devices {
		name, err := pgsession.Decode[string](device)
		fmt.Println(name, device.Handle == laptop.Handle, err)
	}

	fmt.Println(store.Revoke(ctx, "alice", phone.Handle))
	ended, _ := store.DeleteByUser(ctx, "alice", laptop.Handle)
	fmt.Println(ended, "more ended")
	// Output:
	// laptop true <nil>
	// phone false <nil>
	// tablet false <nil>
	// <nil>
	// 1 more ended
}

// A framework that makes its own tokens derives ids from them.
func ExampleDeriveID() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()

	const token = "8Yc0oOKqMnSx3XL0Jjb1c9GPGkvWbS2S" // the framework's, from its own cookie
	if err := store.Put(ctx, pgsession.DeriveID(token), pgsession.Data{UserID: "alice"}, time.Hour); err != nil {
		panic(err)
	}
	session, err := store.Load(ctx, pgsession.DeriveID(token))
	if err != nil {
		panic(err)
	}
	fmt.Println(session.UserID)
	// Output: alice
}

// A rotation has three steps. Each is taken on all nodes before the next begins.
func ExampleCrypto_SetKeys() {
	ctx := context.Background()
	old, fresh := pgsession.GenerateKey(), pgsession.GenerateKey()
	crypto, _ := pgsession.NewCrypto(old)
	store, stop := exampleStoreWith(crypto)
	defer stop()

	// 1. Every node can open what the new key seals.
	if err := crypto.SetKeys(old, fresh); err != nil {
		panic(err)
	}
	// 2. Every node seals under the new key. Then one of them reseals the rest.
	if err := crypto.SetKeys(fresh, old); err != nil {
		panic(err)
	}
	if _, err := store.Reseal(ctx); err != nil {
		panic(err)
	}
	// 3. No row bears the old key's id, so that it can go.
	fmt.Println(crypto.SetKeys(fresh))
	// Output: <nil>
}

// A one-time value is taken once. The key is random: one that can be guessed would be a password.
func ExampleStore_KeyValue() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()

	invitations := store.KeyValue()
	token := rand.Text() // for the link that is sent
	if err := invitations.Put(ctx, "invitation:"+token, []byte("team 4711"), 24*time.Hour); err != nil {
		panic(err)
	}
	team, err := invitations.Take(ctx, "invitation:"+token)
	fmt.Println(string(team), err)
	_, err = invitations.Take(ctx, "invitation:"+token)
	fmt.Println(err)
	// Output:
	// team 4711 <nil>
	// pgsession: session not found
}

// Tests need no database, and move the clock.
func ExampleInMemory() {
	ctx := context.Background()
	clock := pgsession.NewManualClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	store := pgsession.InMemory(pgsession.WithClock(clock))

	session, _ := store.Create(ctx, pgsession.Data{UserID: "alice"}, 24*time.Hour)
	clock.Advance(24 * time.Hour)
	_, err := store.Load(ctx, session.ID)
	fmt.Println(err)
	// Output: pgsession: session not found
}
