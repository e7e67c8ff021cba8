package rules

import (
	"math"
	"strings"
	"unicode/utf8"
)

// The parameters of Punycode for names (RFC 3492, section 5).
const (
	base        = 36
	threshold   = 26 // tmax
	skew        = 38
	damp        = 700
	initialBias = 72
	initialN    = 128
)

// isPunycode reports whether lower-case text, which is what follows "xn--" in a label, is the encoding of a
// label that has a character beyond ASCII. Which characters IDNA allows is the registries' to say.
func isPunycode(text string) bool {
	basic, digits := 0, text
	if at := strings.LastIndexByte(text, '-'); at >= 0 {
		basic, digits = at, text[at+1:]
	}
	if digits == "" {
		return false // nothing but ASCII
	}
	n, index, bias, count := initialN, 0, initialBias, basic
	for digits != "" {
		before := index
		delta, rest, ok := variableLength(digits, bias)
		if !ok || delta > math.MaxInt32-index {
			return false
		}
		digits = rest
		index += delta
		count++
		bias = adapt(index-before, count, before == 0)
		n += index / count
		index = index%count + 1
		if n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			return false
		}
	}
	return true
}

// variableLength reads one number (RFC 3492, section 3.3).
func variableLength(digits string, bias int) (value int, rest string, ok bool) {
	weight := 1
	for k := base; digits != ""; k += base {
		digit := digitValue(digits[0])
		digits = digits[1:]
		if digit < 0 || digit > (math.MaxInt32-value)/weight {
			return 0, "", false
		}
		value += digit * weight
		t := min(max(k-bias, 1), threshold)
		if digit < t {
			return value, digits, true
		}
		if weight > math.MaxInt32/(base-t) {
			return 0, "", false
		}
		weight *= base - t
	}
	return 0, "", false
}

func digitValue(c byte) int {
	switch {
	case 'a' <= c && c <= 'z':
		return int(c - 'a')
	case '0' <= c && c <= '9':
		return int(c-'0') + 26
	default:
		return -1
	}
}

func adapt(delta, count int, isFirst bool) int {
	if isFirst {
		delta /= damp
	} else {
		delta /= 2
	}
	delta += delta / count
	k := 0
	for ; delta > (base-1)*threshold/2; k += base {
		delta /= base - 1
	}
	return k + base*delta/(delta+skew)
}
