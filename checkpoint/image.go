package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync/atomic"
)

// An image is a stream of records: a header, the job, its memory, and an end.
// docs/checkpoint.md has the form. Nothing is believed before its checksum, and
// nothing is let run before the end record was seen.

// ErrImage says that something is no image, or a damaged one.
var ErrImage = errors.New("not a whole image")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrImage, fmt.Sprintf(format, args...))
}

// The types of records.
const (
	recordHeader = 0x7a657266 // "frez": an image begins with these bytes
	recordJob    = 1
	recordPages  = 2
	recordZeros  = 3
	recordEnd    = 4
	recordPacked = 5 // pages, compressed
	recordKept   = 6 // a page that has twins further on
	recordTwins  = 7 // of the page that was kept as the Nth
	recordBase   = 8 // pages that are as in the base
)

const (
	formatVersion = 1
	recordSize    = 16       // of what stands before each record's content
	maxJob        = 64 << 20 // bytes that the job's record may have
	maxPages      = 1 << 20  // bytes of memory in one record
	pageSize      = 4096
)

type header struct {
	Format       int    `json:"format"`
	Architecture string `json:"architecture"`
}

// castagnoli is the table of CRC32C. To make it takes a while, which a program that
// never reads an image shall not spend at its start.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// A writer writes records.
type writer struct {
	w     io.Writer
	count uint32
	bytes int64

	packer *packer             // nil: nothing is compressed
	tell   func(written int64) // nil, or what is called with bytes
	twins  twins
}

// record writes one record, whose content is the parts.
func (w *writer) record(kind uint32, parts ...[]byte) error {
	var head [recordSize]byte
	length := 0
	for _, p := range parts {
		length += len(p)
	}
	binary.LittleEndian.PutUint32(head[0:], kind)
	binary.LittleEndian.PutUint32(head[4:], uint32(length))
	binary.LittleEndian.PutUint32(head[8:], w.count)
	sum := crc32.Update(0, castagnoli(), head[:12])
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli(), p)
	}
	binary.LittleEndian.PutUint32(head[12:], sum)
	w.count++
	w.bytes += int64(recordSize + length)
	if _, err := w.w.Write(head[:]); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := w.w.Write(p); err != nil {
			return err
		}
	}
	if w.tell != nil {
		w.tell(w.bytes)
	}
	return nil
}

func (w *writer) begin(job *Job) error {
	text, err := json.Marshal(header{formatVersion, runtime.GOARCH})
	if err == nil {
		err = w.record(recordHeader, text)
	}
	if err == nil {
		text, err = json.Marshal(job)
	}
	if err == nil && len(text) > maxJob {
		err = fmt.Errorf("the job's description is too long: %d bytes", len(text))
	}
	if err == nil {
		err = w.record(recordJob, text)
	}
	return err
}

// Where memory belongs: to a process by its index, or to shared memory.
type owner struct {
	shared bool
	index  int
}

func (o owner) put(b []byte, address uint64) {
	index := uint32(o.index)
	if o.shared {
		index |= 1 << 31
	}
	binary.LittleEndian.PutUint32(b, index)
	binary.LittleEndian.PutUint64(b[4:], address)
}

// zeros writes that memory is zero which would otherwise be what its file has.
func (w *writer) zeros(o owner, address, length uint64) error {
	var head [20]byte
	o.put(head[:], address)
	binary.LittleEndian.PutUint64(head[12:], length)
	return w.locked(recordZeros, head[:])
}

// same writes that memory is as in the base.
func (w *writer) same(o owner, r run) error {
	var head [20]byte
	o.put(head[:], r.start)
	binary.LittleEndian.PutUint64(head[12:], r.end-r.start)
	return w.locked(recordBase, head[:])
}

// locked is record while others may be writing, too.
func (w *writer) locked(kind uint32, parts ...[]byte) error {
	if w.packer != nil {
		w.packer.lock.Lock()
		defer w.packer.lock.Unlock()
	}
	return w.record(kind, parts...)
}

func (w *writer) end() error {
	if err := w.wait(); err != nil {
		return err
	}
	return w.record(recordEnd)
}

// wait waits until nobody writes any more, which the caller has to before he gives
// up, too.
func (w *writer) wait() error {
	if w.packer == nil {
		return nil
	}
	return w.packer.wait()
}

// begin reads the header and the job.
func (r *reader) begin() (*Job, error) {
	_, text, err := r.next()
	if err != nil {
		return nil, err
	}
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, damaged("its header: %v", err)
	}
	if h.Format != formatVersion {
		return nil, fmt.Errorf("%w: the image has the format %d, and this program reads %d", errors.ErrUnsupported, h.Format, formatVersion)
	}
	kind, text, err := r.next()
	if err != nil {
		return nil, err
	}
	if kind != recordJob {
		return nil, damaged("it has no job")
	}
	job := new(Job)
	if err := json.Unmarshal(text, job); err != nil {
		return nil, damaged("its job: %v", err)
	}
	if err := job.check(); err != nil {
		return nil, err
	}
	if h.Architecture != "amd64" {
		return nil, fmt.Errorf("%w: the image is of a job on %s", errors.ErrUnsupported, h.Architecture)
	}
	r.job = job
	return job, nil
}

// Read reads a whole image, and checks all of it. size is how many bytes of
// memory it holds, zeros left out.
func Read(from io.Reader) (job *Job, size int64, err error) { return Verify(from, nil) }

// Verify is Read that calls tell, now and then, with the bytes that were read.
func Verify(from io.Reader, tell func(read int64)) (job *Job, size int64, err error) {
	r := newReader(from)
	r.tell = tell
	if job, err = r.begin(); err != nil {
		return nil, 0, err
	}
	var sum atomic.Int64
	err = r.memory(func(_ owner, _, _ uint64, data []byte) error {
		sum.Add(int64(len(data)))
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	if n, _ := io.ReadFull(r.r, make([]byte, 1)); n != 0 {
		return nil, 0, damaged("something follows its end")
	}
	return job, sum.Load(), nil
}

// ReadJob reads what an image says of its job, and no further.
func ReadJob(from io.Reader) (*Job, error) { return newReader(from).begin() }
