package pgsessiontest_test

import (
	"fmt"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// A function that takes a session is tested with one made by hand.
func ExampleNewSession() {
	session := pgsessiontest.NewSession(pgsessiontest.SessionFields{
		Data: pgsession.Data{UserID: "ann", Values: map[string]string{"theme": "dark"}},
	})
	values, err := pgsession.Decode[map[string]string](session)
	fmt.Println(session.UserID, values["theme"], session.Remaining(), err)
	// Output: ann dark 1h0m0s <nil>
}
