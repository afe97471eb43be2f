package checkpoint

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// fields are those of a stat file that internal/proc does not read.
type fields struct {
	command string
	state   byte
	words   []string // from the third field on
}

func readFields(id int) (fields, error) {
	text, err := kernfs.ReadFile(proc.Path(id, "stat"))
	if err != nil {
		return fields{}, err
	}
	s, ok := proc.ParseStat(text)
	if !ok {
		return fields{}, unix.EINVAL
	}
	f := fields{command: s.Command, state: s.State}
	for word := range bytes.FieldsSeq(text[bytes.LastIndexByte(text, ')')+1:]) {
		f.words = append(f.words, string(word))
	}
	return f, nil
}

// number is a field by its number in proc(5), from 4 on.
func (f fields) number(n int) uint64 {
	if n-3 >= len(f.words) {
		return 0
	}
	v, err := strconv.ParseUint(f.words[n-3], 10, 64)
	if err != nil {
		negative, _ := strconv.ParseInt(f.words[n-3], 10, 64)
		return uint64(negative)
	}
	return v
}
