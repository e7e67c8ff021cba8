// Package boot is the entry point of a cage: what init has left to do, then the app.
package boot

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"cagebuild.dev/runtime/internal/child"
	"cagebuild.dev/runtime/internal/nsm"
	"cagebuild.dev/runtime/internal/say"
	"cagebuild.dev/runtime/internal/settings"
)

const (
	resolvConf = "/run/resolvconf/resolv.conf" // the ramdisk's /etc/resolv.conf is a symlink to it
	hosts      = "/etc/hosts"
)

// Options are handed on to the data service, by its environment. What is empty isn't.
type Options struct {
	Listen string // URL at which the host reaches the guest
	Parent string // URL at which the guest reaches the host
	NSM    string // path of the device, or the URL of a stand-in
}

// The environment of the data service.
const (
	EnvListen = "CAGE_LISTEN"
	EnvParent = "CAGE_PARENT"
	EnvNSM    = "CAGE_NSM"
	EnvBoot   = "CAGE_BOOT" // the process that a signal to end everything goes to
)

func (o Options) environment() []string {
	env := []string{path, fmt.Sprintf("%s=%d", EnvBoot, os.Getpid())}
	for _, variable := range [][2]string{{EnvListen, o.Listen}, {EnvParent, o.Parent}, {EnvNSM, o.NSM}} {
		if variable[1] != "" {
			env = append(env, variable[0]+"="+variable[1])
		}
	}
	return env
}

// Run prepares the machine, has runit run the services, and returns when they have been brought down, as a
// signal asks for: with the exit status, or with an error where nothing could be started or runit failed.
func Run(options Options) (int, error) {
	signals, ends := child.Signals(), child.Ends()
	// Before anything can want a random number.
	if err := seed(options.NSM); err != nil {
		say.Line("warning: %v", err)
	}
	s, err := settings.Load(settings.Path)
	if err != nil {
		return 0, fmt.Errorf("settings: %w", err)
	}
	if err := child.Adopt(); err != nil {
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, fmt.Errorf("bring up loopback: %w", err)
	}
	if err := syscall.Sethostname([]byte(s.Name)); err != nil {
		return 0, fmt.Errorf("set host name %q: %w", s.Name, err)
	}
	if err := makeRunFolder(runFolder); err != nil {
		return 0, err
	}
	// An app that resolves no names runs well without these.
	if err := writeResolvConf(resolvConf); err != nil {
		say.Line("warning: %v", err)
	}
	if err := nameInHosts(hosts, s.Name); err != nil {
		say.Line("warning: %v", err)
	}
	say.Line("starting %s", s.Name)
	m := machine{environment: options.environment(), signals: signals, ends: ends, grace: grace}
	return m.run()
}

// seed gives the kernel random bytes of the NSM. A stand-in for it, which is on a machine that isn't the
// cage's, has none to give; and where there is no NSM that is for the data service to say, if it matters.
func seed(device string) error {
	if strings.Contains(device, "://") {
		return nil
	}
	module, err := nsm.Open(cmp.Or(device, nsm.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("NSM: %w", err)
	}
	return errors.Join(nsm.SeedKernel(module), module.Close())
}

// runFolder has the sockets and files of the runtime's services.
const runFolder = "/run/cage"

// makeRunFolder makes a folder that all may look into, whatever the umask.
func makeRunFolder(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

// writeResolvConf names the resolver inside the cage; nothing else could be reached.
func writeResolvConf(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte("nameserver 127.0.0.1\n"), 0o644)
}

// nameInHosts adds the host's own name, which programs expect to resolve.
func nameInHosts(path, name string) error {
	// Not through a symlink: /etc/hosts is the cage's own or none.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err == nil && !hasHost(string(content), name) {
		line := "127.0.0.1\t" + name + "\n"
		if len(content) > 0 && content[len(content)-1] != '\n' {
			line = "\n" + line
		}
		_, err = file.WriteString(line)
	}
	return errors.Join(err, file.Close())
}

func hasHost(content, name string) bool {
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		for index, word := range strings.Fields(line) {
			if index > 0 && word == name {
				return true
			}
		}
	}
	return false
}
