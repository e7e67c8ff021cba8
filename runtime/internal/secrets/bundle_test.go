package secrets

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestABundleIsReadAsItIsWritten(t *testing.T) {
	for _, bundle := range []Bundle{
		{Env: map[string]string{}, Files: map[string][]byte{}},
		{
			Env:   map[string]string{"EMPTY": "", "TOKEN": "a \"b\"\n\tc", "UNICODE": "é 🦊 <&>\u2028"},
			Files: map[string][]byte{"empty": {}, "tls.key": {0, 1, 0xff}, "ü": []byte("x")},
		},
	} {
		text, err := json.Marshal(bundle)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil || !reflect.DeepEqual(again, bundle) {
			t.Errorf("%s: got %v, %v", text, again, err)
		}
	}
	if text, err := json.Marshal(Bundle{Files: map[string][]byte{"a": nil}}); err != nil || string(text) != `{"env":{},"files":{"a":""}}` {
		t.Errorf("nothing: got %s, %v", text, err)
	}
}

func TestKeysMayBeAbsentAndPairsEscaped(t *testing.T) {
	got, err := Parse([]byte(` {"env": {"A": "\ud83e\udd8a\u00e9"}} `))
	if err != nil || got.Env["A"] != "🦊é" || len(got.Files) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Parse([]byte(`{}`)); err != nil {
		t.Error(err)
	}
}

func TestWhatIsWrongIsSaidWithoutValues(t *testing.T) {
	const value = "hunter2"
	long := strings.Repeat(value, MaxValue/len(value)+1)
	many := func(count int) string {
		var pairs []string
		for number := range count {
			pairs = append(pairs, fmt.Sprintf(`"N%d":"%s"`, number, value))
		}
		return strings.Join(pairs, ",")
	}
	total := make([]string, 17)
	for number := range total {
		total[number] = fmt.Sprintf(`"n%d":"%s"`, number, base64.StdEncoding.EncodeToString([]byte(long[:MaxValue])))
	}
	for text, want := range map[string]string{
		"":                                  "ends too early",
		`{"env":{"A":"hunter2"`:             "is not JSON, at byte",
		`{"env":{"A":"hunter2}`:             "ends too early",
		`{"env":{"A":hunter2}}`:             "is not JSON, at byte",
		`{"env":{"A":"hunter2\q"}}`:         "is not JSON, at byte",
		`[]`:                                "is no object",
		`null`:                              "is no object",
		`{"env":null}`:                      "env: is no object",
		`{"env":["hunter2"]}`:               "env: is no object",
		`{"env":{"A":null}}`:                `env: the value of "A" is no string`,
		`{"env":{"A":{"hunter2":1}}}`:       `env: the value of "A" is no string`,
		`{"env":{"A":["hunter2"]}}`:         `env: the value of "A" is no string`,
		`{"Env":{}}`:                        `unknown key "Env"`,
		`{"env":{},"env":{}}`:               `"env" is there twice`,
		`{"env":{"A":"","A":"hunter2"}}`:    `env: "A" is there twice`,
		`{"env":{}}{"env":{"A":"hunter2"}}`: "something follows",
		`{"env":{"A=B":"hunter2"}}`:         `"A=B" is no name of a variable`,
		`{"env":{"":"hunter2"}}`:            `"" is no name of a variable`,
		`{"env":{"A":"hunter2\u0000"}}`:     "env.A: holds a NUL",
		`{"env":{"A":"hunter2\ud83e"}}`:     "env.A: holds U+FFFD or half",
		"{\"env\":{\"A\":\"hunter2\xff\"}}": "is not UTF-8",
		`{"env":{"A":"` + long + `"}}`:      "env.A: got 65541 bytes, expected at most 65536",
		`{"files":{"A":"hunter2"}}`:         "files.A: is not base64",
		`{"files":{"A":"aHVudGVyMg=\n="}}`:  "files.A: is not base64",
		`{"files":{"A":"aHVudGVyMh=="}}`:    "files.A: is not base64",
		`{"files":{"../A":""}}`:             `"../A" is no name of a file`,
		`{"files":{"..":""}}`:               `".." is no name of a file`,
		`{"files":{"a\u0000":""}}`:          "is no name of a file",
		`{"env":{` + many(1025) + `}}`:      "env: has more than 1024 names",
		`{"env":{` + many(1000) + `},"files":{` + strings.ReplaceAll(many(25), value, "") + `}}`: "got 1025 names",
		`{"files":{` + strings.Join(total, ",") + `}}`:                                           "got 1114112 bytes of values",
		strings.Repeat(" ", MaxJSON+1):                                                           "expected at most 2097152",
		strings.Repeat(`{"env":`, 100000):                                                        "unknown",
	} {
		bundle, err := Parse([]byte(text))
		switch {
		case want == "unknown" && err != nil: // whatever it is: it ends
		case err == nil || !strings.Contains(err.Error(), want):
			t.Errorf("%.60q: got %v, %v; expected an error with %q", text, bundle, err, want)
		case strings.Contains(err.Error(), value):
			t.Errorf("%.60q: %v repeats the value", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"env":{"A":"b","C":"\ud83e\udd8a"},"files":{"d":"ZQ==","e":""}}`))
	f.Add([]byte(`{"env":{},"env":null}x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle, err := Parse(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(bundle)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil || !reflect.DeepEqual(again, bundle) {
			t.Errorf("%s: got %v, %v", text, again, err)
		}
	})
}
