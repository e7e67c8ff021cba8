package serve

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/host/eif"
	"cagebuild.dev/runtime/internal/host/enclave"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/host/ingress"
	"cagebuild.dev/runtime/internal/host/journal"
	"cagebuild.dev/runtime/internal/leak"
	"cagebuild.dev/runtime/internal/settings"
	"cagebuild.dev/runtime/internal/transport"
	"cagebuild.dev/runtime/internal/wire"
)

// patience is after how long a test hangs.
const patience = 20 * time.Second

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// local is a driver whose enclaves are guests in this process.
type local struct {
	folder  string
	refuses int // so many starts fail
	deaf    bool
	sticks  bool

	mutex  sync.Mutex
	living []*living
}

type living struct {
	guest   *hosttest.Guest
	sticks  bool // can't be ended
	stopped bool // was asked to end by itself
	killed  bool
	done    chan struct{}
	once    sync.Once
}

func (*local) Check(context.Context) error { return nil }
func (*local) Clean(context.Context) error { return nil }

func (l *local) place() enclave.Place {
	return enclave.Place{
		CID:    16,
		Guest:  transport.Address{Scheme: "unix", Path: filepath.Join(l.folder, "guest.sock")},
		Parent: transport.Address{Scheme: "unix", Path: filepath.Join(l.folder, "parent.sock")},
	}
}

func (l *local) all() []*living {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return append([]*living(nil), l.living...)
}

func (l *local) start(t testing.TB) (*living, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.refuses > 0 {
		l.refuses--
		return nil, errors.New("no memory")
	}
	one := &living{done: make(chan struct{}), sticks: l.sticks}
	one.guest = &hosttest.Guest{
		Address: l.place().Guest, Ingress: hosttest.Echo,
		Control: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/v1/health":
				_ = json.NewEncoder(w).Encode(map[string]string{"status": "up"})
			case "/v1/logs":
				_, _ = io.WriteString(w, "app: a line\n")
			case "/v1/stop":
				w.WriteHeader(http.StatusAccepted)
				one.stopped = true
				if !one.sticks {
					go one.end()
				}
			}
		}),
	}
	if l.deaf {
		one.guest.Control = nil
	}
	one.guest.Start(t)
	l.living = append(l.living, one)
	return one, nil
}

func (l *living) end() { l.once.Do(func() { l.guest.Stop(); close(l.done) }) }

func (l *living) Done() <-chan struct{} { return l.done }
func (l *living) Err() error            { return errors.New("it ended") }
func (l *living) Stop(context.Context) error {
	if l.sticks {
		return errors.New("socket error")
	}
	select {
	case <-l.done:
	default:
		l.killed = true
		l.end()
	}
	return nil
}

type driver struct {
	*local
	t testing.TB
}

func (d driver) Start(_ context.Context, announce func(enclave.Place) error) (enclave.Enclave, error) {
	if err := announce(d.place()); err != nil {
		return nil, err
	}
	return d.start(d.t)
}

type rig struct {
	said            *hosttest.Said
	clients         transport.Address
	admin           transport.Address
	orderly, atOnce context.CancelFunc
	ended           chan error
}

// run starts Run with a driver, or Fixed without.
func run(t *testing.T, l *local, change func(*RunOptions)) *rig {
	t.Helper()
	leak.Check(t)
	folder := t.TempDir()
	l.folder = t.TempDir()
	r := &rig{
		said:    &hosttest.Said{},
		clients: transport.Address{Scheme: "unix", Path: filepath.Join(folder, "app.sock")},
		admin:   transport.Address{Scheme: "unix", Path: filepath.Join(folder, "admin.sock")},
		ended:   make(chan error, 1),
	}
	var ends Ends
	ends.Orderly, r.orderly = context.WithCancel(context.Background())
	ends.AtOnce, r.atOnce = context.WithCancel(context.Background())
	options := Options{
		Cage: &eif.Cage{
			Name: "pay", Ingress: []settings.Ingress{{Port: 8080}}, Egress: []settings.Egress{{Host: "a.example.com", Port: 1}},
		},
		Publications:   []ingress.Publication{{Address: r.clients, Port: 8080}},
		Admin:          &r.admin,
		MaxConnections: 100, MaxEgressConnections: 100, EgressTimeout: patience, DrainTimeout: patience,
		Journal: journal.New(r.said),
	}
	how := RunOptions{Driver: driver{l, t}, BootTimeout: patience, FollowLogs: true}
	if change != nil {
		change(&how)
	}
	go func() { r.ended <- Run(ends, options, how) }()
	t.Cleanup(func() {
		r.orderly()
		r.atOnce()
		select {
		case <-r.ended:
		case <-time.After(patience):
			t.Error("it does not end")
		}
	})
	return r
}

func (r *rig) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(patience):
		t.Fatal("it does not end")
		return nil
	}
}

// echoes reports whether a client is served.
func (r *rig) echoes() bool {
	conn, err := r.clients.Dial(context.Background())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = conn.Write([]byte("x"))
	_ = conn.CloseWrite()
	got, _ := io.ReadAll(conn)
	return string(got) == "x"
}

func (r *rig) code(path string) int {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return r.admin.Dial(ctx)
	}}
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://admin" + path)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func TestAnEnclaveThatEndsIsStartedAgain(t *testing.T) {
	l := &local{refuses: 1}
	r := run(t, l, nil)
	eventually(t, "a client is served", r.echoes)
	eventually(t, "it is healthy", func() bool { return r.code("/health") == 200 })
	eventually(t, "its log is shown", func() bool { return strings.Contains(r.said.String(), "log: app: a line\n") })
	if !strings.Contains(r.said.String(), "host: the enclave: start: no memory; next start in 1s\n") {
		t.Errorf("said %s", r.said)
	}
	l.all()[0].end()
	eventually(t, "there is a second one", func() bool { return len(l.all()) == 2 })
	eventually(t, "a client is served again", r.echoes)
	r.orderly()
	if err := r.end(t); err != nil {
		t.Error(err)
	}
	if last := l.all()[1]; !last.stopped || last.killed {
		t.Errorf("stopped %v, killed %v", last.stopped, last.killed)
	}
}

func TestTheEndWaitsForClientsAndASecondOneDoesNot(t *testing.T) {
	l := &local{}
	r := run(t, l, nil)
	eventually(t, "a client is served", r.echoes)
	conn, err := r.clients.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte("x"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// Streams of the guest go on until the enclave has ended: an answer to a client may need them.
	r.orderly()
	eventually(t, "it drains", func() bool { return strings.Contains(r.said.String(), "1 connections of clients have") })
	if code := r.code("/health"); code != 503 {
		t.Errorf("health is %d", code)
	}
	stream, err := l.place().Parent.Dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	_ = wire.WriteHello(stream, wire.Hello{Stream: wire.Time})
	if reply, err := wire.ReadReply(stream); err != nil || reply.UnixNS == 0 {
		t.Errorf("got %+v, %v", reply, err)
	}
	select {
	case err := <-r.ended:
		t.Errorf("ended with a client: %v", err)
		r.ended <- err
	case <-time.After(50 * time.Millisecond):
	}
	r.atOnce()
	if err := r.end(t); err != nil {
		t.Error(err)
	}
	if one := l.all()[0]; one.stopped || !one.killed {
		t.Errorf("stopped %v, killed %v", one.stopped, one.killed)
	}
	if got, err := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAGuestThatNeverAnswersIsEnded(t *testing.T) {
	l := &local{deaf: true}
	r := run(t, l, func(o *RunOptions) { o.BootTimeout, o.Once = 300*time.Millisecond, true })
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "no answer of the guest") {
		t.Errorf("got %v", err)
	}
	if one := l.all()[0]; !one.killed {
		t.Error("it is still there")
	}
}

func TestAnEnclaveThatStaysIsAFailure(t *testing.T) {
	l := &local{sticks: true}
	r := run(t, l, nil)
	eventually(t, "a client is served", r.echoes)
	r.orderly()
	eventually(t, "it is asked to end", func() bool { return strings.Contains(r.said.String(), "host: ending") })
	r.atOnce()
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "could not be ended: socket error") {
		t.Errorf("got %v", err)
	}
}

func TestOnceIsOnce(t *testing.T) {
	l := &local{}
	r := run(t, l, func(o *RunOptions) { o.Once = true })
	eventually(t, "a client is served", r.echoes)
	l.all()[0].end()
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "it ended") || len(l.all()) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestStartsWaitLongerTheMoreOftenTheyFail(t *testing.T) {
	var delay time.Duration
	var got []time.Duration
	for _, well := range []time.Duration{0, 0, time.Second, 0, 0, 0, 0, 0, time.Minute, 0} {
		delay = nextDelay(delay, well)
		got = append(got, delay/time.Second)
	}
	want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 1, 2}
	for index := range want {
		if got[index] != want[index] {
			t.Fatalf("got %v, expected %v", got, want)
		}
	}
}
