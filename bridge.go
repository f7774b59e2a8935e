package pgsession

import (
	"time"

	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

func init() {
	bridge.Memory = func(store any) *rows.Memory { return store.(*Store).table.(*rows.Memory) }
	bridge.Session = func(store any, row rows.Row, loadedAt time.Time) any {
		return store.(*Store).session(row, loadedAt)
	}
	bridge.Row = func(session any) rows.Row { return session.(*Session).row }
}
