package eif_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cagebuild.dev/runtime/internal/host/eif"
	"cagebuild.dev/runtime/internal/host/hosttest"
	"cagebuild.dev/runtime/internal/settings"
)

const (
	ports = `[{"port":8080,"health":"/healthz","tls":"terminate","protocol":"http","proxy_protocol":false},
		{"port":5432,"health":null,"tls":"passthrough","protocol":"tcp","proxy_protocol":true}]`
	hosts = `[{"host":"api.example.com","port":443},{"host":"10.0.0.0/8","port":5432}]`
)

func TestEverythingIsRead(t *testing.T) {
	got, err := eif.Load(hosttest.Image(t, hosttest.Metadata(ports, hosts)))
	if err != nil {
		t.Fatal(err)
	}
	want := &eif.Cage{
		Name: "pay", Architecture: "x86_64", MemoryMiB: 512, CPUs: 2, Logs: true,
		Ingress: []settings.Ingress{
			{Port: 8080, Health: "/healthz", TLS: "terminate", Protocol: "http"},
			{Port: 5432, TLS: "passthrough", Protocol: "tcp", ProxyProtocol: true},
		},
		Egress:  []settings.Egress{{Host: "api.example.com", Port: 443}, {Host: "10.0.0.0/8", Port: 5432}},
		Secrets: settings.Secrets{Env: []string{}, Files: []string{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nexpected %+v", got, want)
	}
}

func TestAnImageOfAnotherToolIsSaidToBeOne(t *testing.T) {
	for _, metadata := range []string{
		`{"ImageName":"x"}`, `{"CustomMetadata":null}`, `{"CustomMetadata":{}}`, `{"CustomMetadata":{"cagebuild":null}}`,
	} {
		path := hosttest.Image(t, metadata)
		_, err := eif.Load(path)
		if !errors.Is(err, eif.ErrForeign) || !strings.Contains(err.Error(), path) ||
			!strings.Contains(err.Error(), "invoke build") {
			t.Errorf("%s: got %v", metadata, err)
		}
	}
}

func TestMetadataThatAreNotRightAreRefused(t *testing.T) {
	right := hosttest.Metadata(ports, hosts)
	if _, err := eif.Parse([]byte(right)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ old, new, want string }{
		"no object":          {right, `[]`, "no JSON object"},
		"cut off":            {`"logs":true}}}`, `"logs":true}`, "not JSON"},
		"something follows":  {`"logs":true}}}`, `"logs":true}}} x`, "follows"},
		"custom is a list":   {`{"cagebuild"`, `[1],"x":{"cagebuild"`, "no JSON object"},
		"another version":    {`"version":1`, `"version":2`, "version: got 2, expected 1"},
		"version as text":    {`"version":1`, `"version":"1"`, "version"},
		"without a version":  {`"version":1,`, ``, `key "version" is missing`},
		"unknown key":        {`"logs"`, `"more":1,"logs"`, `unknown key "more"`},
		"key twice":          {`"logs"`, `"name":"x","logs"`, `"name" is there twice`},
		"cagebuild twice":    {`{"cagebuild"`, `{"cagebuild":{},"cagebuild"`, "there twice"},
		"key in capitals":    {`"logs"`, `"Logs"`, `unknown key "Logs"`},
		"key is missing":     {`"cpus":2,`, ``, `key "cpus" is missing`},
		"no memory":          {`"memory_mib":512`, `"memory_mib":0`, "memory_mib"},
		"memory is a half":   {`"memory_mib":512`, `"memory_mib":1.5`, "memory_mib"},
		"too many cpus":      {`"cpus":2`, `"cpus":99999999999999999999`, "cpus"},
		"architecture":       {`"x86_64"`, `"arm"`, "architecture"},
		"a name with a path": {`"pay"`, `"../pay"`, "name"},
		"logs is a number":   {`"logs":true`, `"logs":1`, "logs"},
		"port 0":             {`"port":8080`, `"port":0`, "ingress[0].port"},
		"a port twice":       {`"port":5432,"health"`, `"port":8080,"health"`, "ingress"},
		"unknown port key":   {`"health":null`, `"health":null,"udp":true`, "ingress[1]"},
		"egress is a URL":    {`"api.example.com"`, `"API.example.com"`, "egress[0].host"},
		"secrets":            {`"files":[]`, `"files":["../x"]`, "secrets.files[0]"},
	} {
		text := strings.Replace(right, test.old, test.new, 1)
		if text == right {
			t.Fatalf("%s: nothing was replaced", name)
		}
		if got, err := eif.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %+v, %v; expected %q", name, got, err, test.want)
		}
	}
}

func TestFilesThatAreNoImagesAreRefused(t *testing.T) {
	metadata := hosttest.Section{Kind: 5, Data: []byte(hosttest.Metadata(ports, hosts))}
	right := hosttest.Build(metadata)
	change := func(at int, bytes ...byte) []byte {
		file := append([]byte(nil), right...)
		copy(file[at:], bytes)
		return file
	}
	far := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"empty":                    {nil, "is no Enclave Image File: 0 bytes"},
		"text":                     {bytes.Repeat([]byte("x"), 1000), "begins with"},
		"version 3":                {change(5, 3), "version 3"},
		"33 sections":              {change(27, 33), "33 sections"},
		"offset outside":           {change(28, far...), "not within"},
		"offset in the header":     {change(28, 0, 0, 0, 0, 0, 0, 0, 4), "not within"},
		"size outside":             {change(284, far...), "not within"},
		"sizes differ":             {change(548+11, 0), "by its own header"},
		"cut off":                  {right[:len(right)-1], "not within"},
		"no metadata":              {hosttest.Build(hosttest.Section{Kind: 1, Data: []byte("kernel")}), "no metadata section"},
		"too large":                {hosttest.Build(hosttest.Section{Kind: 5, Data: make([]byte, 9<<20)}), "at most"},
		"another architecture":     {change(7, 1), "aarch64 by its header"},
		"metadata that is no JSON": {hosttest.Build(hosttest.Section{Kind: 5, Data: []byte("{")}), "not JSON"},
	} {
		path := filepath.Join(t.TempDir(), "x.eif")
		if err := os.WriteFile(path, test.file, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := eif.Load(path)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%s: got %v, expected %q", name, err, test.want)
		}
	}
	if _, err := eif.Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a folder: got %v", err)
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(hosttest.Build(hosttest.Section{Kind: 1, Data: []byte("k")},
		hosttest.Section{Kind: 5, Data: []byte(hosttest.Metadata(ports, hosts))}))
	f.Add(hosttest.Build(hosttest.Section{Kind: 5, Data: []byte("{}")}))
	f.Fuzz(func(t *testing.T, file []byte) {
		data, _, err := eif.Metadata(bytes.NewReader(file), int64(len(file)))
		if err == nil && !bytes.Contains(file, data) {
			t.Fatalf("%q is not in the file", data)
		}
		_, _ = eif.Parse(data)
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(hosttest.Metadata(ports, hosts)))
	f.Add([]byte(`{"CustomMetadata":{"cagebuild":{"version":1}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		cage, err := eif.Parse(data)
		if err != nil {
			return
		}
		if cage.MemoryMiB < 1 || cage.CPUs < 1 || cage.Name == "" || strings.Contains(cage.Name, "/") {
			t.Fatalf("taken: %+v", cage)
		}
	})
}
