package systemd

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// An encoder writes values in D-Bus's form: each aligned to its size, counted
// from the beginning of the message.
type encoder struct{ buf []byte }

func (e *encoder) align(n int) {
	for len(e.buf)%n != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) uint32(v uint32) {
	e.align(4)
	e.buf = binary.NativeEndian.AppendUint32(e.buf, v)
}

func (e *encoder) uint64(v uint64) {
	e.align(8)
	e.buf = binary.NativeEndian.AppendUint64(e.buf, v)
}

func (e *encoder) bool(v bool) {
	if v {
		e.uint32(1)
	} else {
		e.uint32(0)
	}
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.buf = append(append(e.buf, s...), 0)
}

func (e *encoder) signature(s string) {
	e.buf = append(append(append(e.buf, byte(len(s))), s...), 0)
}

// array writes what fill writes, elements that are aligned to n.
func (e *encoder) array(n int, fill func()) {
	e.uint32(0)
	size := len(e.buf) - 4
	e.align(n)
	begin := len(e.buf)
	fill()
	binary.NativeEndian.PutUint32(e.buf[size:], uint32(len(e.buf)-begin))
}

// A property is one of a unit's settings: a string, bool, uint64, command or signals.
type property struct {
	name  string
	value any
}

type (
	command []string      // of ExecStart: program and arguments
	signals []unix.Signal // of SuccessExitStatus
)

func (e *encoder) properties(list []property) {
	e.array(8, func() {
		for _, p := range list {
			e.align(8)
			e.string(p.name)
			e.variant(p.value)
		}
	})
}

func (e *encoder) variant(value any) {
	switch v := value.(type) {
	case string:
		e.signature("s")
		e.string(v)
	case bool:
		e.signature("b")
		e.bool(v)
	case uint64:
		e.signature("t")
		e.uint64(v)
	case command:
		e.signature("a(sasb)")
		e.array(8, func() {
			e.align(8)
			e.string(v[0])
			e.array(4, func() {
				for _, arg := range v {
					e.string(arg)
				}
			})
			e.bool(false) // a failure is one
		})
	case signals:
		e.signature("(aiai)")
		e.align(8)
		e.array(4, func() {}) // exit codes
		e.array(4, func() {
			for _, s := range v {
				e.uint32(uint32(s))
			}
		})
	default:
		panic(fmt.Sprintf("no form for a %T", value))
	}
}

// A decoder reads values in D-Bus's form. What is not there reads as zero.
type decoder struct {
	buf []byte
	pos int
}

func (d *decoder) next(n int) []byte {
	if n < 0 || n > len(d.buf)-d.pos {
		d.pos = len(d.buf)
		return nil
	}
	d.pos += n
	return d.buf[d.pos-n : d.pos]
}

func (d *decoder) align(n int) { d.next((n - d.pos%n) % n) }

func (d *decoder) byte() byte {
	if b := d.next(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	d.align(4)
	if b := d.next(4); b != nil {
		return binary.NativeEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) string() string {
	n := d.uint32()
	return d.text(int(min(n, math.MaxInt32-1)))
}

func (d *decoder) signature() string { return d.text(int(d.byte())) }

// text reads n bytes and the NUL behind them.
func (d *decoder) text(n int) string {
	b := d.next(n + 1)
	if b == nil {
		return ""
	}
	return string(b[:n])
}
