package data

import (
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/secrets"
)

// vault takes the secrets that the operator delivers. An app that runs has to be started again to see new
// values: neither its environment nor who may write to its folder can be changed from outside.
type vault struct {
	store   *secrets.Store
	restart func() // of the app
}

func (v *vault) PublicKey() []byte { return v.store.PublicKey() }

func (v *vault) Deliver(mediaType string, body []byte) error {
	complete := len(v.store.Missing()) == 0
	changed, err := v.store.DeliverBody(mediaType, body)
	if err != nil {
		return err
	}
	switch missing := len(v.store.Missing()); {
	case missing > 0:
		say.Line("data: secrets were delivered; %d are missing", missing)
	case !complete:
		say.Line("data: all secrets are delivered")
	case changed:
		say.Line("data: other secrets were delivered: starting the app again")
		v.restart()
	}
	return nil
}
