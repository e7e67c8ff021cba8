// Linuxkit stands in for the program of that name that nitro-cli runs to make its two ramdisks, where the
// real one can't be had. It does what nitro-cli asks of it:
//
//	linuxkit build [--docker] --name NAME --format kernel+initrd-nogz --no-sbom FILE.yml
//
// and writes NAME-initrd.img. As in the original, the image's files are what Docker itself exports of a
// container that it made, in the order in which Docker has them. The rules for the rest were found by
// watching linuxkit 1.5.2; nothing here is shared with cagebuild's own writer.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
)

const (
	moment    = 1492533000 // of all that is linuxkit's own
	firstNode = 721
	folder    = 0o040000
	file      = 0o100000
	symlink   = 0o120000
)

var (
	retimed  = set("dev", "dev/pts", "dev/shm", "etc", "proc", "sys")
	dropped  = set(".dockerenv", "Dockerfile", "dev/console", "etc/hostname")
	replaced = map[string]record{
		"etc/hosts": {mode: file | 0o755, data: []byte("127.0.0.1       localhost\n" +
			"::1     localhost ip6-localhost ip6-loopback\nfe00::0 ip6-localnet\nff00::0 ip6-mcastprefix\n" +
			"ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n")},
		"etc/mtab":        {mode: symlink | 0o777, data: []byte("/proc/mounts")},
		"etc/resolv.conf": {mode: symlink | 0o755, data: []byte("/run/resolvconf/resolv.conf")},
	}
)

func set(names ...string) map[string]bool {
	made := map[string]bool{}
	for _, name := range names {
		made[name] = true
	}
	return made
}

// Record is one entry of an archive.
type record struct {
	name         string
	mode         int64
	uid, gid     int
	time         int64
	major, minor int64
	data         []byte
}

// Archive writes cpio's format "newc".
type archive struct {
	out  *bufio.Writer
	size int
	node int
}

func (a *archive) write(data []byte) error {
	n, err := a.out.Write(data)
	a.size += n
	return err
}

func (a *archive) fill(multiple int) error {
	return a.write(make([]byte, (multiple-a.size%multiple)%multiple))
}

func (a *archive) add(r record) error {
	links := 1
	if r.mode&0o170000 == folder {
		links = 2
	}
	head := "070701"
	for _, number := range []int64{
		int64(firstNode + a.node), r.mode, int64(r.uid), int64(r.gid), int64(links), r.time, int64(len(r.data)),
		3, 1, r.major, r.minor, int64(len(r.name) + 1), 0,
	} {
		head += fmt.Sprintf("%08x", number)
	}
	a.node++
	return errors.Join(a.write([]byte(head+r.name+"\x00")), a.fill(4), a.write(r.data), a.fill(4))
}

func (a *archive) close() error {
	return errors.Join(a.add(record{name: "TRAILER!!!"}), a.fill(512), a.out.Flush())
}

// Item is one of the files that the description adds to the image.
type item struct {
	path, source string
	mode         int64
	directory    bool
}

type description struct {
	prefix, image string
	items         []item
}

// Parse reads the one kind of YAML that nitro-cli writes: its yaml_generator.rs.
func parse(data []byte) (*description, error) {
	found := &description{}
	list := ""
	for _, line := range strings.Split(string(data), "\n") {
		text := strings.TrimSpace(line)
		words, starts := strings.CutPrefix(text, "- ")
		key, value, _ := strings.Cut(words, ":")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch {
		case text == "" || text == "---":
		case text == "init:" || text == "files:":
			list = text
		case list == "init:" && starts:
			found.image = strings.Trim(words, `"'`)
		case list == "files:":
			if starts {
				found.items = append(found.items, item{})
			}
			if len(found.items) == 0 {
				return nil, fmt.Errorf("unexpected line: %s", line)
			}
			if err := found.items[len(found.items)-1].set(key, value); err != nil {
				return nil, err
			}
		case key == "prefix":
			found.prefix = value
		default:
			return nil, fmt.Errorf("unexpected line: %s", line)
		}
	}
	return found, nil
}

func (i *item) set(key, value string) (err error) {
	switch key {
	case "path":
		i.path = value
	case "source":
		i.source = value
	case "directory":
		i.directory = value == "true"
	case "mode":
		i.mode, err = strconv.ParseInt(value, 8, 32)
	default:
		err = fmt.Errorf("unexpected key: %s", key)
	}
	return err
}

// AddItems adds the description's own files, each after the folders above it that nothing has made.
func (a *archive) addItems(items []item) error {
	made := map[string]bool{".": true}
	for _, i := range items {
		var above []string
		for parent := path.Dir(i.path); !made[parent]; parent = path.Dir(parent) {
			above = append([]string{parent}, above...)
			made[parent] = true
		}
		for _, name := range above {
			if err := a.add(record{name: name, mode: folder | 0o755, time: moment}); err != nil {
				return err
			}
		}
		entry := record{name: i.path, mode: folder | i.mode, time: moment}
		if i.directory {
			made[i.path] = true
		} else {
			data, err := os.ReadFile(i.source)
			if err != nil {
				return err
			}
			entry.mode, entry.data = file|i.mode, data
		}
		if err := a.add(entry); err != nil {
			return err
		}
	}
	return nil
}

// AddImage adds what Docker exports of a container.
func (a *archive) addImage(prefix string, exported io.Reader) error {
	if err := a.add(record{name: strings.TrimSuffix(prefix, "/"), mode: folder | 0o755, time: moment}); err != nil {
		return err
	}
	var late []record
	for stream := tar.NewReader(exported); ; {
		head, err := stream.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean(head.Name)
		isFolder := head.Typeflag == tar.TypeDir
		if name == "." || dropped[name] && !isFolder {
			continue
		}
		if own, ok := replaced[name]; ok {
			own.name, own.time = prefix+name, moment
			if !isFolder {
				if err := a.add(own); err != nil {
					return err
				}
				continue
			}
			if name == "etc/hosts" {
				own.mode = file | 0o644
			} else if name == "etc/resolv.conf" {
				own.mode = symlink | 0o644
			} else {
				own.mode = symlink | 0o755
			}
			late = append(late, own)
		}
		entry, err := entryOf(prefix, name, head, stream)
		if err != nil {
			return err
		}
		if err := a.add(entry); err != nil {
			return err
		}
	}
	for _, entry := range late {
		if err := a.add(entry); err != nil {
			return err
		}
	}
	return nil
}

func entryOf(prefix, name string, head *tar.Header, data io.Reader) (record, error) {
	entry := record{name: prefix + name, mode: head.Mode & 0o7777, uid: head.Uid, gid: head.Gid, time: head.ModTime.Unix()}
	if entry.time < 0 {
		entry.time = 0
	}
	if retimed[name] {
		entry.time = moment
	}
	switch head.Typeflag {
	case tar.TypeDir:
		entry.mode |= folder
		entry.name += "/"
	case tar.TypeReg:
		entry.mode |= file
		content, err := io.ReadAll(data)
		if err != nil {
			return entry, err
		}
		entry.data = content
	case tar.TypeSymlink:
		entry.mode = symlink | 0o777
		entry.data = []byte(head.Linkname)
	case tar.TypeLink:
		entry.mode |= symlink
		entry.data = []byte(relative(path.Dir(name), path.Clean(head.Linkname)))
	case tar.TypeChar:
		entry.mode |= 0o020000
		entry.major, entry.minor = head.Devmajor, head.Devminor
	case tar.TypeBlock:
		entry.mode |= 0o060000
		entry.major, entry.minor = head.Devmajor, head.Devminor
	case tar.TypeFifo:
		entry.mode |= 0o010000
	default:
		return entry, fmt.Errorf("%s: unexpected type %q", name, head.Typeflag)
	}
	return entry, nil
}

// Relative is the path from a folder to a file, both below the same root.
func relative(from, to string) string {
	here := strings.Split(from, "/")
	if from == "." {
		here = nil
	}
	there := strings.Split(to, "/")
	for len(here) > 0 && len(there) > 1 && here[0] == there[0] {
		here, there = here[1:], there[1:]
	}
	return strings.Repeat("../", len(here)) + strings.Join(there, "/")
}

// Docker is the Engine API on its socket.
type docker struct{ client *http.Client }

func connect() (*docker, error) {
	address, err := url.Parse(os.Getenv("DOCKER_HOST"))
	if err != nil || address.Scheme != "unix" {
		return nil, fmt.Errorf("DOCKER_HOST is %q, not a socket", os.Getenv("DOCKER_HOST"))
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address.Path)
	}
	return &docker{&http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

func (d *docker) do(method, target string, body any) (io.ReadCloser, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(method, "http://docker"+target, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := d.client.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		said, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		return nil, fmt.Errorf("%s %s: %s %s", method, target, answer.Status, said)
	}
	return answer.Body, nil
}

func (d *docker) export(image string, use func(io.Reader) error) (err error) {
	body, err := d.do("POST", "/containers/create", map[string]any{"Image": image})
	if err != nil {
		return err
	}
	defer body.Close()
	var made struct{ ID string }
	if err := json.NewDecoder(body).Decode(&made); err != nil {
		return err
	}
	defer func() {
		// Its volumes stay, as linuxkit leaves them.
		if gone, wrong := d.do("DELETE", "/containers/"+made.ID, nil); wrong != nil {
			err = errors.Join(err, wrong)
		} else {
			gone.Close()
		}
	}()
	tree, err := d.do("GET", "/containers/"+made.ID+"/export", nil)
	if err != nil {
		return err
	}
	defer tree.Close()
	return use(tree)
}

func build(words []string) error {
	name, source := "", ""
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "--docker", "--no-sbom":
		case "--name", "--format":
			i++
			if i == len(words) {
				return errors.New("a value is missing")
			}
			if words[i-1] == "--name" {
				name = words[i]
			}
		default:
			source = words[i]
		}
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	wanted, err := parse(data)
	if err != nil {
		return err
	}
	target, err := os.Create(name + "-initrd.img")
	if err != nil {
		return err
	}
	made := &archive{out: bufio.NewWriterSize(target, 1<<20)}
	if wanted.image != "" {
		engine, err := connect()
		if err != nil {
			return err
		}
		add := func(tree io.Reader) error { return made.addImage(wanted.prefix, tree) }
		if err := engine.export(wanted.image, add); err != nil {
			return err
		}
	}
	return errors.Join(made.addItems(wanted.items), made.close(), target.Close())
}

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 || os.Args[1] != "build" {
		log.Fatal("usage: linuxkit build …")
	}
	if err := build(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}
