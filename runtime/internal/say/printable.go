package say

import (
	"fmt"
	"strconv"
	"unicode/utf8"
)

// appendPrintable appends text with everything escaped that isn't shown as itself.
func appendPrintable(to []byte, text string) []byte {
	for len(text) > 0 {
		character, size := utf8.DecodeRuneInString(text)
		to = appendCharacter(to, character, text[:size])
		text = text[size:]
	}
	return to
}

// appendCharacter appends one character, whose bytes are raw. Control characters could move the cursor,
// change what was written before or begin a line; characters of no width or of another direction make text
// look like another; bytes that aren't UTF-8 are anything. They are written as Go writes them in a string
// literal. A backslash stays as it is, for JSON is full of them.
func appendCharacter[T string | []byte](to []byte, character rune, raw T) []byte {
	switch {
	case character == utf8.RuneError && len(raw) == 1:
		return fmt.Appendf(to, `\x%02x`, raw[0])
	case character == '\t' || strconv.IsGraphic(character):
		return append(to, raw...)
	case character == '\n':
		return append(to, `\n`...)
	case character == '\r':
		return append(to, `\r`...)
	case character < utf8.RuneSelf:
		return fmt.Appendf(to, `\x%02x`, character)
	case character <= 0xFFFF:
		return fmt.Appendf(to, `\u%04x`, character)
	default:
		return fmt.Appendf(to, `\U%08x`, character)
	}
}
