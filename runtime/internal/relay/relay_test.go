package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/transport"
)

// hang is how long nothing may take that should happen by itself.
const hang = 15 * time.Second

// kinds are the sockets on either side: what the host has in front and behind, and the guest.
var kinds = []string{"tcp-tcp", "tcp-unix", "unix-tcp", "unix-unix"}

// connected returns both ends of a connection.
func connected(t testing.TB, network string) (near, far transport.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return dialed.(transport.Conn), accepted.(transport.Conn)
}

// way is a relay between two connections, whose far ends a test holds.
type way struct {
	a, b   transport.Conn
	result chan Result
}

func newRelay(t testing.TB, options Options) *Relay {
	t.Helper()
	r, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func (r *Relay) between(t testing.TB, kind string) *way {
	t.Helper()
	left, right, _ := strings.Cut(kind, "-")
	a, nearA := connected(t, left)
	b, nearB := connected(t, right)
	w := &way{a: a, b: b, result: make(chan Result, 1)}
	for _, each := range []transport.Conn{a, b} {
		_ = each.SetDeadline(time.Now().Add(hang))
		t.Cleanup(func() { _ = each.Close() })
	}
	r.Pair(nearA, nearB, func(result Result) { w.result <- result })
	return w
}

func (w *way) end(t *testing.T) Result {
	t.Helper()
	select {
	case result := <-w.result:
		return result
	case <-time.After(hang):
		t.Fatal("the pair did not end")
		return Result{}
	}
}

func each(t *testing.T, check func(t *testing.T, r *Relay, kind string)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			leak.Check(t)
			check(t, newRelay(t, Options{}), kind)
		})
	}
}

func random(size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data)
	return data
}

func TestBytesGoBothWaysAtOnce(t *testing.T) {
	for _, size := range []int{0, 1, 64, 4096, bufferSize - 1, bufferSize, bufferSize + 1, 20<<20 + 7} {
		data := random(size)
		each(t, func(t *testing.T, r *Relay, kind string) {
			w := r.between(t, kind)
			var both sync.WaitGroup
			for _, conn := range []transport.Conn{w.a, w.b} {
				both.Go(func() {
					if _, err := conn.Write(data); err != nil {
						t.Error(err)
					}
					if err := conn.CloseWrite(); err != nil {
						t.Error(err)
					}
				})
				both.Go(func() {
					got, err := io.ReadAll(conn)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("got %d bytes (%v), sent %d", len(got), err, size)
					}
				})
			}
			both.Wait()
			if got := w.end(t); got != (Result{AToB: int64(size), BToA: int64(size)}) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestTheEndOfOneDirectionLeavesTheOther(t *testing.T) {
	each(t, func(t *testing.T, r *Relay, kind string) {
		w := r.between(t, kind)
		if _, err := w.a.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		_ = w.a.CloseWrite()
		if got, err := io.ReadAll(w.b); string(got) != "question" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		for range 3 {
			if _, err := w.b.Write([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 6)
			if _, err := io.ReadFull(w.a, got); err != nil || string(got) != "answer" {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		_ = w.b.Close()
		if got, err := io.ReadAll(w.a); len(got) > 0 || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if got := w.end(t); got != (Result{AToB: 8, BToA: 18}) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestWhatWasSentBeforeAnOrderlyCloseArrives(t *testing.T) {
	data := random(3 << 20)
	each(t, func(t *testing.T, r *Relay, kind string) {
		w := r.between(t, kind)
		go func() {
			_, _ = w.b.Write(data)
			_ = w.b.CloseWrite()
			_, _ = io.Copy(io.Discard, w.b)
			_ = w.b.Close()
		}()
		got, err := io.ReadAll(w.a)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes (%v)", len(got), err)
		}
		_ = w.a.Close()
		if got := w.end(t); got.BToA != int64(len(data)) {
			t.Errorf("got %+v", got)
		}
	})
}

// A peer that breaks off must not look like one that has finished.
func TestAResetIsPassedOn(t *testing.T) {
	for _, kind := range []string{"tcp-tcp", "tcp-unix"} {
		t.Run(kind, func(t *testing.T) {
			leak.Check(t)
			w := newRelay(t, Options{}).between(t, kind)
			_, _ = w.a.Write([]byte("part of the who"))
			got := make([]byte, 15)
			if _, err := io.ReadFull(w.b, got); err != nil {
				t.Fatal(err)
			}
			_ = w.a.(*net.TCPConn).SetLinger(0)
			_ = w.a.Close()
			if got := w.end(t); got.Err == nil {
				t.Error("the pair ended in order")
			}
			_, err := w.b.Read(got)
			if kind == "tcp-tcp" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, expected a reset", err)
			}
			if _, err := w.b.Write([]byte("x")); err == nil && kind == "tcp-unix" {
				t.Error("the other side still takes data")
			}
		})
	}
}

// Two relays in a row, as host and guest are: the reset has to get through the socket between them, which has none.
func TestAResetGetsThroughTwoRelays(t *testing.T) {
	for _, broken := range []string{"a", "b"} {
		t.Run(broken, func(t *testing.T) {
			leak.Check(t)
			host, guest := newRelay(t, Options{}), newRelay(t, Options{})
			a, nearA := connected(t, "tcp")
			between, other := connected(t, "unix")
			b, nearB := connected(t, "tcp")
			defer a.Close()
			defer b.Close()
			host.Pair(nearA, between, nil)
			guest.Pair(other, nearB, nil)
			breaks, learns := a, b
			if broken == "b" {
				breaks, learns = b, a
			}
			_ = learns.SetDeadline(time.Now().Add(hang))
			_, _ = breaks.Write([]byte("part"))
			got := make([]byte, 4)
			if _, err := io.ReadFull(learns, got); err != nil {
				t.Fatal(err)
			}
			_ = breaks.(*net.TCPConn).SetLinger(0)
			_ = breaks.Close()
			if _, err := learns.Read(got); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, expected a reset", err)
			}
		})
	}
}

func TestAnOrderlyEndGetsThroughTwoRelays(t *testing.T) {
	leak.Check(t)
	host, guest := newRelay(t, Options{}), newRelay(t, Options{})
	data := random(5 << 20)
	for range 50 {
		a, nearA := connected(t, "tcp")
		between, other := connected(t, "unix")
		b, nearB := connected(t, "tcp")
		_ = a.SetDeadline(time.Now().Add(hang))
		host.Pair(nearA, between, nil)
		guest.Pair(other, nearB, nil)
		go func() {
			// As servers do that close when they have answered.
			_, _ = b.Write(data)
			_ = b.Close()
		}()
		got, err := io.ReadAll(a)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		_ = a.Close()
	}
}

func TestASlowReceiverStopsTheSender(t *testing.T) {
	each(t, func(t *testing.T, r *Relay, kind string) {
		w := r.between(t, kind)
		const total = 64 << 20
		sum := make(chan [32]byte, 1)
		var sent int64
		var mutex sync.Mutex
		go func() {
			hash := sha256.New()
			block := random(1 << 20)
			for at := 0; at < total; at += len(block) {
				if _, err := w.a.Write(block); err != nil {
					t.Error(err)
					break
				}
				hash.Write(block)
				mutex.Lock()
				sent += int64(len(block))
				mutex.Unlock()
			}
			_ = w.a.CloseWrite()
			sum <- [32]byte(hash.Sum(nil))
		}()
		// Until nothing moves any more: all buffers on the way are full.
		before := int64(-1)
		for {
			time.Sleep(200 * time.Millisecond)
			mutex.Lock()
			now := sent
			mutex.Unlock()
			if now == before {
				break
			}
			before = now
		}
		if before == total {
			t.Fatalf("all %d bytes left without a receiver", total)
		}
		hash := sha256.New()
		if count, err := io.Copy(hash, w.b); count != total || err != nil {
			t.Fatalf("got %d bytes, %v", count, err)
		}
		if got := [32]byte(hash.Sum(nil)); got != <-sum {
			t.Error("other bytes arrived")
		}
	})
}

// A server may answer and close before it has read the whole question: its answer has to arrive all the same.
func TestAnAnswerBeforeTheEndOfTheQuestionArrives(t *testing.T) {
	for range 50 {
		each(t, func(t *testing.T, r *Relay, kind string) {
			w := r.between(t, kind)
			go func() {
				_, _ = w.a.Write(random(64 << 20)) // fails when the server closes
				_ = w.a.CloseWrite()
			}()
			got := make([]byte, 1<<20)
			if _, err := io.ReadFull(w.b, got); err != nil {
				t.Fatal(err)
			}
			_, _ = w.b.Write([]byte("too large"))
			_ = w.b.CloseWrite()
			answer := make([]byte, 9)
			if _, err := io.ReadFull(w.a, answer); err != nil || string(answer) != "too large" {
				t.Fatalf("got %q, %v", answer, err)
			}
			_ = w.b.Close()
			if got := w.end(t); got.Err == nil {
				t.Error("the pair ended in order")
			}
		})
	}
}

// One stream that stands still must not hold up another, even on the same thread.
func TestAStalledPairHoldsUpNoOther(t *testing.T) {
	leak.Check(t)
	r := newRelay(t, Options{Loops: 1})
	stalled := r.between(t, "tcp-unix")
	_ = stalled.a.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := stalled.a.Write(random(64 << 20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v, expected a stalled write", err)
	}
	w := r.between(t, "tcp-unix")
	for range 100 {
		if _, err := w.a.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(w.b, got); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManyConnectionsAtOnce(t *testing.T) {
	leak.Check(t)
	r := newRelay(t, Options{})
	var all sync.WaitGroup
	for index := range 1000 {
		kind := kinds[index%len(kinds)]
		w := r.between(t, kind)
		all.Go(func() {
			message := fmt.Appendf(nil, "message %d", index)
			_, _ = w.a.Write(message)
			_ = w.a.CloseWrite()
			got, err := io.ReadAll(w.b)
			if !bytes.Equal(got, message) || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			_ = w.b.Close()
			_, _ = io.ReadAll(w.a)
			_ = w.a.Close()
			if got := w.end(t); got.Err != nil {
				t.Error(got.Err)
			}
		})
	}
	all.Wait()
	if err := r.Drain(t.Context()); err != nil || r.Open() != 0 {
		t.Errorf("%d are left, %v", r.Open(), err)
	}
}

func TestDrainWaitsAndThenResets(t *testing.T) {
	leak.Check(t)
	r := newRelay(t, Options{})
	w := r.between(t, "tcp-tcp")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if got := w.end(t); !errors.Is(got.Err, context.DeadlineExceeded) {
		t.Errorf("got %+v", got)
	}
	if _, err := w.a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, expected a reset", err)
	}
}

func TestCloseResetsWhatIsLeftAndRefusesMore(t *testing.T) {
	leak.Check(t)
	r, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := r.between(t, "tcp-tcp")
	r.Close()
	if got := w.end(t); !errors.Is(got.Err, ErrClosed) {
		t.Errorf("got %+v", got)
	}
	late := r.between(t, "tcp-tcp")
	if got := late.end(t); !errors.Is(got.Err, ErrClosed) {
		t.Errorf("got %+v", got)
	}
	if _, err := late.a.Read(make([]byte, 1)); err == nil {
		t.Error("a late pair is open")
	}
}

func TestAConnectionThatIsClosedAlreadyIsAnError(t *testing.T) {
	leak.Check(t)
	r := newRelay(t, Options{})
	far, near := connected(t, "tcp")
	other, nearOther := connected(t, "tcp")
	defer far.Close()
	defer other.Close()
	_ = near.Close()
	ended := make(chan Result, 1)
	r.Pair(near, nearOther, func(result Result) { ended <- result })
	if got := <-ended; !errors.Is(got.Err, net.ErrClosed) {
		t.Errorf("got %+v", got)
	}
	_ = other.SetDeadline(time.Now().Add(hang))
	if _, err := other.Read(make([]byte, 1)); err == nil {
		t.Error("the other connection is open")
	}
}

// A stream may begin large and go on small, or the other way round.
func TestSizesThatChange(t *testing.T) {
	each(t, func(t *testing.T, r *Relay, kind string) {
		w := r.between(t, kind)
		sizes := []int{1, bufferSize, 5 << 20, 3, 64, bufferSize * 2, 1, pipeSize, pipeSize + 1, 2}
		for _, size := range sizes {
			data := random(size)
			go func() { _, _ = w.a.Write(data) }()
			got := make([]byte, size)
			if _, err := io.ReadFull(w.b, got); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
	})
}
