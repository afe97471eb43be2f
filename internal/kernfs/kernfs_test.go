package kernfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFilesStayThoseOfOneDirectory(t *testing.T) {
	dir := t.TempDir()
	at, next := dir+"/group", dir+"/next"
	for _, d := range []string{at, next} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, at+"/a", "old a")
	write(t, at+"/b", "old b")
	write(t, next+"/b", "new b")
	d := NewDir(at)
	a, b := d.File("a", unix.O_RDWR), d.File("b", unix.O_RDONLY)
	var buf [16]byte
	read := func(f *File) string {
		text, err := f.ReadInto(buf[:])
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	if got := read(a); got != "old a" {
		t.Fatalf("a is %q", got)
	}
	// Another directory gets the name, before b is opened.
	if err := errors.Join(os.Rename(at, dir+"/away"), os.Rename(next, at)); err != nil {
		t.Fatal(err)
	}
	if got := read(b); got != "old b" {
		t.Errorf("b is %q: it is another directory's", got)
	}
	d.Close()
	if got := read(b); got != "new b" {
		t.Errorf("after Close b is %q", got)
	}
	if got := read(a); got != unix.ENOENT.Error() {
		t.Errorf("after Close a is %q", got)
	}
}

func TestWriteAndReadAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "12345")
	d := NewDir(dir)
	f := d.File("f", unix.O_RDWR)
	if err := f.Write("ab"); err != nil {
		t.Fatal(err)
	}
	var buf [3]byte
	for range 2 {
		if text, err := f.ReadInto(buf[:]); err != nil || string(text) != "ab3" {
			t.Errorf("ReadInto: %q, %v", text, err)
		}
		if text, err := d.ReadFile("f"); err != nil || string(text) != "ab345" {
			t.Errorf("ReadFile: %q, %v", text, err)
		}
	}
	if f.Path() != dir+"/f" {
		t.Errorf("Path is %s", f.Path())
	}
}

func TestReadFileReadsAllOfALongFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, n := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		want := bytes.Repeat([]byte("x"), n)
		write(t, path, string(want))
		if got, err := ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
	}
	if _, err := ReadFile(path + "no"); err != unix.ENOENT {
		t.Errorf("a missing file: %v", err)
	}
	if err := WriteFile(path+"no", "x"); err != unix.ENOENT {
		t.Errorf("writing a missing file: %v", err)
	}
}

func TestCloseWhileOthersRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/f", "text")
	d := NewDir(dir)
	f := d.File("f", unix.O_RDONLY)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			var buf [8]byte
			for range 500 {
				if text, err := f.ReadInto(buf[:]); err != nil || string(text) != "text" {
					t.Errorf("%q, %v", text, err)
				}
			}
		})
	}
	for range 500 {
		d.Close()
	}
	all.Wait()
}

func TestParseIDs(t *testing.T) {
	for text, want := range map[string][]int{
		"":                           nil,
		"1\n22\n333\n":               {1, 22, 333},
		"1\n2":                       {1, 2},
		"0\n5\n0\n":                  {5},
		"x\n5\n-3\n7 \n\n8\n":        {5, 8},
		"99999999999999999999\n4\n":  {4},
		"1099511627777\n3\n":         {3},
		strings.Repeat("9", 40):      nil,
		"4194304\n2147483647000\n6 ": {4194304},
	} {
		if got := ParseIDs([]byte(text)); !slices.Equal(got, want) {
			t.Errorf("ParseIDs(%q) = %v, want %v", text, got, want)
		}
	}
}

// FuzzParseIDs compares with what strconv makes of each line.
func FuzzParseIDs(f *testing.F) {
	f.Add([]byte("1\n22\n"))
	f.Add([]byte("0\n-1\n4194304\n1073741824\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var want []int
		for line := range strings.SplitSeq(string(text), "\n") {
			digits := strings.Trim(line, "0123456789") == ""
			if n, err := strconv.Atoi(line); err == nil && digits && n > 0 && n <= 1<<22 {
				want = append(want, n)
			}
		}
		got := slices.DeleteFunc(ParseIDs(text), func(n int) bool { return n > 1<<22 }) // no PID is larger
		if !slices.Equal(got, want) {
			t.Errorf("ParseIDs(%q) = %v, want %v", text, got, want)
		}
	})
}
