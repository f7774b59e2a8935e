package pgsession

import (
	"context"
	"errors"
	"time"

	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

func init() {
	bridge.Table = func(store any) rows.Table { return store.(*Store).table }
	bridge.Session = func(store any, row rows.Row, loadedAt time.Time) any {
		return store.(*Store).session(row, loadedAt)
	}
	bridge.Marshal = func(v any) (bridge.JSON, error) {
		encoded, err := encodeJSON(v)
		return encoded.bytes, err
	}
	bridge.Values = func(session any) any {
		stored := session.(*Session).values
		if stored.kind == kindJSON {
			return bridge.JSON(stored.bytes)
		}
		return stored.bytes
	}
	bridge.Touch = func(ctx context.Context, store, session any) error {
		touched := session.(*Session)
		row, err := store.(*Store).touch(ctx, touched, 0)
		if err == nil {
			touched.row, touched.ExpiresAt = row, row.ExpiresAt
		}
		return err
	}
	bridge.Row = func(session any) rows.Row { return session.(*Session).row }
	bridge.HasMoved = func(err error) bool { return errors.Is(err, errMoved) }
	bridge.End = func(ctx context.Context, store any, id any) error {
		hasMoved, err := store.(*Store).end(ctx, id.(ID))
		if hasMoved {
			return errMoved
		}
		return err
	}
	bridge.LimitOthers = func(ctx context.Context, store, session any, keep int) error {
		return store.(*Store).limitOthers(ctx, session.(*Session), keep)
	}
	bridge.Health = func(ctx context.Context, store any, timeout time.Duration) any {
		return store.(*Store).healthWithin(ctx, timeout)
	}
	bridge.WithPatience = func(d time.Duration) any { return Option(func(o *options) { o.patience = d }) }
	bridge.Reseal = func(ctx context.Context, store any, report func(int64)) (int64, error) {
		return store.(*Store).reseal(ctx, report)
	}
	bridge.SealPlaintext = func(ctx context.Context, store any, report func(int64)) (int64, error) {
		return store.(*Store).sealPlaintext(ctx, report)
	}
	bridge.CleanUp = func(ctx context.Context, store any, report func(int64)) (int64, error) {
		return store.(*Store).cleanup(ctx, false, report)
	}
	bridge.EndBegunBefore = func(ctx context.Context, store any, begun time.Time) (int64, error) {
		return store.(*Store).endBegunBefore(ctx, begun)
	}
	bridge.WithPurpose = func(id any, purpose string) any {
		withPurpose := id.(ID)
		withPurpose.purpose = purpose
		return withPurpose
	}
	bridge.EndElsewhere = func(store any, end func(context.Context, func(string, any) bool) (int64, error)) {
		store.(*Store).elsewhere.add(end)
	}
	bridge.RowsByKey = func(ctx context.Context, store any) ([]bridge.RowsOfKey, error) {
		return store.(*Store).rowsByKey(ctx)
	}
	bridge.KeyIDs = func(crypto any) (ids []uint32) {
		for _, key := range crypto.(*Crypto).keys() {
			ids = append(ids, key.id())
		}
		return ids
	}
}
