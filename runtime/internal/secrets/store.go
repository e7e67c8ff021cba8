package secrets

import (
	"bytes"
	"crypto/hpke"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Store holds what has been delivered, and the key that bundles are sealed to. Its methods may be called at
// the same time.
type Store struct {
	env   []string // names that the cage lists, sorted
	files []string
	key   hpke.PrivateKey

	mutex sync.Mutex
	kept  Bundle
}

// NewStore makes an empty store for the names that a cage lists, and a key that lives as long as it does.
func NewStore(env, files []string) (*Store, error) {
	if len(env)+len(files) > maxNames {
		return nil, fmt.Errorf("secrets: got %d names, expected at most %d", len(env)+len(files), maxNames)
	}
	for _, name := range env {
		if err := checkVariable(name); err != nil {
			return nil, fmt.Errorf("secrets: env: %w", err)
		}
	}
	for _, name := range files {
		if err := checkFile(name); err != nil {
			return nil, fmt.Errorf("secrets: files: %w", err)
		}
	}
	key, err := generateKey()
	if err != nil {
		return nil, err
	}
	return &Store{
		env:   slices.Sorted(slices.Values(env)),
		files: slices.Sorted(slices.Values(files)),
		key:   key,
		kept:  Bundle{Env: map[string]string{}, Files: map[string][]byte{}},
	}, nil
}

// Missing returns the names that have no value yet: first variables, then files, as the cage lists them.
func (s *Store) Missing() []string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.missing()
}

func (s *Store) missing() []string {
	missing := []string{}
	for _, name := range s.env {
		if _, found := s.kept.Env[name]; !found {
			missing = append(missing, name)
		}
	}
	for _, name := range s.files {
		if _, found := s.kept.Files[name]; !found {
			missing = append(missing, name)
		}
	}
	return missing
}

// Deliver takes all values of a bundle, or none of them if anything is wrong with it. Names that it doesn't
// hold keep their values. changed says that there is a value that wasn't there: an app that runs has to be
// started again to see it.
func (s *Store) Deliver(bundle Bundle) (changed bool, err error) {
	if err := bundle.check(); err != nil {
		return false, err
	}
	if err := s.checkListed(bundle); err != nil {
		return false, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	next := Bundle{Env: maps.Clone(s.kept.Env), Files: maps.Clone(s.kept.Files)}
	for name, value := range bundle.Env {
		old, found := next.Env[name]
		changed = changed || !found || old != value
		next.Env[name] = value
	}
	for name, value := range bundle.Files {
		old, found := next.Files[name]
		changed = changed || !found || !bytes.Equal(old, value)
		next.Files[name] = bytes.Clone(value)
	}
	if total := next.size(); total > MaxTotal {
		return false, fmt.Errorf("with what is kept already: got %d bytes of values, expected at most %d", total, MaxTotal)
	}
	s.kept = next
	return changed, nil
}

func (s *Store) checkListed(bundle Bundle) error {
	for _, name := range sorted(bundle.Env) {
		if _, listed := slices.BinarySearch(s.env, name); !listed {
			return fmt.Errorf("env.%s: the cage lists no such name", name)
		}
	}
	for _, name := range sorted(bundle.Files) {
		if _, listed := slices.BinarySearch(s.files, name); !listed {
			return fmt.Errorf("files.%s: the cage lists no such name", name)
		}
	}
	return nil
}

// PublicKey is what Seal wants; it goes into the attestation document.
func (s *Store) PublicKey() []byte {
	return s.key.PublicKey().Bytes()
}

// Open decrypts a sealed bundle. The result is JSON for Parse, if whoever sealed it kept to that: anybody
// can seal.
func (s *Store) Open(sealed []byte) ([]byte, error) {
	opened, err := open(s.key, sealed)
	if err != nil {
		return nil, fmt.Errorf("sealed secrets: %w", err)
	}
	return opened, nil
}

// DeliverBody takes a bundle as it is sent: JSON, or sealed.
func (s *Store) DeliverBody(mediaType string, body []byte) (changed bool, err error) {
	switch mediaType {
	case MediaTypeJSON:
	case MediaTypeSealed:
		if body, err = s.Open(body); err != nil {
			return false, err
		}
	default:
		return false, fmt.Errorf("got %.64q, expected %s or %s", mediaType, MediaTypeJSON, MediaTypeSealed)
	}
	bundle, err := Parse(body)
	if err != nil {
		return false, fmt.Errorf("bundle: %w", err)
	}
	return s.Deliver(bundle)
}

// all returns what the app gets: everything, or nothing while a name is missing.
func (s *Store) all() (Bundle, []string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if missing := s.missing(); len(missing) > 0 {
		return Bundle{}, missing
	}
	return Bundle{Env: maps.Clone(s.kept.Env), Files: maps.Clone(s.kept.Files)}, nil
}
