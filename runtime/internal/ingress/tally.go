package ingress

import "sync"

// tally counts what is under way. Unlike a sync.WaitGroup it may be added to while somebody waits.
type tally struct {
	mutex   sync.Mutex
	count   int
	waiting []chan struct{}
}

func (t *tally) add() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.count++
}

func (t *tally) done() {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.count--
	if t.count > 0 {
		return
	}
	for _, each := range t.waiting {
		close(each)
	}
	t.waiting = nil
}

func (t *tally) run(call func()) {
	t.add()
	go func() {
		defer t.done()
		call()
	}()
}

// none returns what is closed as soon as nothing is under way.
func (t *tally) none() <-chan struct{} {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	ended := make(chan struct{})
	if t.count == 0 {
		close(ended)
	} else {
		t.waiting = append(t.waiting, ended)
	}
	return ended
}
