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

const ordered = "\n\t\tORDER BY s.key\n\t\t{lock}"

var mutants = []mutant{
	{"Put forgets the tombstone", []string{"-profile", "revival"}, []edit{
		{"store.go", "WHERE {stored} AND (NOT ({live})", "WHERE (NOT ({live})"},
		{"batch.go", "WHERE {stored} AND (NOT ({live})", "WHERE (NOT ({live})"},
	}},
	{"Save forgets the tombstone", []string{"-profile", "revival"}, []edit{
		{"store.go", "WHERE s.key = $3 AND {live} AND (s.user_key IS NOT DISTINCT FROM $4 OR s.user_key = ANY($8::bytea[]))",
			"WHERE s.key = $3 AND s.expires_at > $1 AND s.created_at > $2 AND (s.user_key IS NOT DISTINCT FROM $4 OR s.user_key = ANY($8::bytea[]))"},
	}},
	{"Delete leaves no tombstone", []string{"-profile", "revival", "-coalescing", "off"}, []edit{
		{"store.go", `
	UPDATE {sessions} AS s
	SET user_key = NULL, data = NULL, sealed = NULL, version = {next},
		expires_at = greatest(s.expires_at, $2), expires_hour = greatest(s.expires_hour, $3)
	WHERE s.key = $1 AND {stored}`, `
	DELETE FROM {sessions} AS s
	WHERE s.key = $1 AND {stored} AND $2::timestamptz <= $3::timestamptz`},
	}},
	{"Update forgets the version", []string{"-profile", "update"}, []edit{
		{"store.go", "AND s.version = $8 AND s.created_at = $9", "AND (s.version = $8 OR $9::timestamptz IS NOT NULL)"},
	}},
	{"Cycle takes any tombstone for its own", []string{"-profile", "cycle"}, []edit{
		{"store.go", "WHERE s.key = $7 AND s.version = $8", "WHERE s.key = $7 AND NOT {stored} AND $8::bigint IS NOT NULL"},
	}},
	{"DeleteByUser looks once", []string{"-profile", "everywhere"}, []edit{
		{"user.go", "pass.ended == pass.seen", "pass.ended <= pass.seen"},
	}},
	{"locks are taken in any order", []string{"-profile", "order", "-coalescing", "on"}, []edit{
		{"batch.go", ordered, ""},
		{"batch.go", "\n\tORDER BY new.key", ""},
		{"user.go", ordered, ""},
		{"cleanup.go", ordered, ""},
	}},
	{"the clean-up does not look again", []string{"-profile", "sweep"}, []edit{
		{"cleanup.go", "ON seen.key = s.key\n\t\tWHERE s.expires_at <= $1", "ON seen.key = s.key\n\t\tWHERE $1::timestamptz IS NOT NULL"},
		{"cleanup.go", "WHERE s.key = held.key AND s.expires_at <= $1", "WHERE s.key = held.key"},
	}},
	{"an outage is taken for no session", []string{"-faults", "on"}, []edit{
		{"store.go", `return nil, s.wrap("load", err)`, "return nil, ErrNotFound"},
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
