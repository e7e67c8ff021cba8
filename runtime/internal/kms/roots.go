package kms

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Roots returns what loads the certificate authorities that the image trusts: those of the file that
// SSL_CERT_FILE names in the app's environment, else those of the usual places. All of that is measured.
func Roots(env []string) func() (*x509.CertPool, error) {
	for _, variable := range env {
		if path, found := strings.CutPrefix(variable, "SSL_CERT_FILE="); found {
			return func() (*x509.CertPool, error) { return rootsOf(path) }
		}
	}
	return systemRoots
}

func rootsOf(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities (SSL_CERT_FILE): %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("certificate authorities (SSL_CERT_FILE): no certificate in %s", path)
	}
	return pool, nil
}

func systemRoots() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificate authorities: %w", err)
	}
	if pool.Equal(x509.NewCertPool()) {
		return nil, errors.New("certificate authorities: the image has none; " +
			"add the package ca-certificates, or name a file by SSL_CERT_FILE")
	}
	return pool, nil
}
