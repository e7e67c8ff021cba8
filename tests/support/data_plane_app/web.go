package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const dialPatience = 30 * time.Second

type handler struct {
	health   atomic.Int64 // the status of /healthz
	mutex    sync.Mutex
	releases map[string]chan struct{}
}

func newHandler() http.Handler {
	h := &handler{releases: map[string]chan struct{}{}}
	h.health.Store(http.StatusOK)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(h.health.Load()))
	})
	mux.HandleFunc("POST /healthz", h.setHealth)
	mux.HandleFunc("/request", describe)
	mux.HandleFunc("GET /bytes", sendBytes)
	mux.HandleFunc("GET /drip", h.drip)
	mux.HandleFunc("POST /release", func(_ http.ResponseWriter, r *http.Request) { close(h.release(r)) })
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("GET /websocket", webSocket)
	mux.HandleFunc("GET /lookup", lookup)
	mux.HandleFunc("POST /dial", dial)
	mux.HandleFunc("POST /local", local)
	mux.HandleFunc("GET /environment", environment)
	return mux
}

// environment answers with the environment and the files below /run/secrets, in base64.
func environment(w http.ResponseWriter, _ *http.Request) {
	files := map[string]string{}
	entries, _ := os.ReadDir("/run/secrets")
	for _, entry := range entries {
		content, err := os.ReadFile("/run/secrets/" + entry.Name())
		if err != nil {
			files[entry.Name()] = err.Error()
			continue
		}
		files[entry.Name()] = base64.StdEncoding.EncodeToString(content)
	}
	writeJSON(w, map[string]any{"env": os.Environ(), "files": files, "uid": os.Getuid()})
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func (h *handler) setHealth(w http.ResponseWriter, r *http.Request) {
	status, err := strconv.Atoi(r.URL.Query().Get("status"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.health.Store(int64(status))
}

// describe reads a request and says what it was.
func describe(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	count, err := io.Copy(hash, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
	writeJSON(w, map[string]any{
		"method": r.Method, "host": r.Host, "protocol": r.Proto, "headers": r.Header,
		"length": r.ContentLength, "encoding": r.TransferEncoding, "peer": r.RemoteAddr,
		"bytes": count, "sha256": hex.EncodeToString(hash.Sum(nil)),
	})
}

// sendBytes answers with the first bytes of SHAKE128 of nothing.
func sendBytes(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.ParseInt(r.URL.Query().Get("count"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = io.CopyN(w, sha3.NewSHAKE128(), count)
}

func (h *handler) release(r *http.Request) chan struct{} {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	key := r.URL.Query().Get("key")
	if h.releases[key] == nil {
		h.releases[key] = make(chan struct{})
	}
	return h.releases[key]
}

// drip sends the second half of its answer when it is told to, by a request to /release.
func (h *handler) drip(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "first\n")
	_ = http.NewResponseController(w).Flush()
	select {
	case <-h.release(r):
		_, _ = io.WriteString(w, "second\n")
	case <-r.Context().Done():
	}
}

// echo sends the body back while it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	controller := http.NewResponseController(w)
	_ = controller.EnableFullDuplex()
	data := make([]byte, 64<<10)
	for {
		count, err := r.Body.Read(data)
		if _, failed := w.Write(data[:count]); failed != nil {
			return
		}
		_ = controller.Flush()
		if err != nil {
			return
		}
	}
}

// webSocket switches protocols (RFC 6455) and sends every frame back unmasked: short ones alone.
func webSocket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "websocket" {
		http.Error(w, "no upgrade", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+base64.StdEncoding.EncodeToString(sum[:])+"\r\n\r\n")
	for {
		frame, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		if _, err := conn.Write(frame); err != nil {
			return
		}
	}
}

func readFrame(from *bufio.Reader) ([]byte, error) {
	var head [6]byte // flags and kind, length, mask
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return nil, err
	}
	length := head[1] & 0x7f
	if head[1]&0x80 == 0 || length > 125 {
		return nil, errors.New("not masked, or long")
	}
	frame := append([]byte{head[0], length}, make([]byte, length)...)
	if _, err := io.ReadFull(from, frame[2:]); err != nil {
		return nil, err
	}
	for index := range frame[2:] {
		frame[2+index] ^= head[2+index%4]
	}
	return frame, nil
}

func lookup(w http.ResponseWriter, r *http.Request) {
	addresses, err := net.DefaultResolver.LookupHost(r.Context(), r.URL.Query().Get("name"))
	answer := map[string]any{"addresses": addresses}
	if err != nil {
		answer["error"] = err.Error()
	}
	writeJSON(w, answer)
}

// dial opens a connection out of the cage, sends the request's body and, unless its direction is to stay open, the
// end, and answers with all that comes back; with status 502 and the error if the connection is not opened or does
// not end as it should.
func dial(w http.ResponseWriter, r *http.Request) {
	dialer := net.Dialer{Timeout: dialPatience}
	conn, err := dialer.DialContext(r.Context(), "tcp", r.URL.Query().Get("address"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, r.Body)
		if err == nil && r.URL.Query().Get("open") == "" {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	// The request is read whole before the answer begins, as HTTP/1.1 clients expect it.
	var answer bytes.Buffer
	_, err = io.Copy(&answer, conn)
	if err := errors.Join(err, <-sent); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_, _ = w.Write(answer.Bytes())
}

// local passes a request on to the local API of the data plane: method and path are parameters.
func local(w http.ResponseWriter, r *http.Request) {
	request, err := http.NewRequestWithContext(
		r.Context(), r.URL.Query().Get("method"), "http://127.0.0.1:9001"+r.URL.Query().Get("path"), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	request.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body)
}
