// Command stand-in is a Nitro Secure Module for tests of whole programs: it answers at a unix socket until it is
// told to end, and writes the root that its documents are signed under (PEM) to a file before it listens.
package main

import (
	"encoding/pem"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cagebuild.dev/runtime/internal/nsm/nsmtest"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: stand-in SOCKET ROOT.pem")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(socket, root string) error {
	server, err := nsmtest.New()
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Root.Raw})
	if err := os.WriteFile(root, text, 0o600); err != nil {
		return err
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	if err := server.Listen(socket); err != nil {
		return err
	}
	<-told
	server.Close()
	return nil
}
