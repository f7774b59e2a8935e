package main

import (
	"context"
	"math/rand/v2"

	"github.com/pgsession/pgsession"
)

// A rotation is the change of keys that runs beside everything else, in the steps that the
// documentation tells: every node holds the new key before any makes it primary, and the old one is
// retired when no row bears it.
type rotation struct {
	current, next pgsession.Key
	step          rotationStep
	done          int
}

type rotationStep int

const (
	oneKey    rotationStep = iota
	held                   // every node holds the next key, to open
	switching              // some nodes may seal with it
	resealing              // all do
)

// start takes the next step, while the workers run.
func (r *rotation) start(ctx context.Context, t *torture, stores []*pgsession.Store, seed uint64) (wait func()) {
	random := rand.New(rand.NewPCG(seed, 1))
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch r.step {
		case oneKey:
			if random.IntN(4) > 0 {
				return
			}
			r.next = pgsession.GenerateKey()
			for _, n := range t.nodes {
				must(n.crypto.SetKeys(r.current, r.next))
			}
			r.step = held
		case held:
			for _, n := range t.nodes {
				pause(ctx, milliseconds(random, 10))
				must(n.crypto.SetKeys(r.next, r.current))
			}
			r.step = resealing
		case resealing:
			// What was encoded under the old key, and is written only now, the settling reseals.
			stores[random.IntN(len(stores))].Reseal(ctx)
		}
	}()
	return func() { <-done }
}

// settle retires the old key when the server is idle, so that nothing that was sealed under it can
// still be written.
func (r *rotation) settle(ctx context.Context, t *torture, stores []*pgsession.Store) {
	if r.step != resealing {
		return
	}
	reseals := func(ctx context.Context) error {
		_, err := stores[0].Reseal(ctx)
		return err
	}
	if !t.atRest(ctx, opReseal, reseals) {
		return
	}
	for _, n := range t.nodes {
		must(n.crypto.SetKeys(r.next))
	}
	r.current, r.step = r.next, oneKey
	r.done++
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
