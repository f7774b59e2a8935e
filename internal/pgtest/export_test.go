package pgtest

import (
	"context"
	"errors"
)

// HideServers makes this machine one without PostgreSQL's packages and without Docker.
func HideServers() {
	packageFolders = nil
	findDocker = func(context.Context) error { return errors.New("no daemon") }
}

// FindBinaries looks in one pattern of folders instead of the usual ones.
func FindBinaries(pattern string) (string, error) {
	defer func(usual []string) { packageFolders = usual }(packageFolders)
	packageFolders = []string{pattern}
	return findBinaries()
}
