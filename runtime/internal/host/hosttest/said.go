package hosttest

import (
	"bytes"
	"sync"
)

// Said keeps what a program or a journal writes, for tests that read it meanwhile.
type Said struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (s *Said) Write(data []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.text.Write(data)
}

func (s *Said) String() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.text.String()
}
