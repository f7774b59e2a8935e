package pgsession

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

// pageSize is how many rows All and Reseal hold at most.
const pageSize = 500

// All returns every live session, in no useful order, for exports and audits. It reads pages of at
// most 500 sessions and a few MiB, and holds no connection between them, so the loop may call the
// store. A session that begins or ends at the same time may be missing. Sessions that do not open
// are included, as in [Store.FindByUser]. Entries of a [KeyValue] are not. An error comes with a
// nil session and ends the sequence.
func (s *Store) All(ctx context.Context) iter.Seq2[*Session, error] {
	return func(yield func(*Session, error) bool) {
		var err error
		defer s.stats.observe(opAll, time.Now(), &err)
		var now time.Time
		for page, failure := range pages(func(after rows.Key) ([]rows.Row, error) {
			now = s.now()
			return s.table.Page(ctx, after, pageSize)
		}) {
			if err = wrap("all", failure); err != nil {
				yield(nil, err)
				return
			}
			for _, row := range page {
				if !yield(s.session(row, now), nil) {
					return
				}
			}
		}
	}
}

// pages returns the pages that read returns, each with rows after the last of the page before,
// until one is empty. An error ends them.
func pages(read func(after rows.Key) ([]rows.Row, error)) iter.Seq2[[]rows.Row, error] {
	return func(yield func([]rows.Row, error) bool) {
		for last := (rows.Key{}); ; {
			page, err := read(last)
			if err == nil && len(page) == 0 || !yield(page, err) || err != nil {
				return
			}
			last = page[len(page)-1].Key
		}
	}
}

// DeleteAll ends every session, and returns how many were live. Entries of a [KeyValue] stay.
// Sessions that move to a new id at the same time are ended; sessions that are created at the same
// time may stay. It holds all their keys in memory, 32 bytes a session. With an error, the number
// says how many sessions were ended before it.
func (s *Store) DeleteAll(ctx context.Context) (ended int64, err error) {
	defer s.stats.observe(opDeleteAll, time.Now(), &err)
	return s.elsewhere.around(ctx, isAnySession, func() (int64, error) {
		ended, err := s.table.EndAll(ctx, time.Time{})
		return ended, wrap("delete all", err)
	})
}

func isAnySession(string, Handle) bool { return true }

// endBegunBefore ends every session whose log-in began before a time, as [Store.DeleteAll] does,
// and every one elsewhere, since it is not known when these began. Package cmd/pgsession calls it.
func (s *Store) endBegunBefore(ctx context.Context, begun time.Time) (int64, error) {
	return s.elsewhere.around(ctx, isAnySession, func() (ended int64, err error) {
		for { // a session that moves meanwhile keeps its CreatedAt
			n, err := s.table.EndAll(ctx, begun)
			ended += n
			if err != nil || n == 0 {
				return ended, wrap("end", err)
			}
		}
	})
}

// A Count says how many rows a store's table has. Each row counts once.
type Count struct {
	Users      int64 // live sessions of users
	Guests     int64 // live sessions of guests
	Expired    int64 // rows of any kind that have expired, and that the next clean-up removes
	Tombstones int64 // left by sessions that were ended, until the clean-up removes them
	Entries    int64 // live entries of a [KeyValue]
}

// Count returns how many rows the table has. It reads the whole table.
func (s *Store) Count(ctx context.Context) (counted Count, err error) {
	defer s.stats.observe(opCount, time.Now(), &err)
	count, err := s.table.Count(ctx)
	return Count(count), wrap("count", err)
}

// rowsByKey returns how many rows each key of the ring has sealed, in the ring's order, and then
// what else lies in the table. It reads the whole table. Packages cmd/pgsession and adminpages call
// it.
func (s *Store) rowsByKey(ctx context.Context) (list []bridge.RowsOfKey, err error) {
	counted, err := s.table.CountByKeyID(ctx)
	if err != nil {
		return nil, wrap("count", err)
	}
	add := func(id string, state bridge.KeyState) {
		list = append(list, bridge.RowsOfKey{ID: hex.EncodeToString([]byte(id)), State: state, Rows: counted[id]})
		delete(counted, id)
	}
	if s.crypto != nil {
		state := bridge.PrimaryKey
		for _, key := range s.crypto.keys() {
			add(string(binary.BigEndian.AppendUint32(nil, key.id())), state)
			state = bridge.OldKey
		}
	}
	for _, id := range slices.Sorted(maps.Keys(counted)) {
		state := bridge.StrangeKey
		if id == "" {
			state = bridge.InPlaintext
		}
		add(id, state)
	}
	return list, nil
}
