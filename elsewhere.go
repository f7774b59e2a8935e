package pgsession

import (
	"context"
	"errors"
	"sync"
)

// elsewhere holds the other places from which sessions have yet to move to the table. Package move
// adds them.
type elsewhere struct {
	mu  sync.Mutex
	end []func(ctx context.Context, doomed func(userID string, handle any) bool) (int64, error)
}

func (e *elsewhere) add(end func(context.Context, func(string, any) bool) (int64, error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end = append(e.end, end)
}

// around calls endHere, which ends sessions in the table. Before and after that it ends the doomed
// sessions elsewhere, since a session may move from there to the table meanwhile, or under a new id
// the other way.
func (e *elsewhere) around(ctx context.Context, doomed func(userID string, h Handle) bool, endHere func() (int64, error)) (ended int64, err error) {
	e.mu.Lock()
	end := e.end
	e.mu.Unlock()
	if len(end) == 0 {
		return endHere()
	}
	endThere := func() {
		for _, end := range end {
			n, endErr := end(ctx, func(userID string, handle any) bool { return doomed(userID, handle.(Handle)) })
			ended, err = ended+n, errors.Join(err, endErr)
		}
	}
	endThere()
	n, endErr := endHere()
	ended, err = ended+n, errors.Join(err, endErr)
	endThere()
	return ended, err
}
