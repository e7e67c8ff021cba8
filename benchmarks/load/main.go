// Command load is both ends of the connections that benchmarks/data_plane.py measures: an app behind a proxy and its
// clients. It is written in Go so that it isn't what limits the figures.
//
//	load serve ADDRESS...                     the app, until it is killed; writes "ready" once it listens
//	load up ADDRESS STREAMS SECONDS           bytes a second from clients to the app
//	load down ADDRESS STREAMS SECONDS         bytes a second from the app to clients
//	load tls-up, tls-down …                   the same in TLS, which clients and the app speak to each other
//	load latency ADDRESS COUNT                median round trip of 64 bytes, in microseconds
//	load connect ADDRESS WORKERS SECONDS      new connections a second, each with one round trip
//	load hold ADDRESS COUNT                   opens connections, writes "ready", waits for standard input's
//	                                          end, then uses each of them once more
//
// Every command but serve writes one number to standard output; any failed connection ends it with exit status 1.
//
// The first byte of a connection says what the app does with it; see the constants.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	echo  = 'e' // send back what comes
	drain = 'u' // read to the end, answer with the number of bytes
	flood = 'd' // send for as many milliseconds as the next line says
	other = 't' // begin with TLS; the first byte in it is one of the others
)

const (
	block   = 256 << 10
	message = 64
	warmUp  = 500 // round trips before those that count
	openers = 64  // connections that are being opened at once by hold
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	if len(words) < 2 {
		return errors.New("a command and an address are needed")
	}
	command, address := words[0], words[1]
	if command == "serve" {
		return serve(words[1:])
	}
	var numbers []int
	for _, word := range words[2:] {
		number, err := strconv.Atoi(word)
		if err != nil || number < 1 {
			return fmt.Errorf("%q is no number above 0", word)
		}
		numbers = append(numbers, number)
	}
	var (
		result float64
		err    error
	)
	switch {
	case command == "up" && len(numbers) == 2:
		result, err = together(numbers[0], func() (int64, error) { return upload(open, address, seconds(numbers[1])) })
	case command == "down" && len(numbers) == 2:
		result, err = together(numbers[0], func() (int64, error) { return download(open, address, seconds(numbers[1])) })
	case command == "tls-up" && len(numbers) == 2:
		result, err = together(numbers[0], func() (int64, error) { return upload(openTLS, address, seconds(numbers[1])) })
	case command == "tls-down" && len(numbers) == 2:
		result, err = together(numbers[0], func() (int64, error) { return download(openTLS, address, seconds(numbers[1])) })
	case command == "latency" && len(numbers) == 1:
		result, err = latency(address, numbers[0])
	case command == "connect" && len(numbers) == 2:
		end := time.Now().Add(seconds(numbers[1]))
		result, err = together(numbers[0], func() (int64, error) { return connect(address, end) })
	case command == "hold" && len(numbers) == 1:
		result, err = hold(address, numbers[0])
	default:
		return fmt.Errorf("no such command: %q", words)
	}
	if err == nil {
		fmt.Println(result)
	}
	return err
}

func seconds(number int) time.Duration { return time.Duration(number) * time.Second }

// together runs one function several times at once, and returns the sum of their numbers by the second.
func together(count int, work func() (int64, error)) (float64, error) {
	var (
		group   sync.WaitGroup
		total   atomic.Int64
		failure = make(chan error, count)
	)
	start := time.Now()
	for range count {
		group.Go(func() {
			done, err := work()
			total.Add(done)
			if err != nil {
				failure <- err
			}
		})
	}
	group.Wait()
	elapsed := time.Since(start)
	select {
	case err := <-failure:
		return 0, err
	default:
		return float64(total.Load()) / elapsed.Seconds(), nil
	}
}

// stream is a connection whose directions end one by one: TCP, or TLS in it.
type stream interface {
	net.Conn
	CloseWrite() error
}

func open(address string, kind byte) (stream, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func openTLS(address string, kind byte) (stream, error) {
	conn, err := open(address, other)
	if err != nil {
		return nil, err
	}
	// What is measured is the work of both ends, not whom they trust.
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	if _, err := secured.Write([]byte{kind}); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

type opener func(address string, kind byte) (stream, error)

func upload(open opener, address string, duration time.Duration) (int64, error) {
	conn, err := open(address, drain)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	sent, err := send(conn, time.Now().Add(duration))
	if err != nil {
		return 0, err
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	var received int64
	if _, err := fmt.Fscan(conn, &received); err != nil {
		return 0, fmt.Errorf("the app's answer: %w", err)
	}
	if sent != received {
		return 0, fmt.Errorf("the app received %d bytes of %d", received, sent)
	}
	return sent, nil
}

func send(conn io.Writer, end time.Time) (int64, error) {
	var sent int64
	for data := make([]byte, block); time.Now().Before(end); {
		count, err := conn.Write(data)
		sent += int64(count)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

func download(open opener, address string, duration time.Duration) (int64, error) {
	conn, err := open(address, flood)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "%d\n", duration.Milliseconds()); err != nil {
		return 0, err
	}
	return count(conn)
}

// count reads to the end.
func count(conn io.Reader) (int64, error) {
	var received int64
	for data := make([]byte, block); ; {
		read, err := conn.Read(data)
		received += int64(read)
		if errors.Is(err, io.EOF) {
			return received, nil
		}
		if err != nil {
			return received, err
		}
	}
}

func roundTrip(conn io.ReadWriter, data []byte) error {
	if _, err := conn.Write(data); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, data)
	return err
}

func latency(address string, trips int) (float64, error) {
	conn, err := open(address, echo)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	times := make([]float64, 0, trips)
	data := make([]byte, message)
	for number := range warmUp + trips {
		start := time.Now()
		if err := roundTrip(conn, data); err != nil {
			return 0, err
		}
		if number >= warmUp {
			times = append(times, float64(time.Since(start).Nanoseconds())/1000)
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

func connect(address string, end time.Time) (int64, error) {
	var opened int64
	for data := make([]byte, message); time.Now().Before(end); opened++ {
		conn, err := open(address, echo)
		if err != nil {
			return opened, err
		}
		err = roundTrip(conn, data)
		_ = conn.Close()
		if err != nil {
			return opened, err
		}
	}
	return opened, nil
}

// hold returns how many connections it had open.
func hold(address string, wanted int) (float64, error) {
	conns := make([]stream, wanted)
	var next atomic.Int64
	if _, err := together(openers, func() (int64, error) {
		data := make([]byte, message)
		for {
			number := next.Add(1) - 1
			if number >= int64(wanted) {
				return 0, nil
			}
			conn, err := open(address, echo)
			if err != nil {
				return 0, fmt.Errorf("connection %d: %w", number, err)
			}
			if err := roundTrip(conn, data); err != nil {
				return 0, fmt.Errorf("connection %d: %w", number, err)
			}
			conns[number] = conn
		}
	}); err != nil {
		return 0, err
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return 0, err
	}
	data := make([]byte, message)
	for number, conn := range conns {
		if err := roundTrip(conn, data); err != nil {
			return 0, fmt.Errorf("connection %d, once more: %w", number, err)
		}
		_ = conn.Close()
	}
	return float64(wanted), nil
}

func serve(addresses []string) error {
	config, err := selfSigned()
	if err != nil {
		return err
	}
	failure := make(chan error)
	for _, address := range addresses {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					failure <- err
					return
				}
				go answer(conn.(*net.TCPConn), config)
			}
		}()
	}
	fmt.Println("ready")
	return <-failure
}

// answer is the app. What goes wrong here is seen by the client.
func answer(conn stream, config *tls.Config) {
	defer conn.Close()
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		return
	}
	switch kind[0] {
	case other:
		answer(tls.Server(conn, config), config)
	case echo:
		// Small: there is one for each open connection.
		for data := make([]byte, message); ; {
			read, err := conn.Read(data)
			if err != nil {
				return
			}
			if _, err := conn.Write(data[:read]); err != nil {
				return
			}
		}
	case drain:
		received, err := count(conn)
		if err == nil {
			_, _ = fmt.Fprintln(conn, received)
		}
	case flood:
		var milliseconds int64
		if _, err := fmt.Fscanln(conn, &milliseconds); err != nil {
			return
		}
		_, _ = send(conn, time.Now().Add(time.Duration(milliseconds)*time.Millisecond))
	}
}

// selfSigned is the app's certificate.
func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}, nil
}
