package health

// Status is the state of a cage in one word.
type Status string

// The states, of which a cage has the first one that fits.
const (
	Waiting  Status = "waiting-for-secrets" // the app starts when the operator has delivered them
	Up       Status = "up"                  // every port answers
	Starting Status = "starting"            // not every port has answered yet
	Down     Status = "down"                // a port that answered doesn't
)

// Report is what both interfaces answer about a cage, as JSON.
type Report struct {
	Status         Status       `json:"status"`
	App            AppReport    `json:"app"`
	Ports          []PortReport `json:"ports"`
	MissingSecrets []string     `json:"missing_secrets"`
}

// AppReport is about the app's process.
type AppReport struct {
	Restarts int `json:"restarts"` // since the enclave has started
}

// PortReport is about one port.
type PortReport struct {
	Port    uint16 `json:"port"`
	Healthy bool   `json:"healthy"`
	Since   int64  `json:"since"` // seconds since 1970
	Error   string `json:"error"`
}

// Report puts together what is known.
func (m *Monitor) Report(restarts int, missing []string) Report {
	report := Report{
		App:            AppReport{Restarts: restarts},
		Ports:          []PortReport{},
		MissingSecrets: append([]string{}, missing...),
	}
	healthy, ever := m.State()
	switch {
	case len(missing) > 0:
		report.Status = Waiting
	case healthy:
		report.Status = Up
	case ever:
		report.Status = Down
	default:
		report.Status = Starting
	}
	for _, port := range m.Ports() {
		report.Ports = append(report.Ports, PortReport{port.Port, port.Healthy, port.Since.Unix(), port.Error})
	}
	return report
}
