package relay

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// side is one connection of a pair. readable and writable are what is known since the last event: epoll tells of
// a change only once.
type side struct {
	pair       *pair
	descriptor int
	isTCP      bool
	readable   bool
	writable   bool
	closing    bool // the end of what can be read is there, or will be soon
	hungUp     bool // both directions are closed, or the other side is gone
}

// isGone reports whether a side whose end has been read takes nothing either, though it was never told to expect
// no more: its program is gone, or has given up. A vsock has no other sign of it than that a write, of no bytes
// here, fails.
func (s *side) isGone() bool {
	if s.hungUp {
		return true
	}
	_, err := send(s.descriptor, nil)
	return err != nil && err != syscall.EAGAIN
}

// direction is the way from one side to the other.
type direction struct {
	from, to *side
	kept     []byte // read, not yet written
	pipe     *pipe  // in use while large amounts move
	large    bool   // the last read filled the buffer
	noSplice bool   // these sockets can't be spliced
	ending   bool   // the end has been read
	ended    bool   // and passed on; or nothing more can be written
	broken   error  // why nothing more can be written
	moved    int64
}

type pair struct {
	ways     [2]direction // a to b, b to a
	done     func(Result)
	finished bool
	queued   bool // in the loop's list of pairs that have more to do
}

func newPair(a, b *side, done func(Result)) *pair {
	p := &pair{done: done}
	a.pair, b.pair = p, p
	p.ways = [2]direction{{from: a, to: b}, {from: b, to: a}}
	return p
}

func (p *pair) sides() [2]*side { return [2]*side{p.ways[0].from, p.ways[0].to} }

func (p *pair) result(err error) Result {
	return Result{AToB: p.ways[0].moved, BToA: p.ways[1].moved, Err: err}
}

// reset closes both connections so that the other ends learn that the streams are not whole.
func (p *pair) reset() {
	for _, each := range p.sides() {
		if each.isTCP {
			linger := syscall.Linger{Onoff: 1}
			_ = syscall.SetsockoptLinger(each.descriptor, syscall.SOL_SOCKET, syscall.SO_LINGER, &linger)
		}
		_ = syscall.Close(each.descriptor)
	}
}

func (p *pair) close() {
	for _, each := range p.sides() {
		_ = syscall.Close(each.descriptor)
	}
}

// burst is how much of one direction is moved before others have their turn.
const burst = 4 << 20

// errGone is the end of a connection whose other side never said that it had sent everything.
var errGone = errors.New("the other side is gone")

// step moves what can be moved now. It reports whether there is more to do at once, and whether the pair has
// ended, with the error if it didn't end in order.
func (p *pair) step(l *loop) (more, over bool, err error) {
	for index := range p.ways {
		again, err := p.ways[index].step(l)
		if err != nil {
			return false, true, err
		}
		more = more || again
	}
	there, back := &p.ways[0], &p.ways[1]
	for index := range p.ways {
		// Nothing is left to be read from it, and nothing more can be written to it.
		if way := &p.ways[index]; !way.ended && way.to.hungUp && way.back().ended {
			return false, true, errGone
		}
	}
	if there.ended && back.ended {
		return false, true, errors.Join(there.broken, back.broken)
	}
	return more, false, nil
}

// step moves what this direction can move now. An error ends the pair.
func (d *direction) step(l *loop) (more bool, err error) {
	if d.ended {
		return false, nil
	}
	for moved := 0; moved < burst; {
		if !d.to.writable && d.hasKept() {
			return false, nil
		}
		if d.hasKept() {
			count, err := d.flush()
			moved += count
			if err != nil {
				return false, d.cannotWrite(l, err)
			}
			continue
		}
		l.release(d)
		if d.ending {
			d.ended = true
			if err := syscall.Shutdown(d.to.descriptor, syscall.SHUT_WR); err != nil {
				d.broken = os.NewSyscallError("shutdown", err)
			}
			return false, nil
		}
		if !d.from.readable || !d.to.writable {
			return false, nil
		}
		count, err := d.take(l)
		moved += count
		switch {
		case errors.Is(err, io.EOF):
			d.ending = true
			if !d.from.isTCP && !d.back().ended && d.from.isGone() {
				return false, errGone
			}
		case errors.Is(err, syscall.EPIPE):
			return false, d.cannotWrite(l, err)
		case err != nil:
			return false, err
		}
	}
	return true, nil
}

func (d *direction) back() *direction {
	p := d.from.pair
	if d == &p.ways[0] {
		return &p.ways[1]
	}
	return &p.ways[0]
}

func (d *direction) hasKept() bool { return len(d.kept) > 0 || d.pipe != nil && d.pipe.holds > 0 }

// cannotWrite ends a direction whose receiver takes nothing more. What that one has sent is still passed on; if it
// is gone, reading says so in the end.
func (d *direction) cannotWrite(l *loop, err error) error {
	d.kept = nil
	l.discard(d)
	d.ended, d.broken = true, err
	if d.back().ended {
		return err
	}
	return nil
}

// take reads once from the source and writes at once what it got: through the loop's buffer, or through a pipe
// while the source has much. io.EOF is the end of the source, syscall.EPIPE that of the destination.
func (d *direction) take(l *loop) (int, error) {
	if d.large && !d.noSplice && l.acquire(d) {
		count, err := splice(d.from.descriptor, d.pipe.write, pipeSize)
		switch {
		case err == syscall.EINVAL: // not these sockets; nothing was read
			d.noSplice = true
			return 0, nil
		case err == syscall.EAGAIN:
			d.from.readable, d.large = false, false
			return 0, nil
		case err != nil:
			return 0, os.NewSyscallError("splice", err)
		case count == 0:
			return 0, io.EOF
		}
		d.pipe.holds = count
		l.bulk = true
		return 0, nil
	}
	count, err := read(d.from.descriptor, l.buffer)
	switch {
	case err == syscall.EAGAIN:
		d.from.readable = false
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case count == 0:
		return 0, io.EOF
	}
	d.large = count == len(l.buffer)
	// A read that leaves room has emptied the socket; what comes later is a new event. Only an end may have
	// been told of already.
	d.from.readable = d.large || d.from.closing
	written, err := d.write(l.buffer[:count])
	if err != nil {
		return 0, syscall.EPIPE
	}
	if written < count {
		d.kept = append([]byte(nil), l.buffer[written:count]...)
	}
	return written, nil
}

// flush writes what was read before, from memory or the pipe.
func (d *direction) flush() (int, error) {
	if len(d.kept) > 0 {
		count, err := d.write(d.kept)
		if d.kept = d.kept[count:]; len(d.kept) == 0 {
			d.kept = nil
		}
		return count, err
	}
	count, err := splice(d.pipe.read, d.to.descriptor, d.pipe.holds)
	switch {
	case err == syscall.EAGAIN:
		d.to.writable = false
		return 0, nil
	case err == syscall.EINVAL:
		return d.unpipe()
	case err != nil:
		return 0, os.NewSyscallError("splice", err)
	}
	d.pipe.holds -= count
	d.moved += int64(count)
	return count, nil
}

// unpipe takes out of the pipe what can't be spliced to the destination.
func (d *direction) unpipe() (int, error) {
	d.noSplice = true
	held := make([]byte, d.pipe.holds)
	for at := 0; at < len(held); {
		count, err := read(d.pipe.read, held[at:])
		if err != nil || count == 0 {
			return 0, os.NewSyscallError("read", errors.Join(err, io.ErrUnexpectedEOF))
		}
		at += count
	}
	d.pipe.holds, d.kept = 0, held
	return 0, nil
}

func (d *direction) write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		count, err := send(d.to.descriptor, data[written:])
		if err == syscall.EAGAIN {
			d.to.writable = false
			break
		}
		if err != nil {
			return written, os.NewSyscallError("write", err)
		}
		written += count
		d.moved += int64(count)
	}
	return written, nil
}
