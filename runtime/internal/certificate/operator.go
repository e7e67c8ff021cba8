package certificate

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Limits of what an operator may ask for and give.
const (
	MaxNames = 100      // names of a request
	MaxChain = 10       // certificates
	MaxPEM   = 64 << 10 // bytes of a chain
)

const maxName = 253

var dnsName = regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Request makes a certificate signing request (PKCS #10, PEM) for host names and addresses. A name may begin
// with "*.".
func (s *Store) Request(names []string) ([]byte, error) {
	if len(names) == 0 || len(names) > MaxNames {
		return nil, fmt.Errorf("certificate request: %d names, expected 1 to %d", len(names), MaxNames)
	}
	template := &x509.CertificateRequest{}
	for _, name := range names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
			continue
		}
		lower := strings.ToLower(name)
		if len(lower) > maxName || !dnsName.MatchString(lower) {
			return nil, fmt.Errorf("certificate request: %.100q is neither a host name nor an address", name)
		}
		template.DNSNames = append(template.DNSNames, lower)
	}
	const maxCommonName = 64
	if len(template.DNSNames) > 0 && len(template.DNSNames[0]) <= maxCommonName {
		template.Subject = pkix.Name{CommonName: template.DNSNames[0]}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, s.key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Install takes the chain (PEM) that an authority made of a request: the certificate for the enclave's key
// first, then each one that signed the one before; the root may be left out. It replaces what was installed
// before. Nobody is trusted by this: who may call it decides what names the enclave serves.
func (s *Store) Install(chain []byte) error {
	certificates, err := parseChain(chain)
	if err != nil {
		return fmt.Errorf("certificate chain: %w", err)
	}
	if err := s.checkChain(certificates); err != nil {
		return fmt.Errorf("certificate chain: %w", err)
	}
	installed := &tls.Certificate{PrivateKey: s.key, Leaf: certificates[0]}
	for _, certificate := range certificates {
		installed.Certificate = append(installed.Certificate, certificate.Raw)
	}
	s.installed.Store(installed)
	return nil
}

func parseChain(text []byte) ([]*x509.Certificate, error) {
	if len(text) > MaxPEM {
		return nil, fmt.Errorf("has %d bytes, at most %d", len(text), MaxPEM)
	}
	// The decoder skips what it can't read, which must not make a part of a chain a chain.
	begun := bytes.Count(text, []byte("-----BEGIN "))
	if begun > MaxChain {
		return nil, fmt.Errorf("has %d blocks, at most %d", begun, MaxChain)
	}
	certificates := []*x509.Certificate{}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, errors.New("holds a private key: send certificates alone, the key is in the enclave")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %.50q, expected certificates alone", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certificates)+1, err)
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) != begun || begun == 0 {
		return nil, fmt.Errorf("%d PEM blocks begin, %d certificates could be read", begun, len(certificates))
	}
	return certificates, nil
}

func (s *Store) checkChain(chain []*x509.Certificate) error {
	if !s.key.PublicKey.Equal(chain[0].PublicKey) {
		return errors.New("the first certificate is not for this enclave's key: ask for a new request, " +
			"for each start of the enclave has a key of its own")
	}
	if err := checkUse(chain[0]); err != nil {
		return err
	}
	now := s.now()
	for index, certificate := range chain {
		if now.Before(certificate.NotBefore) || now.After(certificate.NotAfter) {
			return fmt.Errorf("certificate %d is valid from %s to %s, now it is %s", index+1,
				certificate.NotBefore.Format(time.RFC3339), certificate.NotAfter.Format(time.RFC3339),
				now.UTC().Format(time.RFC3339))
		}
		if index+1 < len(chain) {
			if err := certificate.CheckSignatureFrom(chain[index+1]); err != nil {
				return fmt.Errorf("certificate %d is not signed by the next one: %w", index+1, err)
			}
		}
	}
	return nil
}

// checkUse looks for what clients would refuse.
func checkUse(leaf *x509.Certificate) error {
	if leaf.IsCA {
		return errors.New("the first certificate is that of an authority")
	}
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		return errors.New("the first certificate has no subject alternative names")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("the first certificate's key may not sign, which TLS takes")
	}
	limited := len(leaf.ExtKeyUsage) > 0 || len(leaf.UnknownExtKeyUsage) > 0
	if limited && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) &&
		!slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("the first certificate is not for servers")
	}
	return nil
}
