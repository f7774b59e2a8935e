package gorillastore

import "github.com/gorilla/sessions"

// A GinStore is a [Store] for github.com/gin-contrib/sessions, whose Store has a method Options. It
// is made by [ForGin].
type GinStore[O ginOptions] struct{ *Store }

type ginOptions interface{ ToGorillaOptions() *sessions.Options }

// ForGin returns the store in the form that github.com/gin-contrib/sessions takes. The type O is
// that package's Options:
//
//	router.Use(sessions.Sessions("session", gorillastore.ForGin[sessions.Options](store)))
func ForGin[O ginOptions](store *Store) GinStore[O] { return GinStore[O]{store} }

// Options sets the options that a session begins with, all of them. Call it before the first
// request.
func (s GinStore[O]) Options(options O) { s.Store.Options = options.ToGorillaOptions() }
