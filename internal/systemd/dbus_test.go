package systemd

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A peer plays systemd for one call: it greets, reads until it has seen the
// call's last argument, and says what it has to say.
func peer(t *testing.T, greeting, last string, says ...[]byte) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "private")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for line := ""; line != "BEGIN\r\n"; {
			if line, err = r.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = io.WriteString(c, greeting)
		for seen := ""; !strings.HasSuffix(seen, last); {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			seen += string(b)
		}
		for _, m := range says {
			_, _ = c.Write(m)
		}
	}()
	return socket
}

// message is one that systemd may send: of a type, with an error's name or none.
func message(kind byte, name, text string) []byte {
	var body encoder
	if text != "" {
		body.string(text)
	}
	m := encoder{[]byte{byteOrder(), kind, 1, 1}}
	m.uint32(uint32(len(body.buf)))
	m.uint32(99)
	m.array(8, func() {
		m.buf = append(m.buf, 5) // which call it answers
		m.signature("u")
		m.uint32(1)
		if name != "" {
			m.align(8)
			m.buf = append(m.buf, fieldErrorName)
			m.signature("s")
			m.string(name)
		}
	})
	m.align(8)
	return append(m.buf, body.buf...)
}

const greeting = "OK 0123456789abcdef\r\n"

func stop(socket string) error {
	c, err := dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.call("StopUnit", "ss", func(e *encoder) {
		e.string("freezer.service")
		e.string("fail")
	})
}

func TestACallReturnsWithItsAnswer(t *testing.T) {
	signal := message(4, "", "something else that happened")
	if err := stop(peer(t, greeting, "fail\x00", signal, message(methodReturn, "", ""))); err != nil {
		t.Error(err)
	}
}

func TestARefusalCarriesItsNameAndItsText(t *testing.T) {
	for text, want := range map[string]string{"no such unit": "no such unit", "": "org.example.No"} {
		err := stop(peer(t, greeting, "fail\x00", message(errorReturn, "org.example.No", text)))
		var refused *replyError
		if !errors.As(err, &refused) || refused.name != "org.example.No" || err.Error() != want {
			t.Errorf("%#v", err)
		}
	}
}

func TestWhoIsNoSystemdIsAnError(t *testing.T) {
	for name, socket := range map[string]string{
		"nobody":            filepath.Join(t.TempDir(), "nothing"),
		"refuses the user":  peer(t, "REJECTED EXTERNAL\r\n", "\x00"),
		"hangs up":          peer(t, greeting, "fail\x00"),
		"breaks off":        peer(t, greeting, "fail\x00", message(methodReturn, "", "")[:20]),
		"speaks otherwise":  peer(t, greeting, "fail\x00", []byte("HTTP/1.1 400 Bad Request\r\n\r\n")),
		"promises too much": peer(t, greeting, "fail\x00", []byte{byteOrder(), 2, 0, 1, 255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0}),
	} {
		if err := stop(socket); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(message(errorReturn, "org.example.No", "no"))
	f.Add(message(methodReturn, "", ""))
	f.Add(message(errorReturn, "", "")[:20])
	f.Fuzz(func(t *testing.T, text []byte) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		go func() {
			_, _ = w.Write(text)
			w.Close()
		}()
		for err = nil; err == nil; {
			_, err = (&conn{r}).receive()
		}
	})
}
