// Package secrets keeps what an operator delivers to a running enclave and hands it to the app's process.
//
// The cage lists names, which are measured; values come later, over the control channel, and are kept in
// memory only. A value reaches the app as a variable of its environment or as a file in /run/secrets, and no
// other process of the runtime has it in its environment, its arguments or its log. What is sealed to the
// enclave's attested key stays hidden from the parent machine; see docs/secrets.md for what that proves.
package secrets

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits, in bytes and names.
const (
	MaxValue = 64 << 10 // of one value
	MaxTotal = 1 << 20  // of all values that are kept
	MaxJSON  = 2 << 20  // of a bundle's text
	maxNames = 1024
	maxName  = 255 // what a file system allows
)

// Bundle is values by name. It may hold some of the names only.
type Bundle struct {
	Env   map[string]string // text without NUL
	Files map[string][]byte
}

// MarshalJSON writes the form that Parse reads.
func (b Bundle) MarshalJSON() ([]byte, error) {
	env, files := b.Env, map[string][]byte{}
	if env == nil {
		env = map[string]string{}
	}
	for name, value := range b.Files {
		files[name] = append([]byte{}, value...) // nil would be written as null
	}
	return json.Marshal(map[string]any{"env": env, "files": files})
}

// Parse reads {"env": {NAME: text}, "files": {NAME: base64}}; either key may be absent. Unknown and repeated
// keys and names, other types and values that are too long are errors. No error repeats a value.
func Parse(data []byte) (Bundle, error) {
	if len(data) > MaxJSON {
		return Bundle{}, fmt.Errorf("got %d bytes, expected at most %d", len(data), MaxJSON)
	}
	if !utf8.Valid(data) {
		return Bundle{}, errors.New("is not UTF-8")
	}
	p := parser{tokens: json.NewDecoder(strings.NewReader(string(data)))}
	bundle := Bundle{Env: map[string]string{}, Files: map[string][]byte{}}
	err := p.object("the bundle", func(key string) error {
		switch key {
		case "env":
			return p.values(key, func(name, text string) error { return bundle.addText(name, text) })
		case "files":
			return p.values(key, func(name, text string) error { return bundle.addFile(name, text) })
		}
		return fmt.Errorf("unknown key %.64q", key)
	})
	if err != nil {
		return Bundle{}, err
	}
	if _, err := p.tokens.Token(); !errors.Is(err, io.EOF) {
		return Bundle{}, errors.New("something follows the object")
	}
	return bundle, bundle.check()
}

func (b *Bundle) addText(name, text string) error {
	// encoding/json writes the replacement character for escapes of half a pair.
	if strings.ContainsRune(text, utf8.RuneError) {
		return fmt.Errorf("env.%s: holds U+FFFD or half of a surrogate pair; deliver bytes as a file", name)
	}
	b.Env[name] = text
	return nil
}

func (b *Bundle) addFile(name, text string) error {
	// The decoder skips line breaks.
	value, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return fmt.Errorf("files.%s: is not base64 (of the standard alphabet, padded, in one line)", name)
	}
	b.Files[name] = value
	return nil
}

// check finds values and names that could not be delivered, whatever the cage lists.
func (b Bundle) check() error {
	if len(b.Env)+len(b.Files) > maxNames {
		return fmt.Errorf("got %d names, expected at most %d", len(b.Env)+len(b.Files), maxNames)
	}
	for _, name := range sorted(b.Env) {
		if err := checkVariable(name); err != nil {
			return fmt.Errorf("env: %w", err)
		}
		if strings.ContainsRune(b.Env[name], 0) {
			return fmt.Errorf("env.%s: holds a NUL character", name)
		}
		if size := len(b.Env[name]); size > MaxValue {
			return fmt.Errorf("env.%s: got %d bytes, expected at most %d", name, size, MaxValue)
		}
	}
	for _, name := range sorted(b.Files) {
		if err := checkFile(name); err != nil {
			return fmt.Errorf("files: %w", err)
		}
		if size := len(b.Files[name]); size > MaxValue {
			return fmt.Errorf("files.%s: got %d bytes, expected at most %d", name, size, MaxValue)
		}
	}
	if total := b.size(); total > MaxTotal {
		return fmt.Errorf("got %d bytes of values, expected at most %d", total, MaxTotal)
	}
	return nil
}

func (b Bundle) size() int {
	total := 0
	for _, value := range b.Env {
		total += len(value)
	}
	for _, value := range b.Files {
		total += len(value)
	}
	return total
}

func checkVariable(name string) error {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "=\x00") {
		return fmt.Errorf("%.64q is no name of a variable", name)
	}
	return nil
}

func checkFile(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%.64q is no name of a file", name)
	}
	return nil
}

func sorted[V any](values map[string]V) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// parser walks over the tokens, for encoding/json lets repeated keys and null pass.
type parser struct{ tokens *json.Decoder }

func (p *parser) next() (json.Token, error) {
	token, err := p.tokens.Token()
	var wrong *json.SyntaxError
	switch {
	case err == nil:
		return token, nil
	case errors.As(err, &wrong):
		// Its own message repeats a character.
		return nil, fmt.Errorf("is not JSON, at byte %d", wrong.Offset)
	}
	return nil, errors.New("ends too early")
}

// object calls member at each value of an object.
func (p *parser) object(what string, member func(key string) error) error {
	token, err := p.next()
	if err != nil {
		return err
	}
	if token != json.Delim('{') {
		return fmt.Errorf("%s: is no object", what)
	}
	seen := map[string]bool{}
	for p.tokens.More() {
		token, err := p.next()
		if err != nil {
			return err
		}
		key, _ := token.(string) // keys are strings, or the decoder fails
		if seen[key] {
			return fmt.Errorf("%s: %.64q is there twice", what, key)
		}
		if len(seen) == maxNames {
			return fmt.Errorf("%s: has more than %d names", what, maxNames)
		}
		seen[key] = true
		if err := member(key); err != nil {
			return err
		}
	}
	_, err = p.next()
	return err
}

func (p *parser) values(what string, add func(name, text string) error) error {
	return p.object(what, func(name string) error {
		token, err := p.next()
		if err != nil {
			return err
		}
		text, isText := token.(string)
		if !isText {
			return fmt.Errorf("%s: the value of %.64q is no string", what, name)
		}
		return add(name, text)
	})
}
