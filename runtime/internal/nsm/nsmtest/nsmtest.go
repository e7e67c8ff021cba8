// Package nsmtest is a stand-in for the Nitro Secure Module, for tests: it listens on a unix socket and signs
// documents as the device does, with a chain of certificates of its own.
package nsmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/cbor"
	"cagebuild.dev/runtime/internal/nsm"
)

// ModuleID is what documents name.
const ModuleID = "i-0123456789abcdef0-enc0123456789abcdef"

// registers is how many there are; the first sixteen are locked, as in an enclave.
const (
	registers = 32
	locked    = 16
)

// Server is a stand-in. What it answers may be changed at any time.
type Server struct {
	Root *x509.Certificate // whom a verifier trusts instead of AWS

	listener net.Listener
	under    sync.WaitGroup
	chain    [][]byte // DER, root first, without the one that signs documents
	leaf     []byte
	key      *ecdsa.PrivateKey

	mutex sync.Mutex
	pcrs  [registers][]byte
	now   func() time.Time
	fail  nsm.Error
	conns map[net.Conn]bool
	count int
}

// Listen makes a stand-in that answers at a unix socket.
func Listen(path string) (*Server, error) {
	s, err := New()
	if err != nil {
		return nil, err
	}
	return s, s.Listen(path)
}

// New makes one that doesn't listen yet.
func New() (*Server, error) {
	s := &Server{now: time.Now, conns: map[net.Conn]bool{}}
	for index := range s.pcrs {
		s.pcrs[index] = make([]byte, sha512.Size384)
	}
	return s, s.makeChain()
}

// Listen begins to answer at a unix socket.
func (s *Server) Listen(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	s.listener = listener
	s.under.Go(s.accept)
	return nil
}

// URL is what nsm.Open takes.
func (s *Server) URL() string { return "unix://" + s.listener.Addr().String() }

// Close ends it all.
func (s *Server) Close() {
	_ = s.listener.Close()
	s.mutex.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mutex.Unlock()
	s.under.Wait()
}

// SetPCR sets a register.
func (s *Server) SetPCR(index int, value []byte) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.pcrs[index] = value
}

// SetClock sets what documents have for their time.
func (s *Server) SetClock(now func() time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.now = now
}

// Fail makes every answer an error, until it is called with none ("").
func (s *Server) Fail(with nsm.Error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.fail = with
}

// Documents is how many have been signed.
func (s *Server) Documents() int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.count
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mutex.Lock()
		s.conns[conn] = true
		s.mutex.Unlock()
		s.under.Go(func() { s.serve(conn) })
	}
}

func (s *Server) serve(conn net.Conn) {
	defer func() {
		s.mutex.Lock()
		delete(s.conns, conn)
		s.mutex.Unlock()
		_ = conn.Close()
	}()
	for {
		request, err := nsm.ReadFrame(conn, nsm.MaxRequest)
		if err != nil {
			return
		}
		response, err := cbor.Encode(s.answer(request))
		if err != nil || nsm.WriteFrame(conn, response) != nil {
			return
		}
	}
}

func failure(name nsm.Error) cbor.Map {
	return cbor.Map{{Key: "Error", Value: string(name)}}
}

func (s *Server) answer(request []byte) cbor.Map {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.fail != "" {
		return failure(s.fail)
	}
	message, err := cbor.Decode(request)
	if err != nil {
		return failure(nsm.InvalidArgument)
	}
	operation, arguments := split(message)
	var answer cbor.Map
	switch operation {
	case "DescribeNSM":
		answer = describe()
	case "DescribePCR":
		index, isNumber := value(arguments, "index").(uint64)
		if !isNumber || index >= registers {
			return failure(nsm.InvalidIndex)
		}
		answer = cbor.Map{{Key: "lock", Value: index < locked}, {Key: "data", Value: s.pcrs[index]}}
	case "GetRandom":
		random := make([]byte, 256)
		_, _ = rand.Read(random) // never fails
		answer = cbor.Map{{Key: "random", Value: random}}
	case "Attestation":
		document, err := s.document(arguments)
		if err != nil {
			return failure(nsm.InvalidArgument)
		}
		s.count++
		answer = cbor.Map{{Key: "document", Value: document}}
	default:
		return failure(nsm.InvalidOperation)
	}
	return cbor.Map{{Key: operation, Value: answer}}
}

func split(message any) (operation string, arguments cbor.Map) {
	switch message := message.(type) {
	case string:
		return message, nil
	case cbor.Map:
		if len(message) == 1 {
			operation, _ = message[0].Key.(string)
			arguments, _ = message[0].Value.(cbor.Map)
		}
	}
	return operation, arguments
}

func value(arguments cbor.Map, name string) any {
	found, _ := arguments.Get(name)
	return found
}

func describe() cbor.Map {
	indices := []any{}
	for index := range uint64(locked) {
		indices = append(indices, index)
	}
	return cbor.Map{
		{Key: "version_major", Value: uint64(1)},
		{Key: "version_minor", Value: uint64(0)},
		{Key: "version_patch", Value: uint64(0)},
		{Key: "module_id", Value: ModuleID},
		{Key: "max_pcrs", Value: uint64(registers)},
		{Key: "locked_pcrs", Value: indices},
		{Key: "digest", Value: "SHA384"},
	}
}

// document makes a COSE_Sign1 (RFC 9052, section 4) with ES384.
func (s *Server) document(arguments cbor.Map) ([]byte, error) {
	for name, most := range map[string]int{
		"nonce": nsm.MaxNonce, "user_data": nsm.MaxUserData, "public_key": nsm.MaxPublicKey,
	} {
		given := value(arguments, name)
		if data, isBytes := given.([]byte); given != nil && !isBytes || len(data) > most {
			return nil, fmt.Errorf("%s is no byte string of up to %d", name, most)
		}
	}
	pcrs, bundle := cbor.Map{}, []any{}
	for index := range uint64(locked) {
		pcrs = append(pcrs, cbor.Pair{Key: index, Value: s.pcrs[index]})
	}
	for _, certificate := range s.chain {
		bundle = append(bundle, certificate)
	}
	payload, err := cbor.Encode(cbor.Map{
		{Key: "module_id", Value: ModuleID},
		{Key: "digest", Value: "SHA384"},
		{Key: "timestamp", Value: uint64(s.now().UnixMilli())},
		{Key: "pcrs", Value: pcrs},
		{Key: "certificate", Value: s.leaf},
		{Key: "cabundle", Value: bundle},
		{Key: "public_key", Value: value(arguments, "public_key")},
		{Key: "user_data", Value: value(arguments, "user_data")},
		{Key: "nonce", Value: value(arguments, "nonce")},
	})
	if err != nil {
		return nil, err
	}
	protected, err := cbor.Encode(cbor.Map{{Key: uint64(1), Value: int64(es384)}})
	if err != nil {
		return nil, err
	}
	sum, err := digest(protected, payload)
	if err != nil {
		return nil, err
	}
	r, v, err := ecdsa.Sign(rand.Reader, s.key, sum)
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 2*coordinate)
	r.FillBytes(signature[:coordinate])
	v.FillBytes(signature[coordinate:])
	return cbor.Encode([]any{protected, cbor.Map{}, payload, signature})
}

const (
	es384      = -35 // the algorithm's number (RFC 9053)
	coordinate = 48  // bytes of a number of the curve P-384
)

// digest is what is signed: the hash of the Sig_structure.
func digest(protected, payload []byte) ([]byte, error) {
	signed, err := cbor.Encode([]any{"Signature1", protected, []byte{}, payload})
	sum := sha512.Sum384(signed)
	return sum[:], err
}

// makeChain makes a root, an authority that it signs, and whose key signs documents.
func (s *Server) makeChain() error {
	var parent *x509.Certificate
	var signer *ecdsa.PrivateKey
	for depth, name := range []string{"stand-in.nitro-enclaves", "stand-in authority", ModuleID} {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return err
		}
		isAuthority := depth < 2
		template := &x509.Certificate{
			SerialNumber:          big.NewInt(int64(depth + 1)),
			Subject:               pkix.Name{CommonName: name},
			NotBefore:             time.Now().Add(-time.Hour),
			NotAfter:              time.Now().Add(3 * time.Hour),
			BasicConstraintsValid: true,
			IsCA:                  isAuthority,
			MaxPathLen:            1 - depth,
			MaxPathLenZero:        true,
			KeyUsage:              x509.KeyUsageDigitalSignature,
		}
		if isAuthority {
			template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		} else {
			template.MaxPathLen, template.MaxPathLenZero = 0, false
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			return err
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return err
		}
		signer = key
		switch {
		case depth == 0:
			s.Root = parent
			s.chain = append(s.chain, der)
		case isAuthority:
			s.chain = append(s.chain, der)
		default:
			s.leaf, s.key = der, key
		}
	}
	return nil
}

// Document is what a document says, as far as it is verified.
type Document struct {
	Time      time.Time
	PCRs      map[uint64][]byte
	PublicKey []byte
	UserData  []byte
	Nonce     []byte
}

// Verify checks a document's form, chain and signature, at the document's own time.
func Verify(document []byte, root *x509.Certificate) (*Document, error) {
	outer, err := cbor.Decode(document)
	if err != nil {
		return nil, err
	}
	parts, _ := outer.([]any)
	if len(parts) != 4 {
		return nil, errors.New("no COSE_Sign1")
	}
	protected, _ := parts[0].([]byte)
	encoded, _ := parts[2].([]byte)
	signature, _ := parts[3].([]byte)
	if string(protected) != "\xa1\x01\x38\x22" || len(signature) != 2*coordinate {
		return nil, errors.New("not signed with ES384")
	}
	inner, err := cbor.Decode(encoded)
	if err != nil {
		return nil, err
	}
	payload, _ := inner.(cbor.Map)
	made, err := nsm.Timestamp(document)
	if err != nil {
		return nil, err
	}
	key, err := verifyChain(payload, root, made)
	if err != nil {
		return nil, err
	}
	sum, err := digest(protected, encoded)
	if err != nil {
		return nil, err
	}
	der, err := asn1.Marshal([]*big.Int{
		new(big.Int).SetBytes(signature[:coordinate]), new(big.Int).SetBytes(signature[coordinate:]),
	})
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(key, sum, der) {
		return nil, errors.New("the signature is wrong")
	}
	result := &Document{Time: made, PCRs: map[uint64][]byte{}}
	pcrs, _ := value(payload, "pcrs").(cbor.Map)
	for _, pair := range pcrs {
		index, isNumber := pair.Key.(uint64)
		register, isBytes := pair.Value.([]byte)
		if !isNumber || !isBytes {
			return nil, errors.New("a register is no number and bytes")
		}
		result.PCRs[index] = register
	}
	result.PublicKey, _ = value(payload, "public_key").([]byte)
	result.UserData, _ = value(payload, "user_data").([]byte)
	result.Nonce, _ = value(payload, "nonce").([]byte)
	return result, nil
}

func verifyChain(payload cbor.Map, root *x509.Certificate, at time.Time) (*ecdsa.PublicKey, error) {
	der, _ := value(payload, "certificate").([]byte)
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	bundle, _ := value(payload, "cabundle").([]any)
	for _, item := range bundle {
		der, _ := item.([]byte)
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		between.AddCert(certificate)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return nil, err
	}
	key, isECDSA := leaf.PublicKey.(*ecdsa.PublicKey)
	if !isECDSA || key.Curve != elliptic.P384() {
		return nil, errors.New("the key is not of P-384")
	}
	return key, nil
}
