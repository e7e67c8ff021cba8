package journal

import (
	"strings"
	"testing"
	"time"
)

func TestALineIsOneLineWhateverIsInIt(t *testing.T) {
	var text strings.Builder
	j := New(&text)
	j.Line("a %s", "b\nhost: c\x1b[2J \xff é\u202e\u0000")
	j.Named("log", strings.Repeat("x", 2*maxLine))
	lines := strings.Split(text.String(), "\n")
	if want := `host: a b\nhost: c\x1b[2J \xff é\u202e\x00`; lines[0] != want {
		t.Errorf("got %q, expected %q", lines[0], want)
	}
	if len(lines) != 3 || !strings.HasPrefix(lines[1], "log: xxx") || len(lines[1]) > maxLine+20 {
		t.Errorf("got %d lines", len(lines))
	}
}

func TestWhatOthersCauseIsLimited(t *testing.T) {
	var text strings.Builder
	limited := New(&text).Limit()
	now := time.Now()
	shown := 0
	for range 1000 {
		if _, goes := limited.take(now); goes {
			shown++
		}
	}
	if shown != limited.burst {
		t.Errorf("%d lines at once, expected %d", shown, limited.burst)
	}
	dropped, goes := limited.take(now.Add(1100 * time.Millisecond))
	if !goes || dropped != 1000-limited.burst {
		t.Errorf("got %d, %v", dropped, goes)
	}
	if _, goes := limited.take(now.Add(1100 * time.Millisecond)); goes {
		t.Error("two lines in a second")
	}
	if _, goes := limited.take(now.Add(-time.Hour)); goes {
		t.Error("a clock that goes back gives credit")
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\nb\x1b \xff é")
	f.Fuzz(func(t *testing.T, text string) {
		shown := Printable(text)
		if strings.ContainsAny(shown, "\n\r\x1b\x00") || strings.ToValidUTF8(shown, "") != shown {
			t.Fatalf("%q became %q", text, shown)
		}
		if Printable(shown) != shown {
			t.Fatalf("%q is not printable", shown)
		}
	})
}
