package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cagebuild.dev/runtime/internal/settings"
)

// each runs a test with clients of both versions of HTTP.
func each(t *testing.T, test func(t *testing.T, version int)) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP%d", version), func(t *testing.T) { test(t, version) })
	}
}

func get(t testing.TB, client *http.Client, url string) (*http.Response, string) {
	t.Helper()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	return response, bodyOf(t, response)
}

func bodyOf(t testing.TB, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestTheAppGetsTheRequestAsItWasSent(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		requests := make(chan *http.Request, 1)
		port := httpApp(t, func(_ http.ResponseWriter, r *http.Request) { requests <- r }, nil)
		c := newCage(t, nil, terminate(port, "http"))
		client, address := c.client(version), c.front(port)
		const target = "/a%2Fb//c;d%20e/%E4?x=1;y=%zz&x=2&&z"
		request, err := http.NewRequest("PATCH", "https://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Opaque = target[:strings.Index(target, "?")]
		request.URL.RawQuery = target[strings.Index(target, "?")+1:]
		request.Host = "api.example.com:8443"
		request.Header = http.Header{
			"Accept": {"a/b", "c/d"}, "X-Twice": {"1", "2", ""}, "User-Agent": {""}, "Cookie": {"a=1; b=2"},
			"Forwarded": {"for=192.0.2.1"}, "X-Forwarded-For": {"192.0.2.1", "192.0.2.2"},
			"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"evil.example"},
			"Te": {"trailers"}, "Authorization": {"Bearer x"},
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = bodyOf(t, response)
		got := <-requests
		if got.Method != "PATCH" || got.RequestURI != target || got.Host != "api.example.com:8443" || got.ProtoMajor != 1 {
			t.Errorf("got %s %s for %s", got.Method, got.RequestURI, got.Host)
		}
		want := http.Header{
			"Accept": {"a/b", "c/d"}, "X-Twice": {"1", "2", ""}, "Cookie": {"a=1; b=2"}, "Te": {"trailers"},
			"Authorization": {"Bearer x"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"},
			"X-Forwarded-Host": {"api.example.com:8443"},
			"Content-Length":   {"0"},
		}
		if !reflect.DeepEqual(got.Header, want) {
			t.Errorf("got      %v\nexpected %v", got.Header, want)
		}
		if response.ProtoMajor != version {
			t.Errorf("the answer has version %d", response.ProtoMajor)
		}
	})
}

func TestPathsThatLookLikeHostsStayPaths(t *testing.T) {
	targets := make(chan string, 1)
	port := httpApp(t, func(_ http.ResponseWriter, r *http.Request) { targets <- r.RequestURI },
		func(server *http.Server) { server.DisableGeneralOptionsHandler = true })
	c := newCage(t, nil, terminate(port, "http"))
	conn := c.dialTLS(c.front(port), nil)
	answers := bufio.NewReader(conn)
	for sent, want := range map[string]string{
		"GET //evil.example/x":            "//evil.example/x",
		"GET /?":                          "/?",
		"GET /??a":                        "/??a",
		"GET http://api.example.com/y?z":  "/y?z",
		`GET /"<>\^{|}`:                   `/"<>\^{|}`,
		"OPTIONS *":                       "*",
		"GET /.well-known/attestation/no": "/.well-known/attestation/no",
	} {
		_, _ = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: a\r\n\r\n", sent)
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%s: %v", sent, err)
		}
		if got := bodyOf(t, response); response.StatusCode != 200 {
			t.Fatalf("%s: got %d, %s", sent, response.StatusCode, got)
		}
		if got := <-targets; got != want {
			t.Errorf("%s: got %q, expected %q", sent, got, want)
		}
	}
}

func TestTheClientGetsTheAnswerAsItWasSent(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		port := app(t, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.1 299 Odd\r\nX-Twice: 1\r\nX-Twice: 2\r\nSet-Cookie: a=1\r\n"+
				"Set-Cookie: b=2\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 6\r\nConnection: close\r\n"+
				"\r\n<html>")
		})
		c := newCage(t, nil, terminate(port, "http"))
		response, body := get(t, c.client(version), "https://"+c.front(port)+"/")
		want := http.Header{
			"X-Twice": {"1", "2"}, "Set-Cookie": {"a=1", "b=2"}, "Date": {"Thu, 01 Jan 1970 00:00:00 GMT"},
			"Content-Length": {"6"},
		}
		if response.StatusCode != 299 || body != "<html>" || !reflect.DeepEqual(response.Header, want) {
			t.Errorf("got %d, %q, %v", response.StatusCode, body, response.Header)
		}
	})
}

func TestTrailersGoBothWays(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X-Announced")
				body, err := io.ReadAll(r.Body)
				_, _ = fmt.Fprintf(w, "%s %v %v", body, err, r.Trailer)
				w.Header().Set("X-Announced", "1")
				w.Header().Set(http.TrailerPrefix+"X-Sudden", "2")
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			request, err := http.NewRequest("POST", "https://"+c.front(port)+"/", readerOnly{strings.NewReader("body")})
			if err != nil {
				t.Fatal(err)
			}
			request.Trailer = http.Header{"X-Sum": {"abc"}}
			response, err := c.client(version).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			if got := bodyOf(t, response); got != "body <nil> map[X-Sum:[abc]]" {
				t.Errorf("the app got %q", got)
			}
			if want := (http.Header{"X-Announced": {"1"}, "X-Sudden": {"2"}}); !reflect.DeepEqual(response.Trailer, want) {
				t.Errorf("got %v", response.Trailer)
			}
		})
	}
}

// TestEachPieceArrivesBeforeTheNextIsSent has client and app take turns within one request and its answer.
func TestEachPieceArrivesBeforeTheNextIsSent(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
				controller := http.NewResponseController(w)
				_ = controller.EnableFullDuplex()
				w.WriteHeader(http.StatusOK)
				_ = controller.Flush()
				buffer := make([]byte, 100)
				for {
					count, err := r.Body.Read(buffer)
					_, _ = w.Write(bytes.ToUpper(buffer[:count]))
					_ = controller.Flush()
					if err != nil {
						return
					}
				}
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			reader, writer := io.Pipe()
			request, err := http.NewRequest("POST", "https://"+c.front(port)+"/", reader)
			if err != nil {
				t.Fatal(err)
			}
			response, err := c.client(version).Do(request) // with the header alone
			if err != nil {
				t.Fatal(err)
			}
			buffer := make([]byte, 5)
			for range 20 {
				_, _ = writer.Write([]byte("hello"))
				if _, err := io.ReadFull(response.Body, buffer); err != nil || string(buffer) != "HELLO" {
					t.Fatalf("got %q, %v", buffer, err)
				}
			}
			_ = writer.Close()
			if rest := bodyOf(t, response); rest != "" {
				t.Errorf("got %q at the end", rest)
			}
		})
	}
}

func TestLargeBodiesGoBothWaysWhole(t *testing.T) {
	const size = 20 << 20
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				w.Header().Set("X-Length", fmt.Sprint(r.ContentLength))
				_, _ = io.Copy(w, r.Body)
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			client, url := c.client(version), "https://"+c.front(port)+"/"
			for _, length := range []int64{size, -1} {
				sums := [2]hash.Hash{sha256.New(), sha256.New()}
				source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
				request, err := http.NewRequest("PUT", url, io.TeeReader(source, sums[0]))
				if err != nil {
					t.Fatal(err)
				}
				request.ContentLength = length
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				count, err := io.Copy(sums[1], response.Body)
				_ = response.Body.Close()
				if err != nil || count != size || !bytes.Equal(sums[0].Sum(nil), sums[1].Sum(nil)) {
					t.Errorf("got %d bytes, %v", count, err)
				}
				if got := response.Header.Get("X-Length"); got != fmt.Sprint(length) {
					t.Errorf("the app got a length of %s, expected %d", got, length)
				}
			}
		})
	}
}

func TestASlowClientStopsTheApp(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			var written atomic.Int64
			port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
				block := make([]byte, 64<<10)
				for r.Context().Err() == nil {
					count, err := w.Write(block)
					written.Add(int64(count))
					if err != nil {
						return
					}
				}
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			response, err := c.client(version).Get("https://" + c.front(port) + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			// Nothing is read: at some time the app can't write any more.
			const most = 64 << 20
			last := int64(-1)
			eventually(t, "the app stops", func() bool {
				time.Sleep(200 * time.Millisecond)
				now := written.Load()
				if now > most {
					t.Fatalf("%d bytes were taken", now)
				}
				same := now == last
				last = now
				return same && now > 0
			})
			// And goes on when the client does.
			if _, err := io.CopyN(io.Discard, response.Body, last+1<<20); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refuse" {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		}, nil)
		c := newCage(t, nil, terminate(port, "http"))
		paths := []string{"/take"}
		if version == 1 {
			// net/http's server of HTTP/2 keeps to itself that a client waits, and asks for the body.
			paths = append(paths, "/refuse")
		}
		for _, path := range paths {
			var continued, read atomic.Bool
			body := readerFunc(func([]byte) (int, error) {
				read.Store(true)
				return 0, io.EOF
			})
			request, err := http.NewRequest("POST", "https://"+c.front(port)+path, io.MultiReader(body, strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Expect", "100-continue")
			request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
				Got100Continue: func() { continued.Store(true) },
			}))
			response, err := c.client(version).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			got, want := bodyOf(t, response), "body"
			if path == "/refuse" {
				want = ""
			}
			if got != want || continued.Load() != (want != "") || read.Load() != (want != "") {
				t.Errorf("%s: got %d, %q; continued: %v, body read: %v",
					path, response.StatusCode, got, continued.Load(), read.Load())
			}
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(data []byte) (int, error) { return f(data) }

func TestInterimAnswersArePassedOn(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		port := httpApp(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.Header()["Content-Type"] = nil
			w.WriteHeader(http.StatusOK)
		}, nil)
		c := newCage(t, nil, terminate(port, "http"))
		var hints []string
		request, _ := http.NewRequest("GET", "https://"+c.front(port)+"/", nil)
		request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, header["Link"]))
				return nil
			},
		}))
		response, err := c.client(version).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = bodyOf(t, response)
		if want := []string{"103 [</a.css>; rel=preload]"}; !reflect.DeepEqual(hints, want) {
			t.Errorf("got %q", hints)
		}
		if response.Header["Link"] != nil || response.Header["Content-Type"] != nil {
			t.Errorf("got %v", response.Header)
		}
	})
}

func TestAnswersWithoutABody(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.Method {
			case "HEAD":
				w.Header().Set("Content-Length", "1234")
			case "DELETE":
				w.WriteHeader(http.StatusNoContent)
			default:
				w.WriteHeader(http.StatusNotModified)
			}
		}, nil)
		c := newCage(t, nil, terminate(port, "http"))
		client, url := c.client(version), "https://"+c.front(port)+"/"
		for method, want := range map[string]struct {
			status int
			length int64
		}{"HEAD": {200, 1234}, "DELETE": {204, 0}, "GET": {304, 0}} {
			request, _ := http.NewRequest(method, url, nil)
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			if body := bodyOf(t, response); body != "" || response.StatusCode != want.status ||
				response.ContentLength > 0 && response.ContentLength != want.length ||
				method == "HEAD" && response.ContentLength != want.length {
				t.Errorf("%s: got %d, length %d, %q", method, response.StatusCode, response.ContentLength, body)
			}
		}
	})
}

func TestAClientThatLeavesEndsTheAppsRequest(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			begun, ended := make(chan struct{}), make(chan struct{})
			port := httpApp(t, func(_ http.ResponseWriter, r *http.Request) {
				close(begun)
				<-r.Context().Done()
				close(ended)
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			ctx, cancel := context.WithCancel(context.Background())
			request, _ := http.NewRequestWithContext(ctx, "GET", "https://"+c.front(port)+"/", nil)
			go func() {
				<-begun
				cancel()
			}()
			if _, err := c.client(version).Do(request); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			select {
			case <-ended:
			case <-time.After(hang):
				t.Error("the app's request goes on")
			}
		})
	}
}

func TestAClientThatLeavesWithinItsBodyEndsTheAppsRequest(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		begun, failures := make(chan struct{}), make(chan error, 1)
		port := httpApp(t, func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			_, err := io.ReadAll(r.Body)
			failures <- err
		}, nil)
		c := newCage(t, nil, terminate(port, "http"))
		broken := errors.New("broken")
		body := io.MultiReader(strings.NewReader("some"), readerFunc(func([]byte) (int, error) {
			<-begun
			return 0, broken
		}))
		request, _ := http.NewRequest("POST", "https://"+c.front(port)+"/", body)
		if _, err := c.client(version).Do(request); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if err := <-failures; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the app got %v", err)
		}
	})
}

// TestAnAnswerThatBreaksOffIsNoWholeOne has apps die in the middle, with each way to tell an answer's end.
func TestAnAnswerThatBreaksOffIsNoWholeOne(t *testing.T) {
	for name, header := range map[string]string{
		"length": "Content-Length: 100\r\n", "chunks": "Transfer-Encoding: chunked\r\n", "end": "Connection: close\r\n",
	} {
		for _, way := range []string{"end", "reset"} {
			if name == "end" && way == "end" {
				continue // that is a whole one
			}
			each(t, func(t *testing.T, version int) {
				arrived := make(chan struct{})
				port := app(t, func(conn net.Conn) {
					_, _ = http.ReadRequest(bufio.NewReader(conn))
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+header+"\r\n")
					if name == "chunks" {
						_, _ = io.WriteString(conn, "5\r\nhello\r\n")
					} else {
						_, _ = io.WriteString(conn, "hello")
					}
					<-arrived
					if way == "reset" {
						reset(conn)
					}
				})
				c := newCage(t, nil, terminate(port, "http"))
				response, err := c.client(version).Get("https://" + c.front(port) + "/")
				if err != nil {
					t.Fatal(err)
				}
				_, err = io.ReadFull(response.Body, make([]byte, 5))
				close(arrived)
				if err != nil {
					t.Fatal(err)
				}
				rest, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err == nil {
					t.Errorf("%s, %s: got %q as the end", name, way, rest)
				}
			})
		}
	}
}

func TestAnAnswerToHTTP10ThatBreaksOffIsNoWholeOne(t *testing.T) {
	port := app(t, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
		reset(conn)
	})
	c := newCage(t, nil, terminate(port, "http"))
	conn, watched := c.dialWatched(c.front(port), nil)
	_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) && !watched.cutOff.Load() {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAnAppThatIsDown(t *testing.T) {
	each(t, func(t *testing.T, version int) {
		port := unused(t)
		c := newCage(t, nil, terminate(port, "http"))
		client, url := c.client(version), "https://"+c.front(port)+"/"
		for range 3 {
			response, body := get(t, client, url)
			want := fmt.Sprintf("cage: port %d of the app: connection refused\n", port)
			if response.StatusCode != http.StatusBadGateway || body != want ||
				response.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("got %d, %q, %v", response.StatusCode, body, response.Header)
			}
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		go func() { _ = server.Serve(listener) }()
		defer server.Close()
		if response, _ := get(t, client, url); response.StatusCode != http.StatusOK {
			t.Errorf("got %d", response.StatusCode)
		}
		want := fmt.Sprintf("port %d of the app does not answer: connection refused\nport %d of the app answers", port, port)
		if got := c.log.String(); got != want {
			t.Errorf("said %q", got)
		}
	})
}

func TestAnAppThatAnswersGarbage(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":         "",
		"no HTTP":         "hello\r\n\r\n",
		"half a header":   "HTTP/1.1 200 OK\r\nX-",
		"a status of 099": "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
		"two lengths":     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a long header":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxAnswerHeader+1) + "\r\n\r\n",
		"no protocol":     "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"unasked upgrade": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
	} {
		port := app(t, func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, answer)
		})
		c := newCage(t, nil, terminate(port, "http"))
		response, body := get(t, c.client(1), "https://"+c.front(port)+"/")
		if response.StatusCode != http.StatusBadGateway || !strings.HasPrefix(body, "cage: ") {
			t.Errorf("%s: got %d, %q", name, response.StatusCode, body)
		}
	}
}

// TestAnEarlyAnswerDoesNotWaitForTheBody has an app refuse a body that the client goes on sending only when it has
// read the answer.
func TestAnEarlyAnswerDoesNotWaitForTheBody(t *testing.T) {
	port := app(t, func(conn net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	c := newCage(t, nil, terminate(port, "http"))
	conn := c.dialTLS(c.front(port), nil)
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nsome")
	answers := bufio.NewReader(conn)
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body := bodyOf(t, response); body != "no" || response.StatusCode != http.StatusForbidden {
		t.Errorf("got %d, %q", response.StatusCode, body)
	}
	// What follows is the body's rest, and no other request.
	_, _ = io.WriteString(conn, "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	port := httpApp(t, func(http.ResponseWriter, *http.Request) {}, nil)
	c := newCage(t, nil, terminate(port, "http"))
	for sent, want := range map[string]int{
		"garbage\r\n\r\n":                                                                                400,
		"GET / HTTP/1.1\r\n\r\n":                                                                         400,
		"GET / HTTP/1.1\r\nHost: a b\r\n\r\n":                                                            400,
		"GET mailto:a@b HTTP/1.1\r\nHost: a\r\n\r\n":                                                     400,
		"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n":                              405,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":                   400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n":                                  501,
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", maxHeader+8192) + "\r\n\r\n":            431,
		"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: \x01\r\nConnection: upgrade\r\n\r\n":                      400,
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": 501,
	} {
		conn := c.dialTLS(c.front(port), nil)
		_, _ = io.WriteString(conn, sent)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%.60q: %v", sent, err)
			continue
		}
		if response.StatusCode != want {
			t.Errorf("%.60q: got %d, expected %d", sent, response.StatusCode, want)
		}
		_ = conn.Close()
	}
}

func TestManyRequestsAtOnce(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			port := httpApp(t, func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				_, _ = io.Copy(w, r.Body)
			}, func(server *http.Server) {
				if protocol == "h2c" {
					h2c(server)
				}
			})
			c := newCage(t, nil, terminate(port, protocol))
			client, url := c.client(version), "https://"+c.front(port)+"/"
			var all sync.WaitGroup
			for number := range 200 {
				all.Go(func() {
					sent := strings.Repeat(fmt.Sprint(number, " "), 1000)
					response, err := client.Post(url, "text/plain", strings.NewReader(sent))
					if err != nil {
						t.Error(err)
						return
					}
					defer response.Body.Close()
					if got, err := io.ReadAll(response.Body); err != nil || string(got) != sent {
						t.Errorf("%d: got %d bytes, %v", number, len(got), err)
					}
				})
			}
			all.Wait()
		})
	}
}

func TestWithPROXYHeadersClientsShareNoConnection(t *testing.T) {
	for _, protocol := range []string{"http", "h2c"} {
		each(t, func(t *testing.T, version int) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprintf(w, "%s %s", r.RemoteAddr, r.Header.Get("X-Forwarded-For"))
			})}
			if protocol == "h2c" {
				h2c(server)
			}
			behind := &proxied{Listener: listener}
			go func() { _ = server.Serve(behind) }()
			defer server.Close()
			port := portOf(listener.Addr())
			c := newCage(t, nil, settings.Ingress{Port: port, TLS: "terminate", Protocol: protocol, ProxyProtocol: true})
			url := "https://" + c.front(port) + "/"
			seen := map[string]bool{}
			for range 3 {
				var own string
				client := c.client(version)
				for range 5 {
					request, _ := http.NewRequest("GET", url, nil)
					request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
						GotConn: func(info httptrace.GotConnInfo) { own = info.Conn.LocalAddr().String() },
					}))
					response, err := client.Do(request)
					if err != nil {
						t.Fatal(err)
					}
					if got := bodyOf(t, response); got != own+" 127.0.0.1" {
						t.Errorf("got %q, expected %s", got, own)
					}
				}
				seen[own] = true
			}
			if len(seen) != 3 {
				t.Errorf("the clients were %v", seen)
			}
		})
	}
}

// proxied is a listener whose connections begin with PROXY headers.
type proxied struct{ net.Listener }

func (p *proxied) Accept() (net.Conn, error) {
	conn, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	peer, _, err := readHeader(conn)
	return &peered{conn, peer}, err
}

type peered struct {
	net.Conn
	peer net.Addr
}

func (p *peered) RemoteAddr() net.Addr { return p.peer }

func TestTLSVersionsAndProtocols(t *testing.T) {
	port := httpApp(t, func(http.ResponseWriter, *http.Request) {}, nil)
	c := newCage(t, nil, terminate(port, "http"))
	address := c.front(port)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for offered, want := range map[string]string{"": "", "http/1.1": "http/1.1", "h2": "h2", "http/1.1,h2": "h2"} {
			conn := c.dialTLS(address, func(config *tls.Config) {
				config.MinVersion, config.MaxVersion = version, version
				if offered != "" {
					config.NextProtos = strings.Split(offered, ",")
				}
			})
			state := conn.ConnectionState()
			if state.Version != version || state.NegotiatedProtocol != want {
				t.Errorf("offered %q: got version %x, %q", offered, state.Version, state.NegotiatedProtocol)
			}
			_ = conn.Close()
		}
	}
	if _, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was taken")
	}
	eventually(t, "the failure is counted", func() bool {
		return c.value(fmt.Sprintf(`cage_ingress_handshake_failures_total{port="%d"}`, port)) == 1
	})
	cache := tls.NewLRUClientSessionCache(1)
	resumed := false
	for range 2 {
		conn := c.dialTLS(address, func(config *tls.Config) { config.ClientSessionCache = cache })
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		resumed = conn.ConnectionState().DidResume
		_ = conn.Close()
	}
	if !resumed {
		t.Error("a session was not resumed")
	}
}
