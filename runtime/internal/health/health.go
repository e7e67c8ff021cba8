// Package health finds out whether the app answers at its ports.
//
// A port with a health path is asked by HTTP, as often as a load balancer would, and is well when the answer's
// status is 2xx; another one is well when it takes a connection. Nothing of an answer but its status is used:
// the app may be anything.
package health

import (
	"context"
	"sync"
	"time"

	"cagebuild.dev/runtime/internal/settings"
)

const (
	interval = 5 * time.Second
	timeout  = 3 * time.Second

	// A port that wasn't well yet is asked more often, for so long.
	impatient = 200 * time.Millisecond
	patience  = 30 * time.Second
)

// Port is what is known of one port.
type Port struct {
	Port    uint16
	Healthy bool
	Since   time.Time // of Healthy as it is
	Error   string    // what is wrong; empty if it is healthy
}

// Monitor asks the ports of an app.
type Monitor struct {
	probes []*probe

	mutex sync.Mutex
	ports []Port
	well  bool // all ports were healthy once
}

// New returns a Monitor for the published ports of a cage. It does nothing until Run is called.
func New(ingress []settings.Ingress) *Monitor {
	m := &Monitor{well: len(ingress) == 0}
	for _, port := range ingress {
		m.probes = append(m.probes, newProbe(port))
		m.ports = append(m.ports, Port{Port: port.Port, Since: time.Now(), Error: "not asked yet"})
	}
	return m
}

// Run asks all ports until the context ends.
func (m *Monitor) Run(ctx context.Context) {
	var group sync.WaitGroup
	for index, probe := range m.probes {
		group.Go(func() { m.watch(ctx, index, probe) })
	}
	group.Wait()
}

func (m *Monitor) watch(ctx context.Context, index int, probe *probe) {
	defer probe.close()
	start := time.Now()
	for well := false; ; {
		err := probe.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		m.note(index, err)
		well = well || err == nil
		pause := interval
		if !well && time.Since(start) < patience {
			pause = impatient
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (m *Monitor) note(index int, err error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	port := &m.ports[index]
	if healthy := err == nil; healthy != port.Healthy {
		port.Healthy, port.Since = healthy, time.Now()
	}
	port.Error = ""
	if err != nil {
		port.Error = err.Error()
	}
	m.well = m.well || m.allHealthy()
}

func (m *Monitor) allHealthy() bool {
	for _, port := range m.ports {
		if !port.Healthy {
			return false
		}
	}
	return true
}

// Ports returns what is known of every port, in the settings' order.
func (m *Monitor) Ports() []Port {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return append([]Port(nil), m.ports...)
}

// State says whether all ports are healthy now, and whether they ever were at one time.
func (m *Monitor) State() (healthy, ever bool) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.allHealthy(), m.well
}
