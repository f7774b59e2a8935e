package pgsession

import "unique"

// A secret is 256 bits that fmt does not find. It calls no method on a value that
// lies in somebody's unexported field, but prints it by reflection; there it follows
// one pointer, for a verb that does not suit pointers, such as %s, and never two.
// Secrets compare by their bits with ==. The zero secret is 256 zero bits.
type secret struct {
	bits unique.Handle[unique.Handle[[32]byte]]
}

func newSecret(bits [32]byte) secret {
	if bits == [32]byte{} {
		return secret{}
	}
	return secret{unique.Make(unique.Make(bits))}
}

func (s secret) reveal() [32]byte {
	if s == (secret{}) {
		return [32]byte{}
	}
	return s.bits.Value().Value()
}
