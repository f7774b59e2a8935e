package pgtable

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/coalesce"
	"github.com/pgsession/pgsession/internal/rows"
)

const (
	// maxBatch bounds the calls that share one statement.
	maxBatch = 256

	// maxSharedPayload bounds the payload of a write that shares a statement.
	maxSharedPayload = 64 << 10

	// maxBatchBytes bounds the payloads of the calls that share one statement.
	maxBatchBytes = 1 << 20

	// slowAfter is when a statement stops counting towards MaxInFlight. It then waits for a
	// lock, or its connection hangs.
	slowAfter = 100 * time.Millisecond
)

var errSwallowed = errors.New("the statement succeeded but changed nothing; a trigger or rule of the table may have swallowed it")

// A change is a call that writes one row.
type change struct {
	seen rows.Row // what Swap and Renew compare with; absent in others
	w    rows.Write
}

// key is that of the row that the change may have to wait for.
func (c *change) key() *rows.Key {
	if c.seen.State == rows.Absent {
		return &c.w.Key
	}
	return &c.seen.Key
}

// A kind is one of the operations that change one row: how to make such a change, by itself or in
// one statement with others, and what to make of a row that was not changed.
type kind struct {
	name string

	// one makes a change. It waits for the row if another transaction holds it. The answer is zero
	// if it changed no row.
	one func(ctx context.Context, t *Table, c *change) (answer, error)

	// many makes changes of different rows, and skips the rows that other transactions hold. It
	// returns the key and the expiry of each row that it changed, and perhaps the version. Its
	// parameters are made of the changes and of the rows that they store. The function becomes
	// returns such a row, as far as it is known before.
	many    statement
	args    func(d *database, now time.Time, l *lists, made []*change) []any
	becomes func(c *change, now time.Time) rows.Row

	// Of several changes of one row in a batch, the first is made, or the last if lastWins is true.
	// The row is then as stored. The function answerOther answers the changes that were not made.
	lastWins    bool
	answerOther func(other, made *change, stored rows.Row, now time.Time) answer

	// judge answers a change that changed no row, by the row that is there. The answer is not known
	// if the row should have been changed.
	judge func(row rows.Row, c *change, now time.Time) answer
}

// An answer is what became of a change. The zero answer means that the statement changed no row,
// and does not tell why.
type answer struct {
	known   bool
	outcome rows.Outcome
	row     rows.Row // as the change left it, or as it is
}

// refused answers a change of a row for which a rule has that outcome.
func refused(row rows.Row, outcome rows.Outcome) answer {
	return answer{known: outcome != rows.OK, outcome: outcome, row: row}
}

// A group is where the changes of one kind share statements.
type group struct {
	*kind
	*coalesce.Group[*change, answer]
}

// newGroup returns a group for changes of a kind. A change by itself waits for the row's lock, if
// no other change of that row does.
func (t *Table) newGroup(k *kind, limit func(fastest time.Duration) int) group {
	return group{k, coalesce.New(coalesce.Config[*change, answer]{
		MaxInFlight:   t.config.MaxInFlight,
		Limit:         limit,
		MaxBatch:      maxBatch,
		MaxBatchBytes: maxBatchBytes,
		Size:          func(c *change) int { return len(c.w.Payload) },
		SlowAfter:     cmp.Or(t.config.Patience, slowAfter),
		Context:       t.deadlines.WithGrace,
		RunAgain:      tookNoEffect,
		Run: func(ctx context.Context, changes []*change, answered func(int, answer)) error {
			if c := changes[0]; len(changes) == 1 {
				if turn, ok := t.waits.TryEnter(*c.key()); ok {
					defer turn.Leave(struct{}{})
					a, err := k.one(ctx, t, c)
					if err == nil {
						answered(0, a)
					}
					return err
				}
			}
			err := t.changeMany(ctx, k, changes, answered)
			if isRefused(err) {
				for i := range changes {
					answered(i, answer{}) // its caller makes it alone
				}
			}
			return err
		},
	})}
}

// change makes a change.
func (t *Table) change(ctx context.Context, g group, c *change) (rows.Row, rows.Outcome, error) {
	a, err := t.layout().change(ctx, g, c)
	return a.row, a.outcome, t.explain(ctx, err)
}

func (t local) change(ctx context.Context, g group, c *change) (answer, error) {
	deadline := t.deadline()
	mayShare := len(c.w.Payload) <= maxSharedPayload
	if mayShare {
		a, err := g.Do(ctx, deadline, c)
		if err != nil || a.known {
			return a, err
		}
	}
	ctx, cancel := t.deadlines.WithGrace(ctx, deadline)
	defer cancel()
	return t.changeAlone(ctx, g.kind, c, mayShare)
}

// changeAlone makes a change by itself. WasTried says that it was tried before
// and changed no row.
func (t *Table) changeAlone(ctx context.Context, k *kind, c *change, wasTried bool) (a answer, err error) {
	for range maxAttempts {
		if wasTried {
			row, err := t.loads.Do(ctx, time.Time{}, *c.key())
			if err != nil {
				return answer{}, err
			}
			if a = k.judge(row, c, t.now()); a.known {
				return a, nil
			}
		}
		err = t.inTurn(ctx, *c.key(), func() error {
			a, err = k.one(ctx, t, c)
			return err
		})
		if err != nil || a.known {
			return a, err
		}
		wasTried = true // the row has changed since it was loaded
	}
	return answer{}, errSwallowed
}

// exec runs a statement for one row. Args returns its parameters, and the row that it stores.
func (t *Table) exec(ctx context.Context, sql statement, args func(now time.Time) ([]any, rows.Row)) (a answer, err error) {
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		args, row := args(t.now())
		tag, err := conn.Exec(ctx, t.text(sql), args...)
		a = answer{known: tag.RowsAffected() > 0, row: row}
		return err
	})
	if sqlState(err) == uniqueViolation {
		return answer{known: true, outcome: rows.Exists}, nil
	}
	return a, err
}

// changeMany makes changes in one statement.
func (t *Table) changeMany(ctx context.Context, k *kind, changes []*change, answered func(int, answer)) error {
	slots := make(map[rows.Key]int, len(changes)) // where in made the change of a row is
	made := make([]*change, 0, len(changes))
	for _, c := range changes {
		slot, again := slots[*c.key()]
		switch {
		case !again:
			slots[*c.key()] = len(made)
			made = append(made, c)
		case k.lastWins:
			made[slot] = c
		}
	}
	var (
		now     time.Time
		stored  = make([]rows.Row, len(made))
		changed = make([]bool, len(made))
	)
	slotOf := slots // by the keys that the statement returns
	if c := made[0]; *c.key() != c.w.Key {
		slotOf = make(map[rows.Key]int, len(made))
		for slot, c := range made {
			slotOf[c.w.Key] = slot
		}
	}
	err := t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		now = t.now()
		l := newLists(made)
		for i, c := range made {
			stored[i], changed[i] = k.becomes(c, now), false
			l.add(&stored[i])
		}
		result, err := conn.Query(ctx, t.text(k.many), k.args(t.database, now, l, made)...)
		if err != nil {
			return err
		}
		var (
			key     pgtype.DriverBytes
			expires pgtype.Timestamptz
			version int64
		)
		targets := []any{&key, &expires, &version}
		_, err = pgx.ForEachRow(result, targets[:len(result.FieldDescriptions())], func() error {
			if slot, ok := slotOf[keyOf(key)]; ok {
				changed[slot], stored[slot].ExpiresAt = true, expires.Time.UTC()
				stored[slot].Version = cmp.Or(version, stored[slot].Version)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	for i, c := range changes {
		slot := slots[*c.key()]
		switch {
		case !changed[slot]:
			answered(i, answer{})
		case made[slot] == c:
			answered(i, answer{known: true, row: stored[slot]})
		default:
			answered(i, k.answerOther(c, made[slot], stored[slot], now))
		}
	}
	return nil
}

// defaultInFlight returns how many statements of one kind may be in flight at most, and a function
// that lowers this number for a server that is near. The function's argument is how long the
// fastest of the latest statements took. It starts with an eighth of the pool's connections, at
// least 2, and adds one for each half of a millisecond, up to half of the connections and never
// more than 16.
//
// The figures are in docs/performance.md. If the server is near, statements compete for its
// processors, and few in flight are best. If it is far away, a statement mostly waits for the
// network, and more in flight make better use of the server.
//
// If connections depend on the context, calls share no statement: it has no single caller's.
func defaultInFlight(pool *pgxpool.Pool) (most int, limit func(fastest time.Duration) int) {
	if DependsOnContext(pool) {
		return 0, nil
	}
	config := pool.Config()
	least := min(max(2, int(config.MaxConns)/8), 8)
	most = min(max(least, int(config.MaxConns)/2), 16)
	return most, func(fastest time.Duration) int {
		return min(most, least+int(fastest/(500*time.Microsecond)))
	}
}

// DependsOnContext reports whether a pool has a hook that sees the caller's context. Such hooks
// choose tenants: the same statement means another table for another caller.
func DependsOnContext(pool *pgxpool.Pool) bool {
	config := pool.Config()
	//lint:ignore SA1019 a pool may still have it
	return config.BeforeAcquire != nil || config.PrepareConn != nil
}
