package pgsession

const MaxShared = maxShared

// Waiting returns how many calls wait to share a statement, for the tests that put
// them there.
func (s *Store) Waiting() int {
	return s.loads.Waiting() + s.saves.Waiting() + s.puts.Waiting() + s.touches.Waiting() + s.deletes.Waiting()
}
