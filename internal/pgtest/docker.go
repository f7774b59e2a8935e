package pgtest

import (
	"context"
	"fmt"
)

func startDocker(ctx context.Context, logf func(string, ...any)) (*Server, error) {
	return nil, fmt.Errorf("%w: Docker", errAbsent)
}
