package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Limits of the service over TCP.
const (
	maxConns   = 128              // further clients wait to be accepted
	maxQuery   = 4096             // bytes of a message; one question has at most some hundred
	idleTime   = 10 * time.Second // for a whole message to come, and for a response to be taken
	retryAfter = 50 * time.Millisecond
)

// Options of a Server.
type Options struct {
	// Handler answers a question. It is called from many goroutines.
	Handler func(Question) Answer
	// Answered, if there is one, hears the code of each response.
	Answered func(Code)
	// Idle is how long a TCP client may take for a message, and do nothing; 0: 10 s.
	Idle time.Duration
}

// Server answers queries over UDP and TCP.
type Server struct {
	options Options
	packets *net.UDPConn
	streams *net.TCPListener
	slots   chan struct{} // one value for each connection
	closed  chan struct{}
	close   sync.Once
	group   sync.WaitGroup

	mutex sync.Mutex
	conns map[*net.TCPConn]struct{}
}

// Listen binds both sockets to an address such as 127.0.0.1:53. Nothing is answered before Serve.
func Listen(address string, options Options) (*Server, error) {
	if options.Idle == 0 {
		options.Idle = idleTime
	}
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	packets, err := net.ListenPacket("udp", streams.Addr().String())
	if err != nil {
		_ = streams.Close()
		return nil, err
	}
	return &Server{
		options: options,
		packets: packets.(*net.UDPConn),
		streams: streams.(*net.TCPListener),
		slots:   make(chan struct{}, maxConns),
		closed:  make(chan struct{}),
		conns:   map[*net.TCPConn]struct{}{},
	}, nil
}

// Addr is the address of both sockets.
func (s *Server) Addr() net.Addr { return s.streams.Addr() }

// Serve answers until Close, then returns nil.
func (s *Server) Serve() error {
	failure := make(chan error, 2)
	s.group.Go(func() { failure <- s.servePackets() })
	s.group.Go(func() { failure <- s.serveStreams() })
	err := <-failure
	_ = s.Close()
	s.group.Wait()
	return errors.Join(err, <-failure)
}

// Close ends Serve and all connections. Clients that were being answered are cut off.
func (s *Server) Close() error {
	s.close.Do(func() {
		close(s.closed)
		_ = s.packets.Close()
		_ = s.streams.Close()
		s.mutex.Lock()
		defer s.mutex.Unlock()
		for conn := range s.conns {
			_ = conn.Close()
		}
	})
	return nil
}

func (s *Server) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// wait sleeps a little, unless the server is closed.
func (s *Server) wait() {
	select {
	case <-s.closed:
	case <-time.After(retryAfter):
	}
}

// servePackets answers one after the other: an answer takes microseconds, and so nothing piles up here.
func (s *Server) servePackets() error {
	buffer := make([]byte, maxQuery+1)
	for {
		size, client, err := s.packets.ReadFromUDPAddrPort(buffer)
		if s.isClosed() {
			return nil
		}
		if err != nil {
			s.wait() // out of memory, say
			continue
		}
		if response := s.answer(buffer[:size], true); response != nil {
			// A client that is gone needs no answer, and the others aren't to suffer.
			_, _ = s.packets.WriteToUDPAddrPort(response, client)
		}
	}
}

func (s *Server) serveStreams() error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.closed:
			return nil
		}
		conn, err := s.streams.AcceptTCP()
		if err != nil {
			<-s.slots
			if s.isClosed() {
				return nil
			}
			s.wait() // out of descriptors, say
			continue
		}
		s.group.Go(func() {
			defer func() { <-s.slots }()
			s.serveConn(conn)
		})
	}
}

func (s *Server) serveConn(conn *net.TCPConn) {
	defer conn.Close()
	if !s.add(conn) {
		return
	}
	defer s.remove(conn)
	buffer := make([]byte, maxQuery)
	for {
		if conn.SetDeadline(time.Now().Add(s.options.Idle)) != nil {
			return
		}
		message, err := readMessage(conn, buffer)
		if err != nil {
			return
		}
		response := s.answer(message, false)
		if response == nil {
			return
		}
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(response)), uint16(len(response)))
		if _, err := conn.Write(append(framed, response...)); err != nil {
			return
		}
	}
}

var errLong = errors.New("a message that is too long")

// readMessage reads a message and the two bytes of length before it.
func readMessage(from io.Reader, buffer []byte) ([]byte, error) {
	if _, err := io.ReadFull(from, buffer[:2]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(buffer))
	if size > len(buffer) {
		return nil, errLong
	}
	_, err := io.ReadFull(from, buffer[:size])
	return buffer[:size], err
}

func (s *Server) add(conn *net.TCPConn) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.isClosed() {
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *Server) remove(conn *net.TCPConn) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.conns, conn)
}

// answer returns the response to a message, or nothing where it's none that is answered.
func (s *Server) answer(message []byte, isPacket bool) []byte {
	q, err := parseQuery(message)
	if errors.Is(err, errNoQuery) {
		return nil
	}
	var answer Answer
	switch {
	case err != nil || isPacket && len(message) > maxQuery:
		answer.Code = FormErr
	case q.Opcode != 0:
		answer.Code = NotImp
	case q.extended && q.version != 0:
		answer.Code = BadVers
	default:
		answer = s.options.Handler(q.Question)
	}
	limit := 1<<16 - 1
	if isPacket {
		limit = q.udpLimit()
	}
	response, err := q.response(answer, limit)
	if err != nil {
		answer = Answer{Code: ServFail}
		if response, err = q.response(answer, limit); err != nil {
			return nil
		}
	}
	if s.options.Answered != nil {
		s.options.Answered(answer.Code)
	}
	return response
}
