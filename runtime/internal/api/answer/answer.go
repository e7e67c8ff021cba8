// Package answer is what the guest's two HTTP interfaces have in common: JSON in and out, within bounds.
package answer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"cagebuild.dev/runtime/internal/certificate"
	"cagebuild.dev/runtime/internal/health"
	"cagebuild.dev/runtime/internal/metrics"
	"cagebuild.dev/runtime/internal/say"
)

// JSON writes a value as the body.
func JSON(w http.ResponseWriter, status int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"error":"the answer is no JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	Bytes(w, status, append(text, '\n'))
}

// Bytes writes a body whose Content-Type is set already.
func Bytes(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever has gone away gets no answer
}

// Problem writes {"error": …}.
func Problem(w http.ResponseWriter, status int, format string, arguments ...any) {
	JSON(w, status, map[string]string{"error": fmt.Sprintf(format, arguments...)})
}

// Health writes a report, with the status that tells whether all is well.
func Health(w http.ResponseWriter, report health.Report) {
	status := http.StatusOK
	if report.Status != health.Up {
		status = http.StatusServiceUnavailable
	}
	JSON(w, status, report)
}

// Metrics writes all metrics.
func Metrics(w http.ResponseWriter, registry *metrics.Registry) {
	w.Header().Set("Content-Type", metrics.ContentType)
	_ = registry.WriteText(w) // whoever has gone away gets no answer
}

// Document writes an attestation document.
func Document(w http.ResponseWriter, document []byte) {
	w.Header().Set("Content-Type", certificate.MediaType)
	Bytes(w, http.StatusOK, document)
}

// Body reads a request's body of one of some media types and of at most so many bytes. It writes the problem
// if there is one.
func Body(w http.ResponseWriter, r *http.Request, most int, types ...string) (body []byte, mediaType string, ok bool) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, mediaType) {
		Problem(w, http.StatusUnsupportedMediaType, "the content type is to be %s", strings.Join(types, " or "))
		return nil, "", false
	}
	body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, int64(most)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		Problem(w, http.StatusRequestEntityTooLarge, "the body has more than %d bytes", most)
		return nil, "", false
	case err != nil:
		Problem(w, http.StatusBadRequest, "the body breaks off")
		return nil, "", false
	}
	return body, mediaType, true
}

// Decode reads one JSON object with known keys and nothing behind it.
func Decode(body []byte, value any) error {
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return errors.New("the body is no JSON object")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	return nil
}

// Bounded is a net.Listener that takes no more connections than so many at once.
type Bounded struct {
	net.Listener
	Slots chan struct{} // its capacity is the limit
}

// Accept waits until there is room, then for a connection.
func (b *Bounded) Accept() (net.Conn, error) {
	b.Slots <- struct{}{}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.Slots
		return nil, err
	}
	return &bounded{Conn: conn, slots: b.Slots}, nil
}

type bounded struct {
	net.Conn
	once  sync.Once
	slots chan struct{}
}

func (b *bounded) Close() error {
	b.once.Do(func() { <-b.slots })
	return b.Conn.Close()
}

// Log is what an http.Server writes its own messages to, for a log.Logger: as lines of the runtime.
type Log string

// Write says one message.
func (l Log) Write(message []byte) (int, error) {
	text := string(message)
	if size := len(text); size > 0 && text[size-1] == '\n' {
		text = text[:size-1]
	}
	say.Line("data: %s: %.500s", string(l), text)
	return len(message), nil
}
