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
