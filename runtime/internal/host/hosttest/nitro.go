package hosttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// NitroCLI is a program that stands in for nitro-cli: it has its commands, its output (AWS: "Nitro Enclaves CLI
// reference") and its habit to leave a process behind, but its enclaves are files.
type NitroCLI struct {
	Path   string // of the program
	folder string
}

const standIn = `#!/bin/sh
set -eu
folder='%s'
printf '%%s\n' "$*" >>"$folder/calls"
command=$1
shift
if [ -s "$folder/fail-$command" ]; then
	cat "$folder/fail-$command" >&2
	exit 33
fi
if [ -e "$folder/answer-$command" ]; then
	cat "$folder/answer-$command"
	exit
fi
name= cid=16 memory= cpus= id=
while [ $# -gt 0 ]; do
	case $1 in
	--enclave-name) name=$2; shift ;;
	--enclave-cid) cid=$2; shift ;;
	--enclave-id) id=$2; shift ;;
	--memory) memory=$2; shift ;;
	--cpu-count) cpus=$2; shift ;;
	--eif-path) shift ;;
	--debug-mode) ;;
	*) echo "unknown argument $1" >&2; exit 2 ;;
	esac
	shift
done
case $command in
run-enclave)
	echo 'Start allocating memory...' >&2
	count=$(ls "$folder/enclaves" | wc -l)
	id=i-0123456789abcdef0-enc$$$count
	body='"EnclaveName": "'$name'", "EnclaveID": "'$id'", "ProcessID": '$$', "EnclaveCID": '$cid',
	"NumberOfCPUs": '$cpus', "CPUIDs": [1, 3], "MemoryMiB": '$memory
	printf '%%s' "$body" >"$folder/enclaves/$id"
	printf RUNNING >"$folder/states/$id"
	[ ! -e "$folder/hang" ] || exec sleep 1000
	sleep 2 & # keeps the output open
	echo "{ $body }"
	;;
describe-enclaves)
	echo '['
	comma=
	for file in "$folder"/enclaves/*; do
		[ -e "$file" ] || continue
		echo "$comma{ $(cat "$file"), \"State\": \"$(cat "$folder/states/${file##*/}")\", \"Flags\": \"NONE\","
		echo '"Measurements": { "HashAlgorithm": "Sha384 { ... }", "PCR0": "00" } }'
		comma=,
	done
	echo ']'
	;;
terminate-enclave)
	[ -e "$folder/enclaves/$id" ] || { echo '[ E11 ] Socket error' >&2; exit 11; }
	rm "$folder/enclaves/$id" "$folder/states/$id"
	echo '{ "EnclaveID": "'"$id"'", "Terminated": true }'
	;;
console)
	printf 'app: hello\033[2J\n'
	while [ -e "$folder/enclaves/$id" ]; do sleep 0.05; done
	;;
*) exit 2 ;;
esac
`

// NewNitroCLI writes the program.
func NewNitroCLI(t testing.TB) *NitroCLI {
	t.Helper()
	folder := t.TempDir()
	c := &NitroCLI{Path: filepath.Join(folder, "nitro-cli"), folder: folder}
	for _, name := range []string{"enclaves", "states"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c.write(t, "nitro-cli", fmt.Sprintf(standIn, folder))
	if err := os.Chmod(c.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *NitroCLI) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Calls are the arguments of all calls so far.
func (c *NitroCLI) Calls(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.folder, "calls"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// Running lists the ids of enclaves.
func (c *NitroCLI) Running(t testing.TB) (ids []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.folder, "enclaves"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		ids = append(ids, entry.Name())
	}
	return ids
}

// End ends all enclaves: they are gone, or listed with a state.
func (c *NitroCLI) End(t testing.TB, state string) {
	t.Helper()
	for _, id := range c.Running(t) {
		if state != "" {
			c.write(t, "states/"+id, state)
		} else if err := os.Remove(filepath.Join(c.folder, "enclaves", id)); err != nil {
			t.Fatal(err)
		}
	}
}

// Foreign adds an enclave that somebody else has started.
func (c *NitroCLI) Foreign(t testing.TB, name string) {
	t.Helper()
	id := "i-0123456789abcdef0-encforeign" + name
	c.write(t, "states/"+id, "RUNNING")
	c.write(t, "enclaves/"+id, fmt.Sprintf(`"EnclaveName": %q, "EnclaveID": %q, "EnclaveCID": 20`, name, id))
}

// Fail makes a command fail with a message, or no longer.
func (c *NitroCLI) Fail(t testing.TB, command, message string) {
	t.Helper()
	c.write(t, "fail-"+command, message)
}

// Hang makes run-enclave begin an enclave and never end.
func (c *NitroCLI) Hang(t testing.TB) {
	t.Helper()
	c.write(t, "hang", "")
}

// Answer makes a command do nothing but say something.
func (c *NitroCLI) Answer(t testing.TB, command, text string) {
	t.Helper()
	c.write(t, "answer-"+command, text)
}
