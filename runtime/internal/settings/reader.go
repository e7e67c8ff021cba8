package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// reader walks over JSON token by token and keeps the first error. It refuses what encoding/json is lenient
// about: keys in another case, unknown, repeated and missing keys, null for any type, text that isn't
// Unicode, data after the end. After an error every method returns the zero value.
type reader struct {
	tokens *json.Decoder
	path   []string
	err    error
}

func newReader(data []byte) (*reader, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("is not UTF-8")
	}
	if hasEscapedSurrogate(data) {
		return nil, errors.New(`has an escaped surrogate (\ud800 to \udfff): write the character itself`)
	}
	tokens := json.NewDecoder(bytes.NewReader(data))
	tokens.UseNumber()
	return &reader{tokens: tokens}, nil
}

// hasEscapedSurrogate finds any escape of a surrogate, also one of a proper pair: encoding/json replaces
// the others without a word, and whoever writes UTF-8 needs neither.
func hasEscapedSurrogate(data []byte) bool {
	for at := 0; at+3 < len(data); at++ {
		if data[at] != '\\' {
			continue
		}
		if data[at+1] == 'u' && (data[at+2]|0x20) == 'd' && strings.IndexByte("89abcdef", data[at+3]|0x20) >= 0 {
			return true
		}
		at++
	}
	return false
}

func (r *reader) fail(format string, arguments ...any) {
	if r.err != nil {
		return
	}
	message := fmt.Sprintf(format, arguments...)
	if len(r.path) > 0 {
		message = strings.Join(r.path, "") + ": " + message
	}
	r.err = errors.New(message)
}

func (r *reader) next() json.Token {
	if r.err != nil {
		return nil
	}
	token, err := r.tokens.Token()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		r.fail("ends too early")
	} else if err != nil {
		r.fail("is not JSON: %v", err)
	}
	return token
}

func (r *reader) open(delimiter json.Delim, expected string) bool {
	token := r.next()
	if r.err == nil && token != delimiter {
		r.fail("got %s, expected %s", describe(token), expected)
	}
	return r.err == nil
}

// object reads an object that has exactly the given keys, calling the function of each at its value.
func (r *reader) object(fields map[string]func()) {
	if !r.open('{', "an object") {
		return
	}
	seen := map[string]bool{}
	for r.err == nil && r.tokens.More() {
		key, _ := r.next().(string)
		read, known := fields[key]
		switch {
		case r.err != nil:
			return
		case !known:
			r.fail("unknown key %q", key)
			return
		case seen[key]:
			r.fail("key %q is there twice", key)
			return
		}
		seen[key] = true
		r.enter(key, read)
	}
	r.next()
	missing := []string{}
	for key := range fields {
		if !seen[key] {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		r.fail("key %q is missing", missing[0])
	}
}

func (r *reader) enter(key string, read func()) {
	if len(r.path) > 0 && key[0] != '[' {
		key = "." + key
	}
	r.path = append(r.path, key)
	read()
	r.path = r.path[:len(r.path)-1]
}

// list reads an array, calling item at each of its values.
func list[T any](r *reader, item func() T) []T {
	values := []T{}
	if !r.open('[', "an array") {
		return nil
	}
	for r.err == nil && r.tokens.More() {
		if len(values) == maxItems {
			r.fail("has more than %d items", maxItems)
			return nil
		}
		r.enter("["+strconv.Itoa(len(values))+"]", func() { values = append(values, item()) })
	}
	r.next()
	return values
}

func (r *reader) integer(least, most uint32) uint32 {
	token := r.next()
	if r.err != nil {
		return 0
	}
	number, ok := token.(json.Number)
	if !ok {
		r.fail("got %s, expected a whole number", describe(token))
		return 0
	}
	value, err := strconv.ParseUint(number.String(), 10, 32)
	if err != nil || uint32(value) < least || uint32(value) > most {
		if least == most {
			r.fail("got %s, expected %d", number, least)
		} else {
			r.fail("got %s, expected a whole number from %d to %d", number, least, most)
		}
		return 0
	}
	return uint32(value)
}

func (r *reader) boolean() bool {
	token := r.next()
	value, ok := token.(bool)
	if r.err == nil && !ok {
		r.fail("got %s, expected true or false", describe(token))
	}
	return value
}

func (r *reader) text(wrong func(string) string) string {
	return r.textOf(r.next(), wrong)
}

func (r *reader) textOrNull(wrong func(string) string) string {
	token := r.next()
	if r.err == nil && token == nil {
		return ""
	}
	return r.textOf(token, wrong)
}

func (r *reader) textOf(token json.Token, wrong func(string) string) string {
	if r.err != nil {
		return ""
	}
	text, ok := token.(string)
	if !ok {
		r.fail("got %s, expected a string", describe(token))
		return ""
	}
	if problem := wrong(text); problem != "" {
		r.fail("%.200q %s", text, problem)
		return ""
	}
	return text
}

// end checks that nothing follows.
func (r *reader) end() {
	if r.err != nil {
		return
	}
	if _, err := r.tokens.Token(); !errors.Is(err, io.EOF) {
		r.fail("something follows after the end")
	}
}

func describe(token json.Token) string {
	switch value := token.(type) {
	case nil:
		return "null"
	case json.Delim:
		if value == '{' {
			return "an object"
		}
		return "an array"
	case string:
		return "a string"
	case bool:
		return "true or false"
	default:
		return "a number"
	}
}
