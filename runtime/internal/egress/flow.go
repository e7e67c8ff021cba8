package egress

import "sync"

// flow counts connections, and lets in no more than the limits allow.
type flow struct {
	mutex                 sync.Mutex
	active, opening       level
	maxActive, maxOpening int
}

// level is a number, and a channel that is closed while it is 0.
type level struct {
	count int
	idle  chan struct{}
}

func (l *level) rise() {
	if l.count == 0 {
		l.idle = make(chan struct{})
	}
	l.count++
}

func (l *level) fall() {
	if l.count--; l.count == 0 {
		close(l.idle)
	}
}

func newFlow(maxActive, maxOpening int) *flow {
	never := make(chan struct{})
	close(never)
	return &flow{
		active: level{idle: never}, opening: level{idle: never}, maxActive: maxActive, maxOpening: maxOpening,
	}
}

// begin takes a place for a connection that is to be opened, if there is one.
func (f *flow) begin() bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.active.count >= f.maxActive || f.opening.count >= f.maxOpening {
		return false
	}
	f.active.rise()
	f.opening.rise()
	return true
}

// opened is called when an opening is over, however it went.
func (f *flow) opened() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.opening.fall()
}

// end gives the place of a connection back.
func (f *flow) end() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.active.fall()
}

// whenIdle returns channels that are closed when no connection is left, and when none is being opened.
func (f *flow) whenIdle() (active, opening <-chan struct{}) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.active.idle, f.opening.idle
}

func (f *flow) activeNow() int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return f.active.count
}
