package client

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cagebuild.dev/runtime/internal/host/journal"
)

// States that a guest may be in. Only Up means that clients are served.
const (
	Up                = "up"
	Starting          = "starting"
	WaitingForSecrets = "waiting-for-secrets"
	Down              = "down"
)

const (
	maxPorts   = 1 << 10
	maxMissing = 1 << 10
	maxText    = 300
)

// Health is what a guest says of its app.
type Health struct {
	Status         string   `json:"status"`
	App            App      `json:"app"`
	Ports          []Port   `json:"ports"`
	MissingSecrets []string `json:"missing_secrets"`
}

// App is the app's service.
type App struct {
	Restarts int64 `json:"restarts"`
}

// Port is a port of the app.
type Port struct {
	Port    uint16 `json:"port"`
	Healthy bool   `json:"healthy"`
	Since   int64  `json:"since"` // seconds since 1970
	Error   string `json:"error"`
}

// ParseHealth reads a guest's answer. Its texts come out printable and bounded; keys that aren't known are left out,
// for a newer guest may say more.
func ParseHealth(data []byte) (*Health, error) {
	var health Health
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&health); err != nil {
		return nil, fmt.Errorf("the guest's health: %s", describe(err))
	}
	if !slices.Contains([]string{Up, Starting, WaitingForSecrets, Down}, health.Status) {
		return nil, fmt.Errorf("the guest's health: status %.100q is none that is known", health.Status)
	}
	if len(health.Ports) > maxPorts || len(health.MissingSecrets) > maxMissing {
		return nil, errors.New("the guest's health: too many ports or secrets")
	}
	health.App.Restarts = max(0, health.App.Restarts)
	for index := range health.Ports {
		health.Ports[index].Error = short(health.Ports[index].Error)
	}
	for index, name := range health.MissingSecrets {
		health.MissingSecrets[index] = short(name)
	}
	return &health, nil
}

func short(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return journal.Printable(text)
}

// cleanRequest checks a certificate signing request and writes it anew, so that nothing comes along with it.
func cleanRequest(data []byte) ([]byte, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("the guest's answer is no certificate signing request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the guest's certificate signing request: %s", describe(err))
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the guest's certificate signing request: %s", describe(err))
	}
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}), nil
}

// Text is what people read: one line for each thing that there is to say beside the status.
func (h *Health) Text() string {
	var out strings.Builder
	if h.App.Restarts > 0 {
		fmt.Fprintf(&out, "app: %d restarts\n", h.App.Restarts)
	}
	for _, port := range h.Ports {
		if port.Healthy {
			fmt.Fprintf(&out, "port %d: healthy\n", port.Port)
		} else {
			fmt.Fprintf(&out, "port %d: not healthy: %s\n", port.Port, port.Error)
		}
	}
	for _, name := range h.MissingSecrets {
		fmt.Fprintf(&out, "secret is missing: %s\n", name)
	}
	return out.String()
}

// Line is the same on one line.
func (h *Health) Line() string {
	rest := strings.TrimSpace(h.Text())
	if rest == "" {
		return h.Status
	}
	return h.Status + "; " + strings.ReplaceAll(rest, "\n", "; ")
}
