package pgtable

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// A statement is one of those that a table sends. Its text stands beside the method that sends it.
type statement int

// texts are the texts of all statements, as they were registered.
var texts []string

// register makes a statement. It is called for package variables only.
func register(sql string) statement {
	texts = append(texts, sql)
	return statement(len(texts) - 1)
}

// The parts of statements that have a name. The columns are in columns.go.
const (
	// stored is false for a tombstone.
	stored = `(s.data IS NOT NULL OR s.sealed IS NOT NULL)`

	// live is what Row.IsLive says.
	live = stored + ` AND s.expires_at > $1`

	// nextVersion is what rows.NextVersion says.
	nextVersion = `(s.version & x'3fffffffffffffff'::bigint) + 1`

	// tombstone is what Row.End says.
	tombstone = `user_key = NULL, data = NULL, sealed = NULL, version = ` + nextVersion + `,
		expires_at = greatest(s.expires_at, $1::timestamptz + interval '1 hour')`

	// hasHandle and isOurs are written so that the planner expects most rows to pass, and keeps to the
	// index.
	hasHandle = `(octet_length(s.key) = 32)::int <> 0`
	isOurs    = `(octet_length(s.key) IN (32, 33))::int <> 0`

	// newestFirst is what rows.Newest says.
	newestFirst = `s.created_at DESC, s.version DESC, s.key`

	// skipLocked keeps a statement for several rows from waiting for any of them.
	skipLocked = `FOR UPDATE OF s SKIP LOCKED`

	// hideListLength follows a list. It limits nothing, but hides the list's length from the planner,
	// which then keeps one generic plan. Without it, the planner would make a new plan at each call,
	// since a short list seems to cost less than the ten elements that it assumes. Or it would keep a
	// plan from the time when the table was small, which reads the whole table.
	hideListLength = `LIMIT (SELECT NULL::bigint)`
)

// filler returns the function that turns a statement into one for the table of that name.
func filler(name pgx.Identifier, plaintext bool) func(string) string {
	replacements := []string{"sessions AS s", name.Sanitize() + " AS s"}
	if plaintext {
		replacements = append(replacements, sealedColumns, plainColumns)
	}
	if strings.HasPrefix(name[len(name)-1], "pgsession_") {
		// A common table expression hides a table of its name.
		replacements = append(replacements, "pgsession_", "cte_")
	}
	return strings.NewReplacer(replacements...).Replace
}
