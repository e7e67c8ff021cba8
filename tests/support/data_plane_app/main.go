// Command app is what runs in a cage under test: a server for ingress, and a client that egress is tested with.
//
//	app serve WEB RAW [CERTIFICATE KEY]   HTTP/1.1 and HTTP/2 at the address WEB, with TLS if there is a certificate;
//	                                      plain TCP at RAW
//	app lookup NAME                       the addresses of a name, as Go's own resolver finds them
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	switch {
	case len(words) == 2 && words[0] == "lookup":
		addresses, err := net.DefaultResolver.LookupHost(context.Background(), words[1])
		if err == nil {
			fmt.Println(addresses)
		}
		return err
	case len(words) == 3 && words[0] == "serve":
		return serve(words[1], words[2], "", "")
	case len(words) == 5 && words[0] == "serve":
		return serve(words[1], words[2], words[3], words[4])
	default:
		return errors.New("usage: app serve WEB RAW [CERTIFICATE KEY] | app lookup NAME")
	}
}

func serve(web, raw, certificate, key string) error {
	rawListener, err := net.Listen("tcp", raw)
	if err != nil {
		return err
	}
	webListener, err := net.Listen("tcp", web)
	if err != nil {
		return err
	}
	go acceptRaw(rawListener)
	server := &http.Server{Handler: newHandler(), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		_ = server.Shutdown(context.Background())
	}()
	fmt.Println("ready")
	if certificate == "" {
		return server.Serve(webListener)
	}
	return server.ServeTLS(webListener, certificate, key)
}

func acceptRaw(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go answerRaw(conn)
	}
}

// answerRaw sends back what comes until the client's end, and only then says how much it was and ends, too.
func answerRaw(conn net.Conn) {
	defer conn.Close()
	hash := sha256.New()
	count, err := io.Copy(io.MultiWriter(conn, hash), conn)
	if err == nil {
		_ = json.NewEncoder(conn).Encode(map[string]any{
			"bytes": count, "sha256": hex.EncodeToString(hash.Sum(nil)),
		})
	}
}
