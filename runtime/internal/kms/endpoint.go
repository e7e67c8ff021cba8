package kms

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

var region = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]{2,16}){1,3}-[0-9]{1,2}$`)

// domains are those of AWS's partitions, by the start of their regions' names; the others have the first's.
var domains = []struct{ regions, domain string }{
	{"cn-", "amazonaws.com.cn"},
	{"eusc-", "amazonaws.eu"},
}

// endpoint is a server of KMS.
type endpoint struct {
	host string // a lower-case name or an address
	port uint16
}

// parseEndpoint returns the endpoint of a region, or the one that text names.
func parseEndpoint(text, ofRegion string) (endpoint, error) {
	switch {
	case !region.MatchString(ofRegion):
		return endpoint{}, fmt.Errorf("region: %.64q is none", ofRegion)
	case text != "":
		return parseURL(text)
	case strings.Contains(ofRegion, "-iso"):
		return endpoint{}, fmt.Errorf("endpoint: the one of %s isn't known, it has to be given", ofRegion)
	}
	domain := "amazonaws.com"
	for _, partition := range domains {
		if strings.HasPrefix(ofRegion, partition.regions) {
			domain = partition.domain
		}
	}
	return endpoint{host: "kms." + ofRegion + "." + domain, port: 443}, nil
}

func parseURL(text string) (endpoint, error) {
	if len(text) > 512 {
		return endpoint{}, errors.New("endpoint: longer than 512 bytes")
	}
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "https" || parsed.Hostname() == "" {
		return endpoint{}, fmt.Errorf("endpoint: %q is not https://HOST or https://HOST:PORT", text)
	}
	if parsed.User != nil || strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "" {
		return endpoint{}, fmt.Errorf("endpoint: %q has more than a host and a port", text)
	}
	found := endpoint{host: strings.ToLower(parsed.Hostname()), port: 443}
	if given := parsed.Port(); given != "" {
		port, err := strconv.ParseUint(given, 10, 16)
		if err != nil || port == 0 {
			return endpoint{}, fmt.Errorf("endpoint: %q has no port from 1 to 65535", text)
		}
		found.port = uint16(port)
	}
	return found, nil
}

// String is host:port, as rules of egress are written.
func (e endpoint) String() string {
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// url leaves the usual port out, as it is left out of what gets signed.
func (e endpoint) url() string {
	if e.port != 443 {
		return "https://" + e.String() + "/"
	}
	if strings.Contains(e.host, ":") {
		return "https://[" + e.host + "]/"
	}
	return "https://" + e.host + "/"
}
