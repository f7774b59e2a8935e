package httpsession

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// checkedShape returns the shape of V. It panics if no V can be stored, or nothing of it.
func checkedShape[V any]() *shape {
	var zero V
	t := reflect.TypeFor[V]()
	if _, err := json.Marshal(&zero); errors.As(err, new(*json.UnsupportedTypeError)) {
		panic(fmt.Sprintf("httpsession: New: encoding/json has no form for a value of type %s", t))
	}
	shapes := make(map[reflect.Type]*shape)
	s := shapeOf(t, shapes)
	for t, s := range shapes {
		if t.Kind() == reflect.Struct && len(s.members) == 0 && t.NumField() > 0 {
			panic(fmt.Sprintf("httpsession: New: nothing of type %s would be stored: it has no exported field", t))
		}
	}
	return s
}

// isObjectOrNull reports whether the zero V is such JSON.
func isObjectOrNull[V any]() bool {
	var zero V
	encoded, err := json.Marshal(&zero)
	return err == nil && (isObject(encoded) || string(encoded) == "null")
}

// decode returns a session's values, newly decoded. It reports whether they could be read:
// otherwise they begin anew.
func (m *Manager[V]) decode(ctx context.Context, stored *pgsession.Session) (values V, isReadable bool) {
	encoded, isJSON := bridge.Values(stored).(bridge.JSON)
	reason := "bytes, and no JSON"
	if isJSON {
		own, _ := cutBinding(encoded)
		err := json.Unmarshal(own, &values)
		if err == nil {
			return values, true
		}
		reason = mismatch(err)
	}
	m.log(ctx, slog.LevelWarn, "httpsession: values of a session do not decode, and begin anew",
		slog.String("session", stored.Handle.String()), slog.String("reason", reason))
	var zero V
	return zero, false
}

// mismatch says why values do not decode. The text of another error may quote them.
func mismatch(err error) string {
	if mismatch := (*json.UnmarshalTypeError)(nil); errors.As(err, &mismatch) {
		return fmt.Sprintf("a value does not fit type %s", mismatch.Type)
	}
	return fmt.Sprintf("an error of type %T", err)
}

// A revision is what a call makes of a session's values.
type revision[V any] struct {
	m      *Manager[V]
	st     *requestState[V]
	change func(*V) error // nil: the stored values stay as they are, byte for byte

	err     error // what change returned in the latest run
	isKnown bool  // values are
	values  V     // what the latest run stored, newly decoded
}

// apply returns what to store in place of the values of a session; nil is a new one. It may be
// called several times.
func (c *revision[V]) apply(ctx context.Context, stored *pgsession.Session) (any, error) {
	c.isKnown = false
	if c.change == nil && stored != nil {
		return bridge.Values(stored), nil
	}
	var (
		values  V
		own     bridge.JSON // what is stored, without the binding; nil: nothing to keep
		before  bridge.JSON // values, before they are changed
		binding []byte
	)
	if stored != nil {
		var isReadable bool
		if values, isReadable = c.m.decode(ctx, stored); !isReadable {
			c.st.tellUnreadable(stored)
		}
		if isReadable || isValid(stored) {
			own, binding = cutBinding(bridge.Values(stored).(bridge.JSON))
		}
		if isReadable && c.m.hasList && c.m.shape.lacks(own) {
			before, _ = bridge.Marshal(&values)
		}
	}
	if c.change != nil {
		if c.err = c.st.call(c.change, &values); c.err != nil {
			return nil, c.err
		}
	}
	encoded, again, err := encode(values)
	if err != nil {
		return nil, err
	}
	if own != nil {
		encoded = c.m.shape.keep(encoded, before, own)
	}
	if binding != nil {
		encoded = addBinding(encoded, binding)
	}
	c.values, c.isKnown = again, true
	return encoded, nil
}

// done notes that the latest run was stored.
func (c *revision[V]) done(stored *pgsession.Session) {
	if c.isKnown {
		c.st.setValues(stored, c.values)
	} else {
		c.st.set(stored)
	}
}

// failed notes what the error of a write says about the session, and returns it.
func (c *revision[V]) failed(err error) error {
	isOfChange := c.err != nil && errors.Is(err, c.err)
	if errors.Is(err, pgsession.ErrNotFound) && !isOfChange {
		c.st.setEnded(err)
	}
	return err
}

// encode returns values as JSON, and as they will be read.
func encode[V any](values V) (encoded bridge.JSON, again V, err error) {
	encoded, err = bridge.Marshal(&values)
	if err != nil {
		return nil, again, err
	}
	if err := json.Unmarshal(encoded, &again); err != nil {
		return nil, again, fmt.Errorf("%w: they would not decode again: %s", pgsession.ErrEncode, mismatch(err))
	}
	if _, binding := cutBinding(encoded); binding != nil {
		return nil, again, fmt.Errorf("%w: the member %s is reserved", pgsession.ErrEncode, bindingMember)
	}
	return encoded, again, nil
}

func isValid(stored *pgsession.Session) bool {
	encoded, isJSON := bridge.Values(stored).(bridge.JSON)
	return isJSON && json.Valid(encoded)
}
