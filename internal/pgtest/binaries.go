package pgtest

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// packageFolders are where packages put the server's programs if they are not in the PATH.
var packageFolders = []string{
	"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
	"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
	"/opt/homebrew/opt/postgresql*/bin", // Homebrew on Apple silicon
	"/usr/pgsql-*/bin",                  // PostgreSQL's own RPMs
	"/usr/libexec/postgresql*",          // Alpine
}

// findBinaries returns the folder of PostgreSQL's server programs.
func findBinaries() (string, error) {
	if folder := os.Getenv("PGSESSION_PG_BIN"); folder != "" {
		if !hasServer(folder) {
			return "", fmt.Errorf("PGSESSION_PG_BIN=%s holds no initdb and postgres", folder)
		}
		return folder, nil
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		// A link in the PATH is often the only one. Its target's folder has pg_basebackup and the
		// other programs too.
		if target, err := filepath.EvalSymlinks(initdb); err == nil && hasServer(filepath.Dir(target)) {
			return filepath.Dir(target), nil
		}
		if hasServer(filepath.Dir(initdb)) {
			return filepath.Dir(initdb), nil
		}
	}
	for _, pattern := range packageFolders {
		folders, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		slices.SortFunc(folders, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
		if i := slices.IndexFunc(folders, hasServer); i >= 0 {
			return folders[i], nil
		}
	}
	return "", fmt.Errorf("%w: no initdb in the PATH or where packages put it", errAbsent)
}

func hasServer(folder string) bool {
	for _, program := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(folder, program)); err != nil {
			return false
		}
	}
	return true
}

var version = regexp.MustCompile(`(\d+)[^/]*(/bin)?$`)

// majorVersion reads the version in a folder's name, or returns 0. Homebrew's folder without a
// version is a link to one that has a version.
func majorVersion(folder string) int {
	match := version.FindStringSubmatch(folder)
	if match == nil {
		return 0
	}
	major, err := strconv.Atoi(match[1])
	if err != nil {
		return 0
	}
	return major
}

// serverUser returns the user to run PostgreSQL as, since it refuses to run as root. It returns nil
// for this process's own user.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

// newFolderName returns a name for a temporary folder that the owner can reach. A nil owner is this
// process's user. The server's socket is in the folder too, so that the path must be short.
func newFolderName(owner *syscall.Credential) string {
	const socketPathLimit = 103 // of macOS; Linux has 107
	parent := os.TempDir()
	name := "pgtest-" + strings.ToLower(rand.Text()[:12])
	if len(filepath.Join(parent, name, ".s.PGSQL.65535")) > socketPathLimit || owner != nil && !openToAll(parent) {
		parent = "/tmp"
	}
	return filepath.Join(parent, name)
}

func makeFolder(folder string, owner *syscall.Credential) error {
	if err := os.Mkdir(folder, 0o700); err != nil || owner == nil {
		return err
	}
	return os.Chown(folder, int(owner.Uid), int(owner.Gid))
}

// openToAll reports whether any user can reach what is inside the folder.
func openToAll(folder string) bool {
	for {
		info, err := os.Stat(folder)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return true
		}
		folder = parent
	}
}

// serverEnvironment is this process's, without the settings that PostgreSQL's programs would take
// from it.
func serverEnvironment() []string {
	environment := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") && !strings.HasPrefix(entry, "PGSESSION_") || strings.HasPrefix(entry, "LC_")
	})
	return append(environment, "LC_ALL=C")
}
