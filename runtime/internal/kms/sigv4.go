package kms

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Credentials are those of an AWS principal.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // of temporary ones; else empty
}

const (
	signing    = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
)

// sign adds the headers of AWS Signature Version 4 to a request for the path "/" without a query. All the
// headers that it has by then are signed; what a proxy may change has to be added later.
func sign(request *http.Request, body []byte, credentials Credentials, region, service string, at time.Time) {
	stamp := at.UTC().Format(timeFormat)
	scope := strings.Join([]string{stamp[:8], region, service, "aws4_request"}, "/")
	request.Header.Set("X-Amz-Date", stamp)
	if credentials.SessionToken != "" {
		request.Header.Set("X-Amz-Security-Token", credentials.SessionToken)
	}
	names, headers := canonicalHeaders(request)
	canonical := strings.Join([]string{request.Method, "/", "", headers, names, hash(string(body))}, "\n")
	key := []byte("AWS4" + credentials.SecretAccessKey)
	for _, part := range strings.Split(scope, "/") {
		key = mac(key, part)
	}
	signature := mac(key, strings.Join([]string{signing, stamp, scope, hash(canonical)}, "\n"))
	request.Header.Set("Authorization", signing+" Credential="+credentials.AccessKeyID+"/"+scope+
		", SignedHeaders="+names+", Signature="+hex.EncodeToString(signature))
}

// canonicalHeaders returns the names, sorted and joined by semicolons, and a line for each header.
func canonicalHeaders(request *http.Request) (names, lines string) {
	values := map[string]string{"host": request.URL.Host}
	for name, all := range request.Header {
		trimmed := make([]string, len(all))
		for index, value := range all {
			trimmed[index] = strings.Join(strings.Fields(value), " ")
		}
		values[strings.ToLower(name)] = strings.Join(trimmed, ",")
	}
	var sorted []string
	for name := range values {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var text strings.Builder
	for _, name := range sorted {
		text.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(sorted, ";"), text.String()
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	with := hmac.New(sha256.New, key)
	with.Write([]byte(text))
	return with.Sum(nil)
}
