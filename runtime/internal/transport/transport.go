// Package transport opens and accepts streams at addresses that are URLs:
//
//	vsock://CID:PORT   CID is a number, or "any" to listen at
//	hybrid://PATH:PORT a vsock behind a unix socket, as vhost-device-vsock and Firecracker have it: streams to
//	                   the guest begin with "CONNECT PORT", the guest's own come to the socket PATH_PORT
//	unix://PATH        an absolute path
//	tcp://HOST:PORT    an IP address or a name; nothing or * to listen at all
//
// Everything that is opened or accepted is a Conn: it can be closed for writing alone, and has a descriptor
// for package relay.
package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cagebuild.dev/runtime/internal/vsock"
)

// Conn is a stream of bytes in both directions.
type Conn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Address is a parsed URL.
type Address struct {
	Scheme string
	Host   string // tcp: name or address
	Path   string // unix, hybrid
	CID    uint32 // vsock
	Port   uint32 // vsock, hybrid, tcp
}

// hostCharacters are those of names and of addresses.
const hostCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:"

func notOfHosts(character rune) bool { return !strings.ContainsRune(hostCharacters, character) }

// Parse reads a URL. The error says what is wrong with it.
func Parse(text string) (Address, error) {
	address, err := parse(text)
	if err != nil {
		return Address{}, fmt.Errorf("address %.200q: %w", text, err)
	}
	return address, nil
}

func parse(text string) (Address, error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return Address{}, errors.New("is no URL, such as vsock://16:9001, unix:///run/cage.sock or tcp://127.0.0.1:80")
	}
	switch address := (Address{Scheme: scheme}); scheme {
	case "unix":
		address.Path = rest
		return address, checkPath(rest)
	case "hybrid":
		path, port, err := splitPort(rest, 1<<32-2)
		if err != nil {
			return Address{}, err
		}
		address.Path, address.Port = path, port
		return address, checkPath(path)
	case "vsock":
		host, port, err := splitPort(rest, 1<<32-2)
		if err != nil {
			return Address{}, err
		}
		address.Port, address.CID = port, vsock.Any
		if host != "any" {
			cid, err := strconv.ParseUint(host, 10, 32)
			if err != nil || uint32(cid) == vsock.Any {
				return Address{}, fmt.Errorf("%.50q is no CID, which is a number or \"any\"", host)
			}
			address.CID = uint32(cid)
		}
		return address, nil
	case "tcp":
		host, portText, err := net.SplitHostPort(rest)
		if err != nil || strings.ContainsFunc(host, notOfHosts) && host != "*" {
			return Address{}, errors.New("is not tcp://HOST:PORT")
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil {
			return Address{}, fmt.Errorf("%.50q is no port", portText)
		}
		if host == "*" {
			host = ""
		}
		address.Host, address.Port = host, uint32(port)
		return address, nil
	default:
		return Address{}, fmt.Errorf("%.20q is no scheme: there are vsock, hybrid, unix and tcp", scheme)
	}
}

func splitPort(text string, most uint64) (string, uint32, error) {
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return "", 0, errors.New("has no port")
	}
	port, err := strconv.ParseUint(text[at+1:], 10, 32)
	if err != nil || port > most {
		return "", 0, fmt.Errorf("%.50q is no port", text[at+1:])
	}
	return text[:at], uint32(port), nil
}

// maxUnix is how long the path of a unix socket may be (sun_path, with its NUL).
const maxUnix = 107

func checkPath(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%.200q is no absolute path", path)
	}
	if len(path) > maxUnix {
		return fmt.Errorf("the path has %d bytes, a unix socket's at most %d", len(path), maxUnix)
	}
	return nil
}

func (a Address) String() string {
	switch a.Scheme {
	case "unix":
		return "unix://" + a.Path
	case "hybrid":
		return fmt.Sprintf("hybrid://%s:%d", a.Path, a.Port)
	case "vsock":
		if a.CID == vsock.Any {
			return fmt.Sprintf("vsock://any:%d", a.Port)
		}
		return fmt.Sprintf("vsock://%d:%d", a.CID, a.Port)
	default:
		return "tcp://" + net.JoinHostPort(a.Host, strconv.FormatUint(uint64(a.Port), 10))
	}
}

// Dial opens a stream. The context bounds the opening alone.
func (a Address) Dial(ctx context.Context) (Conn, error) {
	switch a.Scheme {
	case "vsock":
		return dialVsock(ctx, a.CID, a.Port)
	case "hybrid":
		return dialHybrid(ctx, a.Path, a.Port)
	case "unix":
		return dialNet(ctx, "unix", a.Path)
	default:
		return dialNet(ctx, "tcp", net.JoinHostPort(a.Host, strconv.FormatUint(uint64(a.Port), 10)))
	}
}

func dialNet(ctx context.Context, network, address string) (Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return conn.(Conn), nil
}

// Listener accepts streams. Closing it removes its socket file, if it has one.
type Listener interface {
	Accept() (Conn, error)
	Close() error
	Addr() net.Addr
}

// Listen begins to accept streams. A socket file that is left over, with nobody behind it, is replaced.
func (a Address) Listen() (Listener, error) {
	switch a.Scheme {
	case "vsock":
		return listenVsock(a.CID, a.Port)
	case "hybrid":
		return listenUnix(fmt.Sprintf("%s_%d", a.Path, a.Port))
	case "unix":
		return listenUnix(a.Path)
	default:
		listener, err := net.Listen("tcp", net.JoinHostPort(a.Host, strconv.FormatUint(uint64(a.Port), 10)))
		if err != nil {
			return nil, err
		}
		return netListener{listener}, nil
	}
}

type netListener struct{ net.Listener }

func (l netListener) Accept() (Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn.(Conn), nil
}
