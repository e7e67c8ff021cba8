package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cagebuild.dev/runtime/internal/host/client"
	"cagebuild.dev/runtime/internal/secrets"
)

const (
	maxNonce = 512       // of an attestation document, in bytes
	maxChain = 256 << 10 // of certificates, in bytes
	maxKey   = 4 << 10   // of a public key file
)

// operate runs a command that asks a running enclave. It ends when it is interrupted.
func operate(at target, do func(context.Context, *client.Client) error) error {
	address, err := at.address()
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	return do(ctx, client.New(address))
}

func health(arguments []string) error {
	f := newFlags("health", "", "Says how the app in a running enclave is. The status is 0 if it is up, 1 if it isn't or doesn't answer.")
	at := f.target()
	asJSON := f.Bool("json", false, "print JSON")
	if _, err := f.parse(arguments, 0, 0); err != nil {
		return err
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error {
		found, err := guest.Health(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			err = json.NewEncoder(os.Stdout).Encode(found)
		} else {
			_, err = fmt.Printf("%s\n%s", found.Status, found.Text())
		}
		if err == nil && found.Status != client.Up {
			err = errSaid
		}
		return err
	})
}

func logs(arguments []string) error {
	f := newFlags("logs", "", "Shows what the app and the runtime in a running enclave have logged, if the image has [logs] forward = true.")
	at := f.target()
	follow := f.Bool("follow", false, "go on as long as the enclave runs")
	if _, err := f.parse(arguments, 0, 0); err != nil {
		return err
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error {
		err := guest.Logs(ctx, *follow, func(line string) error {
			_, err := fmt.Println(line)
			return err
		})
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
}

func attestation(arguments []string) error {
	f := newFlags("attestation", "", "Gets an attestation document (COSE_Sign1), which \"invoke verify\" and others verify. It is not verified here: the\n"+
		"parent is who it protects from.")
	at := f.target()
	nonceText := f.String("nonce", "", "`HEX` that the document has to hold, 1 to 512 bytes: what proves that it is fresh. Required")
	key := f.String("key", "", "the public key that the document has to hold: `tls or secrets`; default: none")
	output := f.String("o", "", "write to a `FILE` instead of standard output")
	if _, err := f.parse(arguments, 0, 0); err != nil {
		return err
	}
	nonce, err := hex.DecodeString(*nonceText)
	switch {
	case err != nil, len(nonce) == 0, len(nonce) > maxNonce:
		return usagef("--nonce: expected 1 to %d bytes in hexadecimal", maxNonce)
	case *key != "" && *key != "tls" && *key != "secrets":
		return usagef("--key: got %q, expected tls or secrets", *key)
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error {
		document, err := guest.Attestation(ctx, nonce, *key)
		if err != nil {
			return err
		}
		return write(*output, document, 0o644)
	})
}

func csr(arguments []string) error {
	f := newFlags("csr", "NAME...", "Gets a certificate signing request (PEM) for the key that was made in the enclave and never leaves it.\n"+
		"NAME is a host name or IP address of the certificate.")
	at := f.target()
	output := f.String("o", "", "write to a `FILE` instead of standard output")
	names, err := f.parse(arguments, 1, -1)
	if err != nil {
		return err
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error {
		request, err := guest.CSR(ctx, names)
		if err != nil {
			return err
		}
		return write(*output, request, 0o644)
	})
}

func certificate(arguments []string) error {
	f := newFlags("certificate", "FILE", "Gives the enclave a certificate for its key, with the chain to its root (PEM, the enclave's own first).\n"+
		"FILE may be \"-\" for standard input.")
	at := f.target()
	words, err := f.parse(arguments, 1, 1)
	if err != nil {
		return err
	}
	chain, err := read(words[0], maxChain)
	if err != nil {
		return err
	}
	if err := checkChain(chain); err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error { return guest.SetCertificate(ctx, chain) })
}

// checkChain finds mistakes where they are easily explained, and keeps a private key from being sent.
func checkChain(text []byte) error {
	count := 0
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a %q: only certificates go to the enclave", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", count+1, err)
		}
		count++
		text = rest
	}
	if count == 0 {
		return errors.New("holds no certificate in PEM")
	}
	return nil
}

const secretsUsage = `usage: cage-host secrets put [FLAGS] FILE     deliver secrets to a running enclave
       cage-host secrets seal [FLAGS] FILE    encrypt secrets to an enclave's key
`

func secretsCommand(arguments []string) error {
	if len(arguments) == 0 {
		return usagef("secrets: put or seal?\n%s", secretsUsage)
	}
	switch arguments[0] {
	case "put":
		return putSecrets(arguments[1:])
	case "seal":
		return sealSecrets(arguments[1:])
	case "help", "-h", "-help", "--help":
		fmt.Print(secretsUsage)
		return nil
	default:
		return usagef("secrets: %q is neither put nor seal", arguments[0])
	}
}

func putSecrets(arguments []string) error {
	f := newFlags("secrets put", "[FILE]", `Delivers secrets: FILE is JSON, {"env": {NAME: text}, "files": {NAME: base64}}, or "-" for standard input.
They are not measured, and this machine sees them, unless they come sealed.`)
	at := f.target()
	sealed := f.String("sealed", "", "a `FILE` that \"cage-host secrets seal\" has made, instead of JSON")
	words, err := f.parse(arguments, 0, 1)
	if err != nil {
		return err
	}
	if (len(words) == 0) == (*sealed == "") {
		return usagef("secrets put: expected either FILE or --sealed FILE")
	}
	var data []byte
	if *sealed != "" {
		data, err = read(*sealed, secrets.MaxSealed)
	} else {
		data, err = readBundle(words[0])
	}
	if err != nil {
		return err
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error {
		return guest.PutSecrets(ctx, data, *sealed != "")
	})
}

func sealSecrets(arguments []string) error {
	f := newFlags("secrets seal", "FILE", `Encrypts secrets to one enclave, so that the parent machine can't read them. FILE is JSON as for "secrets put", or "-"
for standard input. The key has to come from an attestation document that was verified elsewhere than on the parent.`)
	key := f.String("key", "", "`FILE` with the enclave's public key, as the document has it. Required")
	output := f.String("o", "", "write to a `FILE` instead of standard output")
	words, err := f.parse(arguments, 1, 1)
	if err != nil {
		return err
	}
	if *key == "" {
		return usagef("secrets seal: to which key? --key FILE")
	}
	public, err := read(*key, maxKey)
	if err != nil {
		return err
	}
	bundle, err := readBundle(words[0])
	if err != nil {
		return err
	}
	sealed, err := secrets.Seal(public, bundle)
	if err != nil {
		return err
	}
	return write(*output, sealed, 0o600)
}

func readBundle(path string) ([]byte, error) {
	data, err := read(path, secrets.MaxJSON)
	if err != nil {
		return nil, err
	}
	if _, err := secrets.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

func stop(arguments []string) error {
	f := newFlags("stop", "", "Asks the enclave to end: its app first, then the rest. A cage-host that runs it starts it again.")
	at := f.target()
	if _, err := f.parse(arguments, 0, 0); err != nil {
		return err
	}
	return operate(at, func(ctx context.Context, guest *client.Client) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return guest.Stop(ctx)
	})
}

// read reads a file, or standard input for "-", of at most so many bytes.
func read(path string, most int) ([]byte, error) {
	file := os.Stdin
	if path != "-" {
		var err error
		if file, err = os.Open(path); err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
	}
	data, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s: more than %d bytes", path, most)
	}
	return data, err
}

func write(path string, data []byte, mode os.FileMode) error {
	if path == "" {
		_, err := os.Stdout.Write(data)
		return err
	}
	return os.WriteFile(path, data, mode)
}
