package pid1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxStart bounds /cmd and /env. The kernel takes no longer argument vector by default (a quarter of 8 MiB).
const maxStart = 2 << 20

// start is the first process of the image.
type start struct {
	argv []string
	env  []string
}

// takeStart reads cmd and env in a folder, one item a line, and removes them. A missing or empty env means
// nothing but a PATH.
func takeStart(folder string) (start, error) {
	argv, err := takeLines(filepath.Join(folder, "cmd"))
	if err != nil {
		return start{}, err
	}
	env, err := takeLines(filepath.Join(folder, "env"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return start{}, err
	}
	if len(argv) == 0 || argv[0] == "" {
		return start{}, errors.New("/cmd is empty: the image has neither ENTRYPOINT nor CMD")
	}
	if len(env) == 0 {
		env = []string{"PATH=" + searchPath}
	}
	return start{argv: argv, env: env}, nil
}

func takeLines(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxStart+1))
	if err != nil {
		return nil, err
	}
	items, err := lines(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return items, os.Remove(path)
}

// lines splits at line feeds and nothing else. What follows the last one is an item if it isn't empty.
func lines(data []byte) ([]string, error) {
	if len(data) > maxStart {
		return nil, fmt.Errorf("larger than %d bytes", maxStart)
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, errors.New("holds a NUL byte")
	}
	items := []string{}
	for line := range bytes.Lines(data) {
		items = append(items, string(bytes.TrimSuffix(line, []byte("\n"))))
	}
	return items, nil
}
