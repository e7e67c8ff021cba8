package settings

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Secrets names what the operator delivers after boot. Values are not measured, and the app starts when all of them
// are there.
type Secrets struct {
	Env   []string // environment variables of the app; none is in Settings.Env
	Files []string // names of files below /run/secrets
}

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	fileName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// Whoever delivers a secret must not get to choose what code the app runs, for the code is measured and the value is
// not. So no secret has a name by which the dynamic linker, libc, a shell or the interpreter of a language finds code
// to load or hosts to trust. The first group is what glibc itself ignores in set-user-ID programs
// (sysdeps/generic/unsecvars.h), and musl's one of that kind. It cannot be complete: an app that runs what a variable
// says must not have that variable as a secret.
var (
	steeringPrefixes = []string{"LD_", "MALLOC_"}
	steeringNames    = []string{
		"GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "MUSL_LOCPATH", "NIS_PATH",
		"NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZDIR",
		"BASH_ENV", "ENV", "HOME", "IFS", "PATH", "SHELLOPTS",
		"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "NODE_OPTIONS", "NODE_PATH", "PERL5LIB",
		"PERL5OPT", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "RUBYLIB", "RUBYOPT",
	}
)

func secrets(r *reader) (s Secrets) {
	r.object(map[string]func(){
		"env":   func() { s.Env = list(r, func() string { return r.text(secretVariable) }) },
		"files": func() { s.Files = list(r, func() string { return r.text(secretFile) }) },
	})
	return s
}

func secretVariable(text string) string {
	if !variableName.MatchString(text) {
		return "is no name of a variable: letters, digits and '_', no digit first"
	}
	steers := func(prefix string) bool { return strings.HasPrefix(text, prefix) }
	if slices.Contains(steeringNames, text) || slices.ContainsFunc(steeringPrefixes, steers) {
		return "decides what code the app loads, so it cannot be a secret"
	}
	return ""
}

func secretFile(text string) string {
	if !fileName.MatchString(text) {
		return "is no name of a secret file: up to 64 letters, digits, '.', '_' and '-', a letter or digit first"
	}
	return ""
}

// conflict says what is wrong with settings whose keys are all right by themselves.
func conflict(s *Settings) error {
	taken := map[string]bool{}
	for _, variable := range s.Env {
		name, _, _ := strings.Cut(variable, "=")
		taken[name] = true
	}
	for at, name := range s.Secrets.Env {
		if taken[name] {
			return fmt.Errorf("secrets.env[%d]: %.200q is in env, or there twice", at, name)
		}
		taken[name] = true
	}
	files := map[string]bool{}
	for at, name := range s.Secrets.Files {
		if files[name] {
			return fmt.Errorf("secrets.files[%d]: %q is there twice", at, name)
		}
		files[name] = true
	}
	ports := map[uint16]bool{}
	for at, rule := range s.Ingress {
		if ports[rule.Port] {
			return fmt.Errorf("ingress[%d].port: %d is there twice", at, rule.Port)
		}
		ports[rule.Port] = true
	}
	return nil
}
