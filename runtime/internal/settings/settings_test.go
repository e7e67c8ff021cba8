package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// cases are shared with the tests of schemas/settings.schema.json.
func cases(t testing.TB, kind string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/" + kind + "/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases of kind %s: %v", kind, err)
	}
	found := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found[filepath.Base(file)] = data
	}
	return found
}

func TestEverythingIsRead(t *testing.T) {
	got, err := Load("testdata/valid/everything.json")
	if err != nil {
		t.Fatal(err)
	}
	want := &Settings{
		Name:    "pay",
		Argv:    []string{"serve", `--say="it's 100%" $HOME`, "a\nb", "", "Grüße 日本語 😀", "\u2028<&>"},
		Groups:  []uint32{4, 4294967294},
		Env:     []string{"A=", "B=x=y", "C=two\nlines"},
		Workdir: "/srv/app data",
		Ingress: []Ingress{
			{8080, "/healthz?a=1&b=2", "terminate", "http", true}, {8443, "", "terminate", "h2c", false},
			{6379, "", "terminate", "tcp", false}, {65535, "", "passthrough", "tcp", true},
		},
		Egress: []Egress{
			{"api.example.com", 443}, {"*.example.org", 1}, {"10.0.0.0/8", 5432}, {"2001:db8::/32", 443},
		},
		Secrets: Secrets{
			Env: []string{"API_KEY", "_b2", "Path"}, Files: []string{"tls.key", "0", "A" + strings.Repeat("_", 63)},
		},
		Logs:  true,
		Epoch: 4294967295,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nexpected %+v", got, want)
	}
}

func TestValidSettingsAreTaken(t *testing.T) {
	for name, data := range cases(t, "valid") {
		if _, err := Parse(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInvalidSettingsAreRefused(t *testing.T) {
	for name, data := range cases(t, "invalid") {
		if got, err := Parse(data); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	invalid := cases(t, "invalid")
	for name, want := range map[string]string{
		"argv_with_null.json":      "argv[1]: got null, expected a string",
		"egress_as_object.json":    "egress: got an object, expected an array",
		"ingress_unknown_key.json": `ingress[0]: unknown key "udp"`,
		"key_in_another_case.json": `unknown key "Argv"`,
		"missing_uid.json":         `key "uid" is missing`,
		"port_65536.json":          "egress[0].port: got 65536, expected a whole number from 1 to 65535",
		"text_cut_off.json":        "ends too early",
		"text_key_twice.json":      `key "uid" is there twice`,
		"uid_true.json":            "uid: got true or false, expected a whole number",
		"version_1.json":           "version: got 1, expected 2",

		"epoch_33_bits.json":                 "epoch: got 4294967296, expected a whole number from 0 to 4294967295",
		"logs_as_number.json":                "logs: got a number, expected true or false",
		"port_of_the_local_api.json":         "ingress[0]: port 9001 belongs to the runtime",
		"port_twice.json":                    "ingress[1].port: 1 is there twice",
		"protocol_h2c_with_passthrough.json": `ingress[0]: got protocol "h2c", expected "tcp"`,
		"secrets_env_in_env.json":            `secrets.env[0]: "TOKEN" is in env`,
		"secrets_env_steers_the_linker.json": `secrets.env[0]: "LD_PRELOAD" decides what code the app loads`,
		"secrets_file_twice.json":            `secrets.files[1]: "a" is there twice`,
		"secrets_file_with_slash.json":       `secrets.files[0]: "a/b" is no name of a secret file`,
		"secrets_without_files.json":         `secrets: key "files" is missing`,
	} {
		if _, err := Parse(invalid[name]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, expected %s", name, err, want)
		}
	}
}

func TestAnEscapedBackslashBeforeUIsNoSurrogate(t *testing.T) {
	data := strings.Replace(string(cases(t, "valid")["least.json"]), `"/app"`, `"/app", "\\ud800"`, 1)
	got, err := Parse([]byte(data))
	if err != nil || got.Argv[1] != `\ud800` {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAFileThatIsTooLargeIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cage.json")
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, kind := range []string{"valid", "invalid"} {
		for _, data := range cases(f, kind) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		// Whatever is taken can be handed to the kernel.
		if len(s.Argv) == 0 || s.Argv[0] == "" || !strings.HasPrefix(s.Workdir, "/") || !hostname.MatchString(s.Name) {
			t.Fatalf("taken: %+v", s)
		}
		for _, text := range append(append([]string{s.Workdir}, s.Argv...), s.Env...) {
			if strings.ContainsRune(text, 0) || strings.ToValidUTF8(text, "") != text {
				t.Fatalf("taken: %q", text)
			}
		}
		given := map[string]bool{}
		for _, variable := range s.Env {
			if strings.Index(variable, "=") < 1 {
				t.Fatalf("taken: %q", variable)
			}
			name, _, _ := strings.Cut(variable, "=")
			given[name] = true
		}
		// Whatever is delivered later is new, and a plain name.
		for _, name := range s.Secrets.Env {
			if given[name] || strings.ContainsAny(name, "=\x00\n") || strings.HasPrefix(name, "LD_") {
				t.Fatalf("taken: %q", name)
			}
			given[name] = true
		}
		for _, name := range s.Secrets.Files {
			if filepath.Base(name) != name || strings.HasPrefix(name, ".") || len(name) > 64 {
				t.Fatalf("taken: %q", name)
			}
		}
		for _, rule := range s.Ingress {
			if rule.Port == 0 || rule.TLS == "passthrough" && rule.Protocol != "tcp" {
				t.Fatalf("taken: %+v", rule)
			}
		}
		if s.Epoch < 0 || s.Epoch >= 1<<32 {
			t.Fatalf("taken: %d", s.Epoch)
		}
	})
}
