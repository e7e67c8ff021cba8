package rules

import (
	"errors"
	"fmt"
	"strings"
)

// maxName and maxLabel are the limits of RFC 1035 for a name as text, without the dot of the root.
const (
	maxName  = 253
	maxLabel = 63
)

// Canonical returns a host name in the one form that is compared and sent on: lower-case, without a dot at
// the end. Labels are of letters, digits, '-' and '_'; neither first nor last a '-'. Names in other scripts
// are written as DNS has them (xn--…), and such a label has to stand for something. What could be taken for
// an address, because it ends in a number, is refused: to inet_aton 0x7f.1 is 127.0.0.1.
func Canonical(name string) (string, error) {
	name = strings.TrimSuffix(name, ".")
	switch {
	case name == "":
		return "", errors.New("is no host name: it is empty")
	case len(name) > maxName:
		return "", fmt.Errorf("is no host name: %d bytes, at most %d", len(name), maxName)
	}
	name = lower(name)
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return "", fmt.Errorf("is no host name: %w", err)
		}
		last = label
	}
	if isNumber(last) {
		return "", errors.New("is no host name: ends in a number, as only addresses do")
	}
	return name, nil
}

// lower changes ASCII alone: strings.ToLower makes a k of the Kelvin sign.
func lower(text string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, text)
}

func checkLabel(label string) error {
	if label == "" {
		return errors.New("an empty label")
	}
	if len(label) > maxLabel {
		return fmt.Errorf("a label of %d bytes, at most %d", len(label), maxLabel)
	}
	for i := range len(label) {
		switch c := label[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
		case c == '-' && i > 0 && i < len(label)-1:
		default:
			return fmt.Errorf("label %q", label)
		}
	}
	if encoded, isALabel := strings.CutPrefix(label, "xn--"); isALabel && !isPunycode(encoded) {
		return fmt.Errorf("label %q stands for nothing", label)
	}
	return nil
}

// isNumber reports whether inet_aton takes a label for a number.
func isNumber(label string) bool {
	if digits, isHex := strings.CutPrefix(label, "0x"); isHex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}
