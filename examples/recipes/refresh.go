package recipes

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
)

// RefreshTokens are refresh tokens that change with each use. If one is used twice, it was stolen,
// and all that came of its log-in ends. A family of tokens is one session: FindByUser, Revoke and
// DeleteByUser work on it.
type RefreshTokens struct{ Store *pgsession.Store } // with a table of its own

type family struct {
	Current [sha256.Size]byte `json:"current"` // the hash of the one secret that is good
}

// ErrReused says that the family was ended.
var ErrReused = errors.New("the refresh token was used before; please log in again")

const day = 24 * time.Hour

// Issue begins a family at a log-in.
func (t RefreshTokens) Issue(ctx context.Context, user string) (token string, err error) {
	secret := rand.Text()
	data := pgsession.Data{UserID: user, Lifetime: 90 * day, Values: family{sha256.Sum256([]byte(secret))}}
	begun, err := t.Store.CreateAs(ctx, pgsession.NewIDFor("refresh"), data, 30*day)
	if err != nil {
		return "", err
	}
	return begun.ID.Token() + "." + secret, nil
}

// Rotate returns whose token it is, and the token to use next time. Clients must not use one token
// twice, also not in parallel.
func (t RefreshTokens) Rotate(ctx context.Context, token string) (user, next string, err error) {
	text, secret, _ := strings.Cut(token, ".")
	id, err := pgsession.ParseIDFor("refresh", text)
	if err != nil {
		return "", "", err
	}
	begun, err := t.Store.Load(ctx, id)
	if err != nil {
		return "", "", err
	}
	nextSecret := rand.Text()
	_, err = t.Store.Update(ctx, begun, 30*day, func(s *pgsession.Session) (any, error) {
		kept, err := pgsession.Decode[family](s)
		if err == nil && kept.Current != sha256.Sum256([]byte(secret)) {
			err = ErrReused
		}
		return family{sha256.Sum256([]byte(nextSecret))}, err
	})
	if errors.Is(err, ErrReused) {
		return "", "", errors.Join(err, t.Store.Delete(context.WithoutCancel(ctx), id))
	}
	return begun.UserID, text + "." + nextSecret, err
}
