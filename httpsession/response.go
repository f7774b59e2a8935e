package httpsession

import (
	"net/http"
	"reflect"
)

// hasBegun reports whether the header of a response is written, or its connection hijacked, so that
// a cookie would be lost without a word. net/http has no method for that question. It keeps the
// answer in a field of its ResponseWriters, and net/http/httptest in one of its recorder. Of other
// writers, and if these change, nothing is known, and the answer is no.
func hasBegun(w http.ResponseWriter) bool {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = inner.Unwrap()
	}
	v := reflect.ValueOf(w)
	if v.Kind() != reflect.Pointer {
		return false
	}
	switch v.Type().String() {
	case "*http.response":
		v = v.Elem()
		if hijacked := reflect.Indirect(v.FieldByName("conn")).FieldByName("hijackedv"); hijacked.Kind() == reflect.Bool && hijacked.Bool() {
			return true
		}
	case "*httptest.ResponseRecorder":
		v = v.Elem()
	case "*http.http2responseWriter":
		v = reflect.Indirect(v.Elem().FieldByName("rws"))
	default:
		return false
	}
	if v.Kind() != reflect.Struct {
		return false
	}
	field := v.FieldByName("wroteHeader")
	return field.Kind() == reflect.Bool && field.Bool()
}
