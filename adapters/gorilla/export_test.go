package gorillastore

// Remembered returns how many sessions of requests the store knows.
func Remembered(s *Store) (n int) {
	s.sessions.Range(func(any, any) bool { n++; return true })
	return n
}
