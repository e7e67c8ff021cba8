package say

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

const never = time.Hour

// console remembers every write: one line each, or the lines of services could mix.
type console struct{ writes []string }

func (c *console) Write(data []byte) (int, error) {
	c.writes = append(c.writes, string(data))
	return len(data), nil
}

func relayed(t testing.TB, output string) []string {
	t.Helper()
	written := &console{}
	if err := Relay(strings.NewReader(output), written, "app", never); err != nil {
		t.Fatal(err)
	}
	return written.writes
}

func TestEveryLineHasTheNameInFront(t *testing.T) {
	for output, want := range map[string]string{
		"":                              "",
		"one\ntwo\n":                    "app: one\napp: two\n",
		"no end":                        "app: no end\n",
		"\n\n":                          "app: \napp: \n",
		"windows\r\n\r\n":               "app: windows\napp: \n",
		"Grüße 日本語 😀\u3000|":            "app: Grüße 日本語 😀\u3000|\n",
		`100% %s \n "q" 'q' $X` + "\tt": `app: 100% %s \n "q" 'q' $X` + "\tt\n",
		// What could pass for another line, or for none.
		"x\rcage: y\n":       `app: x\rcage: y` + "\n",
		"\x1b[2Jx\x1b[A\n":   `app: \x1b[2Jx\x1b[A` + "\n",
		"\x00\b\x7f\u009b":   `app: \x00\x08\x7f\u009b` + "\n",
		"a\u2028cage: b":     `app: a\u2028cage: b` + "\n",
		"\u202e\u200b\ufeff": `app: \u202e\u200b\ufeff` + "\n",
		"\U000e0001":         `app: \U000e0001` + "\n",
		"\xff\xc3(\xe6\x97":  `app: \xff\xc3(\xe6\x97` + "\n",
		"\r":                 `app: \r` + "\n",
		"cage: \napp: x":     "app: cage: \napp: app: x\n",
	} {
		if got := strings.Join(relayed(t, output), ""); got != want {
			t.Errorf("%q:\ngot      %q\nexpected %q", output, got, want)
		}
	}
}

func TestALineThatIsTooLongGoesOnInTheNext(t *testing.T) {
	for _, character := range []string{"x", "é", "日", "😀", "\xff", "\x1b"} {
		shown := character
		if quoted := strconv.Quote(character); strings.Contains(quoted, `\`) {
			shown = strings.Trim(quoted, `"`)
		}
		const count = 20_000
		writes := relayed(t, strings.Repeat(character, count)+"\nnext\n")
		last := len(writes) - 1
		if writes[last] != "app: next\n" {
			t.Errorf("%q: the last line is %q", character, writes[last])
		}
		text := strings.Builder{}
		for number, line := range writes[:last] {
			mark := "app+ "
			if number == 0 {
				mark = "app: "
			}
			rest, marked := strings.CutPrefix(line, mark)
			if !marked || len(line) > longest || len(line) < longest/2 && number < last-1 {
				t.Errorf("%q: line %d has %d bytes: %.20q", character, number, len(line), line)
			}
			text.WriteString(strings.TrimSuffix(rest, "\n"))
		}
		if text.String() != strings.Repeat(shown, count) {
			t.Errorf("%q: something was lost", character)
		}
	}
}

func TestALineOfTheLongestSizeIsOne(t *testing.T) {
	line := strings.Repeat("x", longest-len("app: \n"))
	if got := relayed(t, line+"\n"); len(got) != 1 || len(got[0]) != longest {
		t.Errorf("got %d writes", len(got))
	}
}

func TestTheStartOfALineIsShownWhenItsEndIsLate(t *testing.T) {
	reader, writer := io.Pipe()
	lines := make(chan string)
	ended := make(chan error)
	go func() {
		ended <- Relay(reader, writerFunc(func(data []byte) { lines <- string(data) }), "app", time.Millisecond)
	}()
	for _, step := range []struct{ output, want string }{
		{"password> ", "app: password> \n"},
		{"tr\u00fc\xe6\x97", "app+ trü\n"}, // the last character isn't all there yet
		{"\xa5\r", "app+ 日\n"},             // nor is it known what the carriage return is
		{"\nnext\n", "app: next\n"},
		{"\n", "app: \n"},
		{"end", "app: end\n"},
	} {
		if _, err := writer.Write([]byte(step.output)); err != nil {
			t.Fatal(err)
		}
		if got := <-lines; got != step.want {
			t.Errorf("%q: got %q, expected %q", step.output, got, step.want)
		}
	}
	_ = writer.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(data []byte) (int, error) {
	f(data)
	return len(data), nil
}

func TestNothingIsReadWhileTheConsoleCannotBeWrittenTo(t *testing.T) {
	reader, writer := io.Pipe()
	taken := make(chan struct{})
	console := writerFunc(func([]byte) { <-taken })
	go func() { _ = Relay(reader, console, "app", never) }()
	block := []byte(strings.Repeat(strings.Repeat("x", 1023)+"\n", chunk/1024))
	written := make(chan int)
	go func() {
		for count := range 100 {
			if _, err := writer.Write(block); err != nil {
				return
			}
			written <- count
		}
	}()
	// One block is being written to the console and one waits in the other buffer. A third can't be taken.
	<-written
	<-written
	select {
	case <-written:
		t.Error("a third block was taken")
	case <-time.After(50 * time.Millisecond):
	}
	close(taken)
	<-written
	_ = writer.CloseWithError(io.EOF)
}

func TestAConsoleThatFailsAndOutputThatFailsAreErrors(t *testing.T) {
	broken := errors.New("broken")
	if err := Relay(strings.NewReader("a\nb\n"), failing{broken}, "app", never); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	written := &console{}
	output := io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken))
	if err := Relay(output, written, "app", never); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if got := strings.Join(written.writes, ""); got != "app: a\napp: b\n" {
		t.Errorf("got %q", got)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestOwnLinesStayOneLine(t *testing.T) {
	got := string(appendPrintable(nil, "open /a\nb\r\x1b[0m: é \xff"))
	if want := `open /a\nb\r\x1b[0m: é \xff`; got != want {
		t.Errorf("got %q, expected %q", got, want)
	}
}

func TestLinesAreHeardWhereverTheyGo(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var heard string
	Also(func(line []byte) { heard = string(line) })
	To(writer)
	defer To(nil)
	defer also.Store(nil)
	Line("a\n%s", "b")
	_ = writer.Close()
	written, err := io.ReadAll(reader)
	if want := `cage: a\nb` + "\n"; err != nil || string(written) != want || heard != want {
		t.Errorf("got %q and %q, %v", written, heard, err)
	}
}

func FuzzRelay(f *testing.F) {
	f.Add([]byte("one\r\ntwo\x1b[0m é \xff"), uint8(1))
	f.Add(bytes.Repeat([]byte("\xe6\x97\xa5"), 1400), uint8(7))
	f.Fuzz(func(t *testing.T, output []byte, size uint8) {
		written := &console{}
		lines := &lines{console: written, name: "app"}
		for rest := output; len(rest) > 0; {
			part := rest[:min(int(size)+1, len(rest))]
			rest = rest[len(part):]
			if err := lines.add(part); err != nil {
				t.Fatal(err)
			}
			if len(lines.held) >= utf8.UTFMax || cap(lines.line) > 2*longest {
				t.Fatalf("holds %d and %d bytes", len(lines.held), cap(lines.line))
			}
		}
		if err := lines.end(); err != nil {
			t.Fatal(err)
		}
		// However it comes in pieces, it is the same, and it is what escaping line by line gives.
		want := strings.Builder{}
		for line := range bytes.Lines(output) {
			line, hadEnd := bytes.CutSuffix(line, []byte("\n"))
			if hadEnd {
				line = bytes.TrimSuffix(line, []byte("\r"))
			}
			want.Write(append(appendPrintable([]byte("app: "), string(line)), '\n'))
		}
		got := strings.Join(written.writes, "")
		if joined := strings.ReplaceAll(got, "\napp+ ", ""); joined != want.String() {
			t.Fatalf("%q:\ngot      %q\nexpected %q", output, joined, want.String())
		}
		for _, line := range written.writes {
			if len(line) > longest || !utf8.ValidString(line) || strings.Count(line, "\n") != 1 {
				t.Fatalf("bad line %q", line)
			}
			for _, character := range strings.TrimSuffix(line, "\n") {
				if character != '\t' && !strconv.IsGraphic(character) {
					t.Fatalf("%q in %q", character, line)
				}
			}
		}
	})
}
