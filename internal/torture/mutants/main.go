// Program mutants shows that the torture finds what it should: it breaks the library in one place
// after another, in a copy that only the compiler sees, and wants each to be found within a minute.
// It ends with status 1 when one was not, or when the library as it is was found wanting.
//
//	go run ./mutants        all of them, which takes an hour
//	go run ./mutants -build whether each still compiles
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// root is the library's folder.
const root = "../.."

// An edit replaces each occurrence of a text in a file of the library.
type edit struct{ file, old, new string }

// A mutant is looked for by a program with flags; or by tests, if it breaks what no torture can
// see: a rule that the model of the histories has from the library, for instance.
type mutant struct {
	name    string
	program string // "." if it is empty
	flags   []string
	tests   []string // arguments of go test, in the library's folder
	edits   []edit
}

// In an edit, live and stored are the names of conditions in internal/pgtable.
var mutants = []mutant{
	{name: "Put forgets the tombstone", flags: []string{"-profile", "revival"}, edits: []edit{
		{"internal/pgtable/put.go", "WHERE ` + live + `", "WHERE s.expires_at > $1"},
		{"internal/pgtable/put.go", "AND ` + live + `", "AND s.expires_at > $1"},
	}},
	{name: "Put revives an expired session", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/put.go", "WHERE ` + live + `", "WHERE ` + stored + `"},
		{"internal/pgtable/put.go", "AND ` + live + `", "AND ` + stored + `"},
	}},
	{name: "Put begins under an id that ParseID read", flags: []string{"-profile", "revival"}, edits: []edit{
		{"id.go", "return !id.parsed && !id.IsZero()", "return !id.IsZero()"},
	}},
	{name: "Save forgets the tombstone", flags: []string{"-profile", "revival"}, edits: []edit{
		{"internal/pgtable/save.go", "AND ` + live + ` AND (s.user_key", "AND s.expires_at > $1 AND (s.user_key"},
		{"internal/pgtable/save.go", "WHERE ` + live + ` AND s.user_key", "WHERE s.expires_at > $1 AND s.user_key"},
		{"internal/pgtable/save.go", "AND ` + live + ` AND s.user_key", "AND s.expires_at > $1 AND s.user_key"},
	}},
	{name: "Save revives an expired session", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/save.go", "AND ` + live + ` AND (s.user_key", "AND ` + stored + ` AND $1::timestamptz IS NOT NULL AND (s.user_key"},
		{"internal/pgtable/save.go", "WHERE ` + live + ` AND s.user_key", "WHERE ` + stored + ` AND s.user_key"},
		{"internal/pgtable/save.go", "AND ` + live + ` AND s.user_key", "AND ` + stored + ` AND s.user_key"},
	}},
	{name: "Save and Put forget the end", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/columns.go", "least(` + expires + `, s.ends_at)", "` + expires + `"},
	}},
	{name: "a batch of writes forgets that they name other users", flags: []string{"-profile", "users", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/save.go", "bytes.Equal(other.w.UserKey, made.w.UserKey)", "bytes.Equal(nil, nil)"},
	}},
	{name: "a batch of writes forgets that they name other ends", flags: []string{"-profile", "users", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/save.go", " && other.w.Lifetime == made.w.Lifetime", ""},
	}},
	{name: "Delete leaves no tombstone", flags: []string{"-profile", "revival", "-coalescing", "off"}, edits: []edit{
		{"internal/pgtable/end.go", `
	UPDATE sessions AS s
	SET ` + "` + tombstone + `" + `
	WHERE s.key = $2 AND ` + "` + stored", `
	DELETE FROM sessions AS s
	WHERE s.key = $2 AND $1::timestamptz IS NOT NULL AND ` + "` + stored"},
	}},
	{name: "Revoke ends anybody's session", flags: []string{"-profile", "default"}, edits: []edit{
		{"internal/pgtable/end.go", "OR s.user_key = ANY($3::bytea[]))", "OR s.user_key IS NOT NULL)"},
	}},
	{name: "Update forgets the version", flags: []string{"-profile", "update", "-coalescing", "off"}, edits: []edit{
		{"internal/pgtable/swap.go", "AND s.version = $10 AND s.created_at = $11", "AND (s.version = $10 OR $11::timestamptz IS NOT NULL)"},
	}},
	{name: "a batch of updates forgets the versions", flags: []string{"-profile", "update", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/swap.go", "AND s.version = ($12::bigint[])[new.n] AND s.created_at = ($13::timestamptz[])[new.n]", "AND (s.version = ($12::bigint[])[new.n] OR ($13::timestamptz[]) IS NOT NULL)"},
	}},
	{name: "several updates of a batch win", flags: []string{"-profile", "update", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/swap.go", "return judgeSwap(stored.Clone(), other, now)", "return answer{known: true, row: stored}"},
	}},
	{name: "an update that lost gets the row of the one that won, before it", flags: []string{"-profile", "update", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/swap.go", "return judgeSwap(stored.Clone(), other, now)", "return answer{known: true, outcome: rows.Changed, row: other.seen}"},
	}},
	{name: "Update and Renew take an expired session", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/swap.go", "const asSeen = live", "const asSeen = stored + ` AND $1::timestamptz IS NOT NULL`"},
		{"internal/pgtable/swap.go", "const listedAsSeen = live", "const listedAsSeen = stored + ` AND $1::timestamptz IS NOT NULL`"},
	}},
	{name: "Renew forgets the version", flags: []string{"-profile", "renew", "-coalescing", "off"}, edits: []edit{
		{"internal/pgtable/swap.go", "AND s.version = $10 AND s.created_at = $11", "AND (s.version = $10 OR $11::timestamptz IS NOT NULL)"},
	}},
	{name: "a batch of renewals forgets the versions", flags: []string{"-profile", "renew", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/swap.go", "AND s.version = ($12::bigint[])[new.n] AND s.created_at = ($13::timestamptz[])[new.n]", "AND (s.version = ($12::bigint[])[new.n] OR ($13::timestamptz[]) IS NOT NULL)"},
	}},
	{name: "several renewals of a batch win", flags: []string{"-profile", "renew", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/renew.go", "return judgeSwap(made.seen.Leave(made.w, now), other, now)", "return answer{known: true, row: other.seen.Move(other.w, now)}"},
	}},
	{name: "a turn hands nothing on", tests: []string{"./internal/test/coalescing", "-run", "TestUpdate_Turns"}, edits: []edit{
		{"store.go", "turn.Leave(next)", "turn.Leave(nil)"},
	}},
	{name: "calls for one session take no turns", tests: []string{"./internal/test/coalescing", "-run", "TestUpdate_Turns"}, edits: []edit{
		{"store.go", "seen, mustWait = nil, true", "seen = nil"},
	}},
	{name: "a call waits for itself for ever", tests: []string{"./internal/test/coalescing", "-run", "TestUpdate_Turns"}, edits: []edit{
		{"store.go", "s.turns.Patience = cmp.Or(s.patience, turnPatience)", ""},
	}},
	{name: "a turn hands on what Renew wrote under another key", flags: []string{"-profile", "renew"}, edits: []edit{
		{"store.go", "return attempt{session: s.written(newID, row, data.UserID, encoded)}", "w2 := s.written(newID, row, data.UserID, encoded)\n\t\treturn attempt{session: w2, next: w2}"},
	}},
	{name: "a conflict gives a row that is over", flags: []string{"-profile", "renew"}, edits: []edit{
		{"store.go", "result.row.Load(now) == rows.OK {", "!now.IsZero() {"},
	}},
	{name: "Cycle moves what is over", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"store.go", "if outcome := row.Load(s.now()); outcome != rows.OK {\n\t\t\treturn outcomeError(outcome)", "if outcome := row.Load(s.now()); outcome != rows.OK && row.State == rows.Absent {\n\t\t\treturn outcomeError(outcome)"},
	}},
	{name: "Update takes a change of nothing for the last word", flags: []string{"-profile", "update"}, edits: []edit{
		{"store.go", "case result.err == errUnchanged && isNew:", "case result.err == errUnchanged:"},
	}},
	{name: "Update takes an error of change for the last word", flags: []string{"-profile", "update"}, edits: []edit{
		{"store.go", "case result.err != nil && (isNew || isOutage(result.err)):", "case result.err != nil && (isNew || result.err != errUnchanged):"},
	}},
	{name: "a session that was prolonged passes for new", tests: []string{"./internal/test/conformance", "-run", "TestUpdate"}, edits: []edit{
		{"store.go", "if version == rows.NextVersion(row.Version) {", "if version != 0 {"},
	}},
	{name: "Renew begins a session from a list", flags: []string{"-profile", "default"}, edits: []edit{
		{"store.go", "if session == nil || session.ID.IsZero() {", "if session == nil {"},
	}},
	{name: "Renew forgets the purpose", flags: []string{"-profile", "renew"}, edits: []edit{
		{"store.go", "newID := NewIDFor(session.ID.purpose)", "newID := NewID()"},
	}},
	{name: "a token opens what it was not issued for", flags: []string{"-profile", "default"}, edits: []edit{
		{"id.go", "hashOf(purposeDomain, string(token[:]), purpose)", "hashOf(purposeDomain, string(token[:]))"},
	}},
	{name: "entries have keys as sessions", flags: []string{"-profile", "everybody"}, edits: []edit{
		{"internal/rows/rows.go", "key[KeySize] = 1", "key[KeySize] = 0"},
	}},
	{name: "LimitByUser looks once", flags: []string{"-faults", "ahead"}, edits: []edit{
		{"internal/pgtable/end.go", "if len(left) == 0 {", "if true {"},
	}},
	{name: "LimitByUser keeps what is over", tests: []string{"-run", "TestUser/encrypted/LimitByUser$", "./internal/test/conformance"}, edits: []edit{
		{"internal/pgtable/end.go", "AND ($4 = 0 OR s.expires_at > $1)", "AND ($4 = 0 OR $1::timestamptz IS NOT NULL)"},
	}},
	{name: "LimitByUser keeps the oldest", flags: []string{"-profile", "limits"}, edits: []edit{
		{"internal/pgtable/end.go", "ORDER BY ` + newestFirst + `", "ORDER BY s.created_at, s.version"},
	}},
	{name: "Touch forgets the end", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/touch.go", "least($1::timestamptz + ` + touchTTL + `, s.ends_at)", "$1::timestamptz + ` + touchTTL + `"},
	}},
	{name: "Touch shortens a life", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/touch.go", "`s.expires_at < ` + touchExpiry + ` AND (` + touchExpiry + ` - s.expires_at) * 10 >= ` + touchTTL", "`s.expires_at <> ` + touchExpiry"},
	}},
	{name: "a batch of touches forgets that they name other ttls", flags: []string{"-profile", "touches", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/touch.go", "known: other.w.TTL == made.w.TTL", "known: true"},
	}},
	{name: "DeleteByUser looks once", flags: []string{"-profile", "everywhere"}, edits: []edit{
		{"internal/pgtable/end.go", "if len(left) == 0 {", "if true {"},
	}},
	{name: "DeleteByUser does not look where a session that it waited for was moved", flags: []string{"-profile", "everywhere"}, edits: []edit{
		{"internal/pgtable/end.go", "if !isEnded {", "if !isEnded && !skipped[string(key)] {"},
	}},
	{name: "DeleteAll looks once", flags: []string{"-profile", "everybody"}, edits: []edit{
		{"internal/pgtable/end.go", "if len(left) == 0 {", "if true {"},
	}},
	{name: "FindByUser shows what has expired", flags: []string{"-profile", "expiry"}, edits: []edit{
		{"internal/pgtable/find.go", "WHERE s.user_key = $%d AND ` + live + `", "WHERE s.user_key = $%d AND $1::timestamptz IS NOT NULL AND ` + stored + `"},
	}},
	{name: "All shows what has expired", flags: []string{"-profile", "lists"}, edits: []edit{
		{"internal/pgtable/find.go", "WHERE s.key > $2 AND ` + live + `", "WHERE s.key > $2 AND $1::timestamptz IS NOT NULL AND ` + stored + `"},
	}},
	{name: "All loses what follows a page", flags: []string{"-profile", "lists"}, edits: []edit{
		{"internal/pgtable/find.go", "ORDER BY s.key\n\t\t\tLIMIT $3\n\t\t) AS s\n\t) AS s\n\tWHERE s.pgsession_bytes_before < $4", "LIMIT $3\n\t\t) AS s\n\t) AS s\n\tWHERE s.pgsession_bytes_before < $4"},
	}},
	{name: "the clean-up does not judge again", flags: []string{"-profile", "sweep"}, edits: []edit{
		{"internal/pgtable/cleanup.go", "ON seen.key = s.key\n\t\tWHERE s.expires_at <= ` + expiredBound + `", "ON seen.key = s.key\n\t\tWHERE ($1::timestamptz IS NOT NULL OR $2::interval IS NULL)"},
		{"internal/pgtable/cleanup.go", "WHERE s.key = held.key AND s.expires_at <= ` + expiredBound + `", "WHERE s.key = held.key"},
	}},
	{name: "Take does not remove", flags: []string{"-profile", "entries"}, edits: []edit{
		{"internal/pgtable/entry.go", "\tDELETE FROM sessions AS s\n\tWHERE s.key = $2 AND ` + live + `\n\tRETURNING ` + columns)", "\tSELECT ` + columns + `\n\tFROM sessions AS s\n\tWHERE s.key = $2 AND ` + live)"},
	}},
	{name: "batches wait for the rows that others hold", flags: []string{"-profile", "order", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/statements.go", "FOR UPDATE OF s SKIP LOCKED", "FOR UPDATE OF s"},
	}},
	{name: "batches insert in any order", flags: []string{"-profile", "insert", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/insert.go", "\n\t\tORDER BY new.key", ""},
	}},
	{name: "batches update before they insert", flags: []string{"-profile", "insert", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/put.go", `
	SELECT inserted.key, inserted.expires_at FROM pgsession_inserted AS inserted
	UNION ALL
	SELECT saved.key, saved.expires_at FROM pgsession_saved AS saved`, `
	SELECT saved.key, saved.expires_at FROM pgsession_saved AS saved
	UNION ALL
	SELECT inserted.key, inserted.expires_at FROM pgsession_inserted AS inserted`},
	}},
	{name: "a write is sent again though it may have happened", flags: []string{"-faults", "on"}, edits: []edit{
		{"internal/pgtable/retry.go", "func leftNoTrace(err error) bool {", "func leftNoTrace(err error) bool {\n\tif isConnectionLost(err) {\n\t\treturn true\n\t}"},
	}},
	{name: "a statement for many runs again though it may have happened", flags: []string{"-faults", "on", "-profile", "renew", "-coalescing", "on"}, edits: []edit{
		{"internal/pgtable/shared.go", "RunAgain:      tookNoEffect,", "RunAgain:      func(error) bool { return true },"},
	}},
	{name: "Update and Renew begin anew though a write may have happened", flags: []string{"-faults", "on", "-profile", "renew"}, edits: []edit{
		{"store.go", "case result.err != nil && (isNew || isOutage(result.err)):", "case result.err != nil && isNew:"},
	}},
	{name: "a write that was given up happens late", flags: []string{"-faults", "on"}, edits: []edit{
		{"internal/pgtable/retry.go", "case err == nil || ctx.Err() != nil:", `case err != nil && ctx.Err() != nil:
			time.AfterFunc(3*time.Second, func() { d.runOnce(context.WithoutCancel(ctx), do) })
			return err
		case err == nil:`},
	}},
	{name: "WithTimeout bounds nothing", flags: []string{"-faults", "silent"}, edits: []edit{
		{"internal/pgtable/database.go", "if d.config.Timeout == 0 {", "if true {"},
	}},
	{name: "a call does not notice that its caller has gone", flags: []string{"-faults", "held for long"}, edits: []edit{
		{"internal/deadline/deadline.go", "context.WithoutCancel(ctx), ctx.Done(), deadline", "context.WithoutCancel(ctx), nil, deadline"},
	}},
	{name: "a caller who hangs up costs a connection", tests: []string{"-run", "TestHangUps", "./internal/test/faults"}, edits: []edit{
		{"internal/deadline/deadline.go", "context.WithoutCancel(ctx), ctx.Done(), deadline", "ctx, nil, deadline"},
	}},
	{name: "a statement is sent for a caller who has gone", tests: []string{"-run", "TestHangUps", "./internal/test/faults"}, edits: []edit{
		{"internal/pgtable/retry.go", "caller := deadline.Caller(ctx)", "caller := ctx"},
	}},
	{name: "read-only connections stay in the pool", flags: []string{"-faults", "connections read-only"}, edits: []edit{
		{"internal/pgtable/retry.go", "d.pool.Reset()", ""},
	}},
	{name: "prepared statements that are gone are an error", flags: []string{"-faults", "discarded"}, edits: []edit{
		{"internal/pgtable/retry.go", "case state == undefinedStatement || d.isDemoted(err, began):", "case d.isDemoted(err, began):"},
	}},
	{name: "the clean-up trusts the clock of its node", flags: []string{"-faults", "ahead"}, edits: []edit{
		{"internal/pgtable/cleanup.go", "statement_timestamp() + $2::interval", "$1::timestamptz + $2::interval"},
	}},
	{name: "calls of several tenants share statements", flags: []string{"-faults", "ahead"}, edits: []edit{
		{"internal/pgtable/shared.go", "if DependsOnContext(pool) {", "if false {"},
	}},
	{name: "Watch asks for the sessions of all tenants at once", flags: []string{"-faults", "ahead"}, edits: []edit{
		{"store.go", "s.watches.apart = pgtable.DependsOnContext(pool)", "s.watches.apart = false"},
	}},
	{name: "a log-in goes on after its user was logged out", program: "./web", flags: []string{"-only", "shop,admin"}, edits: []edit{
		{"httpsession/login.go", "isOver := errors.Is(err, pgsession.ErrNotFound) && before.UserID == \"\"", "isOver := errors.Is(err, pgsession.ErrNotFound)"},
	}},
	{name: "a log-in takes over another user's values", program: "./web", flags: []string{"-only", "shop,admin"}, edits: []edit{
		{"httpsession/login.go", "stored = nil // one user's values", "_ = stored // one user's values"},
	}},
	{name: "the Managers of one store accept each other's tokens", program: "./web", flags: []string{"-only", "shop,admin"}, edits: []edit{
		{"httpsession/manager.go", "m.purpose = m.cookies.base", "m.purpose = \"session\""},
	}},
	{name: "an older release drops what a newer one has stored", program: "./web", flags: []string{"-only", "shop"}, edits: []edit{
		{"httpsession/values.go", "encoded = c.m.shape.keep(encoded, before, own)", "_ = c.m.shape.keep(encoded, before, own)"},
	}},
	{name: "a late request begins a session that no page shows", program: "./web", flags: []string{"-only", "shop,admin"}, edits: []edit{
		{"httpsession/change.go", "case m.bearer || c.st.guestEnded || c.st.current.Load().hasMoved:", "case m.bearer:"},
	}},
	{name: "a session that has only another id is taken for one that has ended", program: "./web", flags: []string{"-only", "shop,gorilla,scs,fiber"}, edits: []edit{
		{"bridge.go", "return errors.Is(err, errMoved)", "return err == nil && errors.Is(err, errMoved)"},
	}},
	{name: "a log-out says it is done, though the session has another id", program: "./web", flags: []string{"-only", "shop"}, edits: []edit{
		{"httpsession/login.go", "errs[len(others)] = bridge.End(ctx, m.store, own)", "errs[len(others)] = m.store.Delete(ctx, own)"},
		{"httpsession/login.go", "\tif st.current.Load().hasMoved {", "\tif false {"},
	}},
	{name: "who has missed their new id is shut out for ever", tests: []string{"-run", "TestOverlap_NewIDLost", "./httpsession"}, edits: []edit{
		{"internal/rows/rows.go", "now.Sub(r.CreatedAt) < overlap", "now.Sub(r.CreatedAt) < overlap<<20"},
	}},
	{name: "a batch of renewals tells one session's news of another", tests: []string{"-run", "TestCoalescing_Renew", "./internal/test/coalescing"}, edits: []edit{
		{"internal/pgtable/renew.go", "CASE WHEN ($16::boolean[])[new.n] THEN interval", "CASE WHEN ($16::boolean[])[1] THEN interval"},
	}},
	{name: "the scs managers and fiber storages of one store accept each other's tokens", program: "./web", flags: []string{"-only", "scs,desk,fiber,forum"}, edits: []edit{
		{"adapters/scs/store.go", "\"scs \" + strconv.Quote(s.name) + token", "strconv.Quote(s.name)[:0] + token"},
		{"adapters/fiber/sessions.go", "\"fiber \" + strconv.Quote(s.name) + sessionID", "strconv.Quote(s.name)[:0] + sessionID"},
	}},
	{name: "a gorilla session takes over another user's values", program: "./web", flags: []string{"-only", "gorilla"}, edits: []edit{
		{"adapters/gorilla/store.go", "if before.UserID != \"\" && before.UserID != userID {", "if before.UserID != \"\" && false {"},
	}},
	{name: "a Lifetime brings the end further", tests: []string{"-run", "TestLifetime|TestConformance_Lifetime", "./internal/test/conformance"}, edits: []edit{
		{"internal/rows/rows.go", "if moved.EndsAt.IsZero() || !r.EndsAt.IsZero() && r.EndsAt.Before(moved.EndsAt) {", "if moved.EndsAt.IsZero() {"},
	}},
	{name: "a Delete that a trigger swallowed says it is done", tests: []string{"-run", "TestSwallowed", "./internal/test/faults"}, edits: []edit{
		{"internal/pgtable/end.go", "if err == nil && held && !ended {", "if err == nil && held && !ended && false {"},
	}},
	{name: "a KeyValue's Delete that a trigger swallowed says it is done", tests: []string{"-run", "TestSwallowed", "./internal/test/faults"}, edits: []edit{
		{"internal/pgtable/entry.go", "\t\treturn errSwallowed\n\t})\n}", "\t\treturn nil\n\t})\n}"},
	}},
	{name: "a store trusts its own clock alone", tests: []string{"-run", "Clock", "./internal/test/faults"}, edits: []edit{
		{"store.go", "ServerClockToo: !isManual,", "ServerClockToo: isManual && false,"},
	}},
	{name: "what ends a user's sessions does not look where they come from before", tests: []string{"-run", "TestTable_EndWith_Between", "./move"}, edits: []edit{
		{"elsewhere.go", "\tendThere()\n\tn, endErr := endHere()", "\tn, endErr := endHere()"},
	}},
	{name: "what ends a user's sessions does not look where they come from afterwards", tests: []string{"-run", "TestTable_EndWith_Between", "./move"}, edits: []edit{
		{"elsewhere.go", "\tendThere()\n\treturn ended, err", "\treturn ended, err"},
	}},
	{name: "an outage is taken for no session", flags: []string{"-faults", "on"}, edits: []edit{
		{"store.go", "return nil, wrap(operation, err)\n\t}\n\tif err := rowError", "return nil, ErrNotFound\n\t}\n\tif err := rowError"},
	}},
}

func main() {
	flag.Parse()
	if !tryAll() {
		fmt.Println("FAILED")
		os.Exit(1)
	}
}

var (
	only      = flag.String("only", "", "run the mutants whose name contains this")
	limit     = flag.Duration("limit", time.Minute, "how long a mutant may go unfound")
	sound     = flag.Duration("sound", 10*time.Second, "how long the library as it is runs under each profile; 0 for not at all")
	seed      = flag.Uint64("seed", 1, "of the torture")
	buildOnly = flag.Bool("build", false, "only see whether each mutant compiles")
)

// tryAll reports whether each mutant was found, and nothing in the library as it is.
func tryAll() bool {
	folder, err := os.MkdirTemp("", "torture-mutants-")
	if err != nil {
		fmt.Println(err)
		return false
	}
	defer os.RemoveAll(folder)
	failed := false
	try := func(name string, m mutant, duration time.Duration, want bool) {
		started := time.Now()
		found, evidence, err := m.run(duration, *seed)
		took := time.Since(started).Round(100 * time.Millisecond)
		switch {
		case err != nil:
			fmt.Printf("ERROR  %s: %v\n", name, err)
		case found:
			fmt.Printf("found  %s, %v %v: %s\n", name, took, append(m.flags, m.tests...), evidence)
		default:
			fmt.Printf("clean  %s, %v %v\n", name, took, append(m.flags, m.tests...))
		}
		if err != nil || found != want {
			failed = true
		}
	}
	for _, m := range mutants {
		if !strings.Contains(m.name, *only) {
			continue
		}
		if *buildOnly {
			if _, err := m.build(folder); err != nil {
				fmt.Printf("ERROR  %s: %v\n", m.name, err)
				failed = true
			}
			continue
		}
		if *sound > 0 {
			try("the library as it is", mutant{program: m.program, flags: m.flags, tests: m.tests}, *sound, false)
		}
		try(m.name, m, *limit, true)
	}
	return !failed
}

// build builds the mutant's program on the edited library.
func (m mutant) build(folder string) (program string, err error) {
	overlay, err := writeOverlay(root, folder, m.edits)
	if err != nil {
		return "", err
	}
	program = filepath.Join(folder, "torture")
	if output, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, cmp.Or(m.program, ".")).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, output)
	}
	return program, nil
}

// run builds the mutant, runs it, and returns whether something was found, and what.
func (m mutant) run(duration time.Duration, seed uint64) (found bool, evidence string, err error) {
	folder, err := os.MkdirTemp("", "torture-mutant-")
	if err != nil {
		return false, "", err
	}
	defer os.RemoveAll(folder)
	if m.tests != nil {
		return m.runTests(folder)
	}
	program, err := m.build(folder)
	if err != nil {
		return false, "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), duration+2*time.Minute)
	defer cancel()
	args := append([]string{"-duration", duration.String(), "-seed", fmt.Sprint(seed)}, m.flags...)
	if m.program == "" && !slices.Contains(m.flags, "-faults") {
		args = append(args, "-faults", "off")
	}
	output, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if path := os.Getenv("TORTURE_MUTANTS_LOG"); path != "" {
		if err := appendTo(path, output); err != nil {
			return false, "", err
		}
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false, "", nil
	case !errors.As(err, &exit) || exit.ExitCode() != 1:
		return false, "", fmt.Errorf("%w\n%s", err, output)
	}
	for line := range strings.Lines(string(output)) {
		if strings.HasPrefix(line, "VIOLATION") || strings.HasPrefix(line, "FAILED") {
			return true, strings.TrimSpace(line), nil
		}
	}
	return false, "", fmt.Errorf("no reason given\n%s", output)
}

func (m mutant) runTests(folder string) (found bool, evidence string, err error) {
	overlay, err := writeOverlay(root, folder, m.edits)
	if err != nil {
		return false, "", err
	}
	command := exec.Command("go", append([]string{"test", "-count=1", "-overlay", overlay}, m.tests...)...)
	command.Dir = root
	output, err := command.CombinedOutput()
	if err == nil {
		return false, "", nil
	}
	for line := range strings.Lines(string(output)) {
		if strings.HasPrefix(line, "--- FAIL") {
			return true, strings.TrimSpace(line), nil
		}
	}
	return false, "", fmt.Errorf("%w\n%s", err, output)
}

func appendTo(path string, output []byte) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(append(output, '\n'))
	return err
}

// writeOverlay writes edited copies of the library's files, and the list of them that the compiler
// takes.
func writeOverlay(root, folder string, edits []edit) (overlay string, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return "", err
	}
	contents := make(map[string]string)
	for _, e := range edits {
		path := filepath.Join(root, e.file)
		if contents[path] == "" {
			content, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			contents[path] = string(content)
		}
		if !strings.Contains(contents[path], e.old) {
			return "", fmt.Errorf("%s has no %q any more", e.file, e.old)
		}
		contents[path] = strings.ReplaceAll(contents[path], e.old, e.new)
	}
	replace := make(map[string]string)
	for path, content := range contents {
		replace[path] = filepath.Join(folder, fmt.Sprint(len(replace))+filepath.Base(path))
		if err := os.WriteFile(replace[path], []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(folder, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o600)
}
