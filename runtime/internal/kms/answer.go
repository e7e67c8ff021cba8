package kms

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode"
)

// maxText is how much of a text of KMS is passed on.
const maxText = 1024

// serviceError reads an error of AWS's JSON protocol: its type is in a header or in the body, with a name
// space before a '#' and a URL after a ':'.
func serviceError(answer *http.Response, text []byte) *ServiceError {
	var body struct {
		Type    string `json:"__type"`
		Message string `json:"message"` // or Message: encoding/json doesn't tell them apart
	}
	if err := json.Unmarshal(text, &body); err != nil {
		body.Message = "the answer isn't JSON"
	}
	kind := answer.Header.Get("X-Amzn-Errortype")
	if kind == "" {
		kind = body.Type
	}
	if _, after, found := strings.Cut(kind, "#"); found {
		kind = after
	}
	kind, _, _ = strings.Cut(kind, ":")
	if kind == "" {
		kind = http.StatusText(answer.StatusCode)
	}
	return &ServiceError{
		Status:    answer.StatusCode,
		Type:      printable(kind),
		Message:   printable(body.Message),
		RequestID: printable(answer.Header.Get("X-Amzn-Requestid")),
	}
}

// printable is the start of a text from the network, fit for a log line.
func printable(text string) string {
	shown := strings.Map(func(char rune) rune {
		if !unicode.IsPrint(char) {
			return '?'
		}
		return char
	}, text)
	if len(shown) > maxText {
		shown = strings.ToValidUTF8(shown[:maxText], "")
	}
	return shown
}
