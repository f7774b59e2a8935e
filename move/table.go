// Package move moves live sessions from another library's table into a store of package pgsession,
// while the application runs. No visitor is logged out, and no change is lost.
//
// [Import] moves the rows. Meanwhile the application needs an adapter that looks in both places, as
// adapters/scs and adapters/gorilla do. An adapter follows these rules:
//
//   - When it is made, call [Table.EndWith]. DeleteByUser of the store then ends a user's sessions in
//     the table too.
//   - To load a session, look in the store, then in the table ([Table.Load]), then in the store
//     again, since the row may have moved in between. [pgsession.ErrRevoked] from the store is final.
//   - To save a session of the table, call [Table.Replace]. If it reports false, call [Table.Finish]
//     and save in the store.
//   - To end a session, call [Table.Delete]. If it reports false, call [Table.Finish] and delete in
//     the store.
//   - Never write a session to the table that is not there: it may have moved.
//
// # How a row moves
//
// An import first marks a row: it puts a prefix before the row's token. Load still finds a marked
// row. Replace and Delete do not, so that it does not change any more. Then the import creates the
// session in the store, and removes the row. A request that wants to change a marked row first
// calls Finish, which completes the move of this row. If the import is killed, each row is in the
// table, marked or not, or in the store, or in both with the same content. The next import
// continues from there.
package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// timeout bounds what is done for one session, as pgsession.WithTimeout does in the store.
const timeout = 10 * time.Second

// mark is the prefix of the token of a row that is being moved. Tokens of the libraries below hold
// no colon. A cookie may: what begins with the mark names no session. The statements spell the mark
// out, and its 7 characters.
const mark = "moving:"

func isMarked(token string) bool { return strings.HasPrefix(token, mark) }

var errMarked = errors.New("move: a token begins as those of sessions that are being moved do")

// A Row is a session in another library's table. However it is formatted, it shows nothing of it.
type Row struct {
	Token  string // scs: token; gorilla: key; connect-pg-simple: sid
	Data   []byte // as the library encoded it
	Expiry time.Time
}

// Format writes a redaction for every verb.
func (Row) Format(f fmt.State, _ rune) { io.WriteString(f, "Row(REDACTED)") }

// A Table is another library's table of sessions. Make it with [FromSCS], [FromGorilla] or
// [FromConnect]. It is safe for concurrent use. It needs the privileges SELECT, UPDATE and DELETE,
// and INSERT for Insert. Each method but All ends within 10 seconds, and Finish within that and the
// store's timeout.
type Table struct {
	pool    *pgxpool.Pool
	columns columns
	fill    func(sql string) string // makes a statement one for this table
}

// columns are what the columns of a table are called. The statements are written for scs's.
type columns struct {
	token, data, expiry string
	tokenIsBytes        bool
	dataIsJSON          bool
	others, otherValues string // that an INSERT sets too
}

// FromSCS returns the table of scs's pgxstore and postgresstore, usually "sessions". The name may
// have a schema.
func FromSCS(pool *pgxpool.Pool, name string) *Table {
	return newTable(pool, name, columns{token: "token", data: "data", expiry: "expiry"})
}

// FromGorilla returns the table of antonlindstrom/pgstore, usually "http_sessions". Token is its
// column key, which is what the cookie holds once securecookie has opened it.
func FromGorilla(pool *pgxpool.Pool, name string) *Table {
	return newTable(pool, name, columns{token: "key", data: "data", expiry: "expires_on", tokenIsBytes: true,
		others: ", created_on, modified_on", otherValues: ", now(), now()"})
}

// FromConnect returns the table of connect-pg-simple, usually "session". Token is its column sid.
// It keeps the expiry without a time zone, so the pool's TimeZone must be that of the application
// which wrote it.
func FromConnect(pool *pgxpool.Pool, name string) *Table {
	return newTable(pool, name, columns{token: "sid", data: "sess", expiry: "expire", dataIsJSON: true})
}

func newTable(pool *pgxpool.Pool, name string, c columns) *Table {
	dataAsRead := c.data
	if c.dataIsJSON {
		dataAsRead += "::text"
	}
	return &Table{pool, c, strings.NewReplacer(
		"sessions", pgx.Identifier(strings.Split(name, ".")).Sanitize(),
		"token", c.token,
		"data", dataAsRead,
		"payload", c.data,
		"expiry::timestamptz", "least("+c.expiry+"::timestamptz, '9999-12-31 00:00+00')", // infinity is no time.Time
		"expiry", c.expiry,
		"/*, others*/", c.others,
		"/*, values*/", c.otherValues,
	).Replace}
}

// names returns the tokens that a row may lie under.
func names(token string) []string { return []string{token, mark + token} }

// parameter, parameters and data return what a statement is given. The types fit the columns
// without the server's help, which some of pgx's query modes do not ask for.
func (t *Table) parameter(token string) any {
	if t.columns.tokenIsBytes {
		return []byte(token)
	}
	return token
}

func (t *Table) parameters(tokens []string) any {
	if !t.columns.tokenIsBytes {
		return tokens
	}
	list := make([][]byte, len(tokens))
	for i, token := range tokens {
		list[i] = []byte(token)
	}
	return list
}

func (t *Table) data(row Row) any {
	if t.columns.dataIsJSON {
		return string(row.Data)
	}
	return row.Data
}

const loadSQL = `
	SELECT data, expiry::timestamptz
	FROM sessions
	WHERE token = ANY($1) AND expiry > now()`

// Load returns a live session. It includes one that is being moved.
func (t *Table) Load(ctx context.Context, token string) (row Row, found bool, err error) {
	if isMarked(token) {
		return Row{}, false, nil
	}
	return t.one(ctx, token, loadSQL, t.parameters(names(token)))
}

func (t *Table) one(ctx context.Context, token, sql string, arg any) (row Row, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	row.Token = token
	err = t.pool.QueryRow(ctx, t.fill(sql), arg).Scan(&row.Data, &row.Expiry)
	if errors.Is(err, pgx.ErrNoRows) {
		return Row{}, false, nil
	}
	return row, err == nil, wrap("load", err)
}

const insertSQL = `
	INSERT INTO sessions (token, payload, expiry /*, others*/)
	VALUES ($1, $2, $3::timestamptz /*, values*/)`

// Insert stores a new session. It fails if there is one under the token.
func (t *Table) Insert(ctx context.Context, row Row) error {
	if isMarked(row.Token) {
		return errMarked
	}
	_, err := t.change(ctx, "insert", insertSQL, t.parameter(row.Token), t.data(row), row.Expiry)
	return err
}

const replaceSQL = `
	UPDATE sessions
	SET payload = $2, expiry = $3::timestamptz
	WHERE token = $1 AND expiry > now()`

// Replace changes a live session, and reports whether it is still in the table and not being moved.
func (t *Table) Replace(ctx context.Context, row Row) (bool, error) {
	if isMarked(row.Token) {
		return false, nil
	}
	return t.change(ctx, "replace", replaceSQL, t.parameter(row.Token), t.data(row), row.Expiry)
}

const removeSQL = `DELETE FROM sessions WHERE token = $1`

// Delete ends a session, and reports whether it was still in the table and not being moved.
func (t *Table) Delete(ctx context.Context, token string) (bool, error) {
	if isMarked(token) {
		return false, nil
	}
	return t.change(ctx, "delete", removeSQL, t.parameter(token))
}

const allSQL = `
	SELECT CASE WHEN substring(token FROM 1 FOR 7) = 'moving:' THEN substring(token FROM 8) ELSE token END, data, expiry::timestamptz
	FROM sessions
	WHERE expiry > now()`

// All returns every live session.
func (t *Table) All(ctx context.Context) (rows []Row, err error) {
	err = t.each(ctx, func(row Row) { rows = append(rows, row) })
	return rows, err
}

// each calls do for every live session, while it holds a connection.
func (t *Table) each(ctx context.Context, do func(Row)) error {
	result, err := t.pool.Query(ctx, t.fill(allSQL))
	return each(result, err, do)
}

func each(result pgx.Rows, err error, do func(Row)) error {
	if err == nil {
		var token []byte
		var row Row
		_, err = pgx.ForEachRow(result, []any{&token, &row.Data, &row.Expiry}, func() error {
			row.Token = string(token)
			do(row)
			return nil
		})
	}
	return wrap("read", err)
}

func collect(result pgx.Rows, err error) (rows []Row, _ error) {
	err = each(result, err, func(row Row) { rows = append(rows, row) })
	return rows, err
}

const (
	markedSQL = `
	SELECT data, expiry::timestamptz
	FROM sessions
	WHERE token = $1`

	clearSQL = `DELETE FROM sessions WHERE token = ANY($1)`
)

// Finish moves one session to the store if an import has begun to move it. Otherwise it does
// nothing. If the row cannot be moved, it stays in the table, and can be changed there again.
//
// Errors: that of convert if the row cannot be converted, those of [pgsession.Store.CreateAs], and
// those of the database.
func (t *Table) Finish(ctx context.Context, store *pgsession.Store, token string, convert Convert) error {
	row, found, err := t.one(ctx, token, markedSQL, t.parameter(mark+token))
	if err != nil || !found {
		return err
	}
	left, err := create(ctx, store, row, convert)
	if err != nil {
		return err
	}
	if left != nil {
		_, err = t.change(ctx, "leave", unmarkSQL, t.parameters([]string{mark + token}))
		return errors.Join(left, err)
	}
	_, err = t.change(ctx, "finish", clearSQL, t.parameters(names(token)))
	return err
}

// EndWith makes DeleteByUser and DeleteAll of store end sessions in the table too. They then read
// the whole table, twice, for up to a minute each time. All else sees the sessions in the store
// alone: FindByUser, LimitByUser, Revoke, and Watch, which ends within a second for a session that
// has yet to move. So does every other store on the same table, such as cmd/pgsession's.
func (t *Table) EndWith(store *pgsession.Store, convert Convert) {
	bridge.EndElsewhere(store, func(ctx context.Context, doomed func(userID string, handle any) bool) (int64, error) {
		return t.end(ctx, store, convert, doomed)
	})
}

const endTimeout = time.Minute

func (t *Table) end(ctx context.Context, store *pgsession.Store, convert Convert, doomed func(string, any) bool) (ended int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	type session struct {
		token string
		id    pgsession.ID
	}
	var found []session
	err = t.each(ctx, func(row Row) {
		id, data, _, err := convert(row)
		if err != nil {
			id, data = pgsession.ID{}, pgsession.Data{}
		}
		if doomed(data.UserID, id.Handle()) {
			found = append(found, session{row.Token, id})
		}
	})
	if err != nil {
		return 0, err
	}
	for _, s := range found {
		wasLive, err := t.Delete(ctx, s.token)
		if err == nil && !wasLive { // it is being moved, or has moved
			wasLive, err = t.endMoving(ctx, store, s.token, s.id)
		}
		if err != nil {
			return ended, err
		}
		if wasLive {
			ended++
		}
	}
	return ended, nil
}

// endMoving ends a session that an import may have marked.
func (t *Table) endMoving(ctx context.Context, store *pgsession.Store, token string, id pgsession.ID) (wasLive bool, err error) {
	if id.IsZero() { // the import cannot convert it either
		return t.change(ctx, "end", clearSQL, t.parameters(names(token)))
	}
	// After this the import finds the id taken.
	err = t.Finish(ctx, store, token, func(row Row) (pgsession.ID, pgsession.Data, time.Time, error) {
		return id, pgsession.Data{}, row.Expiry, nil
	})
	if err == nil {
		err = store.RevokeAny(ctx, id.Handle())
	}
	if errors.Is(err, pgsession.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// change runs a statement about one session, and reports whether it met the row.
func (t *Table) change(ctx context.Context, operation, sql string, args ...any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tag, err := t.pool.Exec(ctx, t.fill(sql), args...)
	return tag.RowsAffected() > 0, wrap(operation, err)
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("move: %s: %w", operation, err)
}
