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
)

// exampleStore is what an application has from its start-up: see the package's
// example.
func exampleStore() (store *pgsession.Store, stop func()) {
	return exampleStoreWith(must(pgsession.NewCrypto(pgsession.GenerateKey())))
}

func exampleStoreWith(crypto *pgsession.Crypto) (store *pgsession.Store, stop func()) {
	pool := must(pgxpool.New(context.Background(), must(pgtest.Shared()).URL()))
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

	id, err := store.Create(ctx, pgsession.Data{UserID: "alice", Values: Cart{Items: []string{"tea"}}}, 24*time.Hour)
	if err != nil {
		panic(err)
	}
	cookie := &http.Cookie{
		Name: "__Host-session", Value: id.Token(), Path: "/",
		HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	}

	id, _ = pgsession.ParseID(cookie.Value) // where it fails, the zero ID finds no session
	session, err := store.Load(ctx, id)
	if err != nil {
		panic(err)
	}
	cart, err := pgsession.Decode[Cart](session)
	fmt.Println(session.UserID, cart.Items, err)
	// Output: alice [tea] <nil>
}

// A request reads its session, and keeps it alive. Only ErrNotFound means that nobody
// is logged in; all else is an outage, and no reason to show the log-in page.
func ExampleStore_Load() {
	store, stop := exampleStore()
	defer stop()
	const ttl = 24 * time.Hour

	handler := func(w http.ResponseWriter, r *http.Request) {
		var id pgsession.ID
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
		if session.TTL() < ttl*9/10 {
			if err := store.Touch(r.Context(), id, ttl); err != nil {
				slog.Warn("session not prolonged", "session", session, "error", err)
			}
		}
		fmt.Fprintln(w, "Hello", session.UserID)
	}
	_ = http.HandlerFunc(handler)
}

func ExampleStore_Update() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()
	id, _ := store.Create(ctx, pgsession.Data{UserID: "alice", Values: Cart{}}, time.Hour)

	for _, item := range []string{"tea", "milk"} {
		err := store.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
			cart, err := pgsession.Decode[Cart](session)
			cart.Items = append(cart.Items, item)
			return cart, err
		})
		if err != nil {
			panic(err)
		}
	}
	session, _ := store.Load(ctx, id)
	cart, _ := pgsession.Decode[Cart](session)
	fmt.Println(cart.Items)
	// Output: [tea milk]
}

// A log-in moves what the guest had to a new id: whoever knew the old one has nothing.
func ExampleStore_Cycle() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()
	guest, _ := store.Create(ctx, pgsession.Data{Values: Cart{Items: []string{"tea"}}}, time.Hour)

	session, _ := store.Load(ctx, guest)
	data := session.Data()
	data.UserID = "alice"
	id := pgsession.NewID()
	if err := store.Cycle(ctx, guest, id, data, 24*time.Hour); err != nil {
		panic(err)
	}

	_, err := store.Load(ctx, guest)
	fmt.Println(err)
	session, _ = store.Load(ctx, id)
	fmt.Println(session.UserID)
	// Output:
	// pgsession: session not found
	// alice
}

// A page of the user's devices, one of which is revoked by its handle, and all others
// at once.
func ExampleStore_FindByUser() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()
	phone, _ := store.Create(ctx, pgsession.Data{UserID: "alice", Values: "phone"}, time.Hour)
	laptop, _ := store.Create(ctx, pgsession.Data{UserID: "alice", Values: "laptop"}, time.Hour)

	devices, _ := store.FindByUser(ctx, "alice", 20)
	for _, device := range devices {
		name, err := pgsession.Decode[string](device)
		fmt.Println(name, device.Handle == laptop.Handle(), err)
	}

	fmt.Println(store.Revoke(ctx, "alice", phone.Handle()))
	ended, _ := store.DeleteByUser(ctx, "alice", laptop.Handle())
	fmt.Println(ended, "more ended")
	// Output:
	// laptop true <nil>
	// phone false <nil>
	// <nil>
	// 0 more ended
}

// A rotation in three steps, each on all nodes before the next begins.
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
	// 2. Every node seals under the new key; then one of them reseals the rest.
	if err := crypto.SetKeys(fresh, old); err != nil {
		panic(err)
	}
	if _, err := store.Reseal(ctx); err != nil {
		panic(err)
	}
	// 3. No row bears the old key's id: it can go.
	fmt.Println(crypto.SetKeys(fresh))
	// Output: <nil>
}

func ExampleStore_KeyValue() {
	store, stop := exampleStore()
	defer stop()
	ctx := context.Background()

	states := store.KeyValue()
	if err := states.Put(ctx, "oauth state 4711", []byte("/cart"), 10*time.Minute); err != nil {
		panic(err)
	}
	target, err := states.Get(ctx, "oauth state 4711")
	fmt.Println(string(target), err)
	// Output: /cart <nil>
}

func ExampleManualClock() {
	clock := pgsession.NewManualClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	// store := pgsession.New(pool, crypto, pgsession.WithClock(clock))
	clock.Advance(25 * time.Hour)
	fmt.Println(clock.Now().Format(time.DateTime))
	// Output: 2026-01-02 01:00:00
}
