// Program mutants shows that the torture finds what it should: it breaks the library in one place after another, in a copy
// that only the compiler sees, and wants each to be found within a minute. It ends with status 1 when one was not, or when the
// library as it is was found wanting.
//
//	go run ./mutants
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// An edit replaces each occurrence of a text in a file of the library.
type edit struct{ file, old, new string }

type mutant struct {
	name  string
	flags []string
	edits []edit
}

// In an edit, live and stored are the names of conditions in internal/pgtable.
var mutants = []mutant{
	{"Put forgets the tombstone", []string{"-profile", "revival"}, []edit{
		{"internal/pgtable/put.go", "WHERE ` + live + `", "WHERE s.expires_at > $1"},
		{"internal/pgtable/put.go", "AND ` + live + `", "AND s.expires_at > $1"},
	}},
	{"Put revives an expired session", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/put.go", "WHERE ` + live + `", "WHERE ` + stored + `"},
		{"internal/pgtable/put.go", "AND ` + live + `", "AND ` + stored + `"},
	}},
	{"Put begins under an id that ParseID read", []string{"-profile", "revival"}, []edit{
		{"id.go", "return !id.parsed && !id.IsZero()", "return !id.IsZero()"},
	}},
	{"Save forgets the tombstone", []string{"-profile", "revival"}, []edit{
		{"internal/pgtable/save.go", "AND ` + live + ` AND (s.user_key", "AND s.expires_at > $1 AND (s.user_key"},
		{"internal/pgtable/save.go", "WHERE ` + live + ` AND s.user_key", "WHERE s.expires_at > $1 AND s.user_key"},
		{"internal/pgtable/save.go", "AND ` + live + ` AND s.user_key", "AND s.expires_at > $1 AND s.user_key"},
	}},
	{"Save revives an expired session", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/save.go", "AND ` + live + ` AND (s.user_key", "AND ` + stored + ` AND $1::timestamptz IS NOT NULL AND (s.user_key"},
		{"internal/pgtable/save.go", "WHERE ` + live + ` AND s.user_key", "WHERE ` + stored + ` AND s.user_key"},
		{"internal/pgtable/save.go", "AND ` + live + ` AND s.user_key", "AND ` + stored + ` AND s.user_key"},
	}},
	{"Save forgets the end", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/save.go", "least($5::timestamptz, s.ends_at)", "$5::timestamptz"},
		{"internal/pgtable/save.go", "least(` + newExpiresAt + `, s.ends_at)", "` + newExpiresAt + `"},
	}},
	{"a batch of writes forgets that they name other users", []string{"-profile", "users", "-coalescing", "on"}, []edit{
		{"internal/pgtable/save.go", "bytes.Equal(w.UserKey, last.UserKey)", "bytes.Equal(nil, nil)"},
	}},
	{"a batch of writes forgets that they name other ends", []string{"-profile", "users", "-coalescing", "on"}, []edit{
		{"internal/pgtable/save.go", " && w.EndsAt.Equal(last.EndsAt) && w.Lifetime == last.Lifetime", ""},
	}},
	{"Delete leaves no tombstone", []string{"-profile", "revival", "-coalescing", "off"}, []edit{
		{"internal/pgtable/end.go", `
	UPDATE sessions AS s
	SET ` + "` + tombstone + `" + `
	WHERE s.key = $2 AND ` + "` + stored", `
	DELETE FROM sessions AS s
	WHERE s.key = $2 AND $1::timestamptz IS NOT NULL AND ` + "` + stored"},
	}},
	{"Revoke ends anybody's session", []string{"-profile", "default"}, []edit{
		{"internal/pgtable/end.go", "OR s.user_key = ANY($3::bytea[]))", "OR s.user_key IS NOT NULL)"},
	}},
	{"Update forgets the version", []string{"-profile", "update"}, []edit{
		{"internal/pgtable/save.go", "AND s.version = $3 AND s.created_at = $4", "AND (s.version = $3 OR $4::timestamptz IS NOT NULL)"},
	}},
	{"Update takes an expired session", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/save.go", "AND ` + live + ` AND s.version = $3", "AND $1::timestamptz IS NOT NULL AND s.version = $3"},
	}},
	{"Renew forgets the version", []string{"-profile", "renew"}, []edit{
		{"internal/pgtable/cycle.go", "AND s.version = $3 AND s.created_at = $4", "AND (s.version = $3 OR $4::timestamptz IS NOT NULL)"},
	}},
	{"Renew takes an expired session", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/cycle.go", "AND ` + live + ` AND s.version", "AND ` + stored + ` AND s.version"},
	}},
	{"Cycle takes a session that was ended", []string{"-profile", "cycle"}, []edit{
		{"internal/pgtable/cycle.go", "WHERE s.key = $2 AND ` + live + ` AND (s.user_key IS NULL", "WHERE s.key = $2 AND s.expires_at > $1 AND (s.user_key IS NULL"},
	}},
	{"Cycle takes an expired session", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/cycle.go", "WHERE s.key = $2 AND ` + live + ` AND (s.user_key IS NULL", "WHERE s.key = $2 AND ` + stored + ` AND (s.user_key IS NULL"},
	}},
	{"Cycle forgets the end", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/cycle.go", "THEN s.ends_at ELSE", "THEN NULL ELSE"},
	}},
	{"Touch forgets the end", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/touch.go", "least($1::timestamptz + ` + touchTTL + `, s.ends_at)", "$1::timestamptz + ` + touchTTL + `"},
	}},
	{"Touch shortens a life", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/touch.go", "`s.expires_at < ` + touchExpiry + ` AND (` + touchExpiry + ` - s.expires_at) * 10 >= ` + touchTTL", "`s.expires_at <> ` + touchExpiry"},
	}},
	{"a batch of touches forgets that they name other ttls", []string{"-profile", "touches", "-coalescing", "on"}, []edit{
		{"internal/pgtable/touch.go", "if request == first[request.key] {", "if request.key == first[request.key].key {"},
	}},
	{"DeleteByUser looks once", []string{"-profile", "everywhere"}, []edit{
		{"internal/pgtable/end.go", "if err != nil || all && len(seen) < batchSize && !t.isDistributed() {", "if _ = all; err != nil || len(seen) < batchSize {"},
	}},
	{"DeleteByUser leaves the sessions that others hold", []string{"-profile", "everywhere"}, []edit{
		{"internal/pgtable/end.go", "if row.ended {\n\t\t\tcontinue", "if true {\n\t\t\tcontinue"},
	}},
	{"DeleteAll looks once", []string{"-profile", "everybody"}, []edit{
		{"internal/pgtable/end.go", "done = done && all", "done = done && (all || true)"},
	}},
	{"FindByUser shows what has expired", []string{"-profile", "expiry"}, []edit{
		{"internal/pgtable/find.go", "WHERE s.user_key = $%d AND ` + live + `", "WHERE s.user_key = $%d AND $1::timestamptz IS NOT NULL AND ` + stored + `"},
	}},
	{"All shows what has expired", []string{"-profile", "lists"}, []edit{
		{"internal/pgtable/find.go", "WHERE s.key > $2 AND ` + live + `", "WHERE s.key > $2 AND $1::timestamptz IS NOT NULL AND ` + stored + `"},
	}},
	{"All loses what follows a page", []string{"-profile", "lists"}, []edit{
		{"internal/pgtable/find.go", "ORDER BY s.key\n\t\t\tLIMIT $3\n\t\t) AS s\n\t) AS s\n\tWHERE s.pgsession_bytes_before < $4", "LIMIT $3\n\t\t) AS s\n\t) AS s\n\tWHERE s.pgsession_bytes_before < $4"},
	}},
	{"the clean-up does not judge again", []string{"-profile", "sweep"}, []edit{
		{"internal/pgtable/cleanup.go", "ON seen.key = s.key\n\t\tWHERE s.expires_at <= ` + expiredBound + `", "ON seen.key = s.key\n\t\tWHERE ($1::timestamptz IS NOT NULL OR $2::interval IS NULL)"},
		{"internal/pgtable/cleanup.go", "WHERE s.key = held.key AND s.expires_at <= ` + expiredBound + `", "WHERE s.key = held.key"},
	}},
	{"Take does not remove", []string{"-profile", "entries"}, []edit{
		{"internal/pgtable/entry.go", "\tDELETE FROM sessions AS s\n\tWHERE s.key = $2 AND ` + live + `\n\tRETURNING ` + columns + `", "\tSELECT ` + columns + `\n\tFROM sessions AS s\n\tWHERE s.key = $2 AND ` + live + `"},
	}},
	{"batches wait for the rows that others hold", []string{"-profile", "order", "-coalescing", "on"}, []edit{
		{"internal/pgtable/table.go", "FOR UPDATE OF s SKIP LOCKED", "FOR UPDATE OF s"},
	}},
	{"batches insert in any order", []string{"-profile", "insert", "-coalescing", "on"}, []edit{
		{"internal/pgtable/put.go", "\n\t\tORDER BY new.key", ""},
	}},
	{"batches update before they insert", []string{"-profile", "insert", "-coalescing", "on"}, []edit{
		{"internal/pgtable/put.go", `
	SELECT inserted.key FROM pgsession_inserted AS inserted
	UNION ALL
	SELECT saved.key FROM pgsession_saved AS saved`, `
	SELECT saved.key FROM pgsession_saved AS saved
	UNION ALL
	SELECT inserted.key FROM pgsession_inserted AS inserted`},
	}},
	{"a write is sent again though it may have happened", []string{"-faults", "on"}, []edit{
		{"internal/pgtable/retry.go", "func leftNoTrace(err error) bool {", "func leftNoTrace(err error) bool {\n\tif isConnectionLost(err) {\n\t\treturn true\n\t}"},
	}},
	{"a write that was given up happens late", []string{"-faults", "on"}, []edit{
		{"internal/pgtable/retry.go", "case err == nil || ctx.Err() != nil || attempt >= maxAttempts:", `case err != nil && ctx.Err() != nil:
			time.AfterFunc(3*time.Second, func() { t.runOnce(context.WithoutCancel(ctx), do) })
			return err
		case err == nil || attempt >= maxAttempts:`},
	}},
	{"WithTimeout bounds nothing", []string{"-faults", "silent"}, []edit{
		{"internal/pgtable/table.go", "if t.config.Timeout == 0 {", "if true {"},
	}},
	{"read-only connections stay in the pool", []string{"-faults", "connections read-only"}, []edit{
		{"internal/pgtable/retry.go", "t.pool.Reset()", ""},
	}},
	{"prepared statements that are gone are an error", []string{"-faults", "discarded"}, []edit{
		{"internal/pgtable/retry.go", "case sqlState(err) == undefinedStatement || t.isDemoted(err, began):", "case t.isDemoted(err, began):"},
	}},
	{"the clean-up trusts the clock of its node", []string{"-faults", "ahead"}, []edit{
		{"internal/pgtable/cleanup.go", "statement_timestamp() + $2::interval", "$1::timestamptz + $2::interval"},
	}},
	{"calls of several tenants share statements", []string{"-faults", "ahead"}, []edit{
		{"internal/pgtable/shared.go", "if config.BeforeAcquire != nil || config.PrepareConn != nil {", "if false {"},
	}},
	{"an outage is taken for no session", []string{"-faults", "on"}, []edit{
		{"store.go", `return rows.Row{}, nil, wrap("load", err)`, "return rows.Row{}, nil, ErrNotFound"},
	}},
}

func main() {
	only := flag.String("only", "", "run the mutants whose name contains this")
	limit := flag.Duration("limit", time.Minute, "how long a mutant may go unfound")
	sound := flag.Duration("sound", 10*time.Second, "how long the library as it is runs under each profile; 0 for not at all")
	seed := flag.Uint64("seed", 1, "of the torture")
	flag.Parse()
	failed := false
	try := func(name string, flags []string, edits []edit, duration time.Duration, want bool) {
		started := time.Now()
		found, evidence, err := run(flags, edits, duration, *seed)
		took := time.Since(started).Round(100 * time.Millisecond)
		switch {
		case err != nil:
			fmt.Printf("ERROR  %s: %v\n", name, err)
		case found:
			fmt.Printf("found  %s, %v %v: %s\n", name, took, flags, evidence)
		default:
			fmt.Printf("clean  %s, %v %v\n", name, took, flags)
		}
		if err != nil || found != want {
			failed = true
		}
	}
	for _, m := range mutants {
		if !strings.Contains(m.name, *only) {
			continue
		}
		if *sound > 0 {
			try("the library as it is", m.flags, nil, *sound, false)
		}
		try(m.name, m.flags, m.edits, *limit, true)
	}
	if failed {
		fmt.Println("FAILED")
		os.Exit(1)
	}
}

// run builds the torture on an edited library, runs it, and returns whether it found something, and what.
func run(flags []string, edits []edit, duration time.Duration, seed uint64) (found bool, evidence string, err error) {
	folder, err := os.MkdirTemp("", "torture-mutant-")
	if err != nil {
		return false, "", err
	}
	defer os.RemoveAll(folder)
	overlay, err := writeOverlay(folder, edits)
	if err != nil {
		return false, "", err
	}
	program := filepath.Join(folder, "torture")
	if output, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		return false, "", fmt.Errorf("%w\n%s", err, output)
	}
	ctx, cancel := context.WithTimeout(context.Background(), duration+2*time.Minute)
	defer cancel()
	args := append([]string{"-duration", duration.String(), "-seed", fmt.Sprint(seed), "-faults", "off"}, flags...)
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

func appendTo(path string, output []byte) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(append(output, '\n'))
	return err
}

// writeOverlay writes edited copies of the library's files, and the list of them that the compiler takes.
func writeOverlay(folder string, edits []edit) (overlay string, err error) {
	root, err := filepath.Abs("../..")
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
		replace[path] = filepath.Join(folder, filepath.Base(path))
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
