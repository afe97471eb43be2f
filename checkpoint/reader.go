package checkpoint

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// A reader reads records. Those of memory are read, checked and put in their place
// by several at once.
type reader struct {
	r     *bufio.Reader
	file  *os.File // the image, when what it has can be read in any order
	at    int64    // where in the file the bufio.Reader reads next
	job   *Job
	buf   []byte
	count uint32

	kept []*keptPage
	same map[int][]run    // as in the base, by the index of the process, in order
	tell func(read int64) // nil, or what is called as the image is read
	read int64            // bytes

	lock   sync.Mutex    // of all above, while memory is read
	ended  bool          // nobody is to read on
	failed chan struct{} // closed when there is err
	err    error
}

// readers is how many read memory at once.
const readers = 2

func newReader(from io.Reader) *reader {
	r := &reader{failed: make(chan struct{})}
	if f, ok := from.(*os.File); ok {
		st, err := f.Stat()
		if at, e := f.Seek(0, io.SeekCurrent); err == nil && e == nil && st.Mode().IsRegular() {
			r.file, r.at = f, at
			from = (*fromFile)(r)
		}
	}
	r.r = bufio.NewReaderSize(from, 64<<10)
	return r
}

// fromFile reads a reader's file in order.
type fromFile reader

func (r *fromFile) Read(b []byte) (int, error) {
	n, err := r.file.ReadAt(b, r.at)
	r.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// A record is one whose content is not yet believed.
type record struct {
	head    [recordSize]byte
	number  uint32
	content []byte
	known   []*keptPage // that stand before it; the last one is its own, if it is to be kept
}

func (r *record) kind() uint32 { return binary.LittleEndian.Uint32(r.head[0:]) }

// check makes sure that a record is as it was written.
func (r *record) check() error {
	sum := crc32.Update(crc32.Update(0, castagnoli(), r.head[:12]), castagnoli(), r.content)
	if sum != binary.LittleEndian.Uint32(r.head[12:]) {
		return damaged("the checksum of record %d is wrong", r.number)
	}
	return nil
}

// begun reads what stands before a record's content, whose length it returns.
func (r *reader) begun() (rec record, length int, err error) {
	if _, err := io.ReadFull(r.r, rec.head[:]); err != nil {
		return rec, 0, cut(err)
	}
	size := binary.LittleEndian.Uint32(rec.head[4:])
	rec.number = r.count
	limit := map[uint32]uint32{recordHeader: 4096, recordJob: maxJob, recordPages: maxPages + 12, recordZeros: 20, recordPacked: maxPages + 16,
		recordKept: pageSize + 12, recordTwins: 20, recordBase: 20, recordEnd: 0}
	most, known := limit[rec.kind()]
	switch {
	case r.count == 0 && rec.kind() != recordHeader:
		return rec, 0, damaged("it does not begin as one")
	case !known:
		return rec, 0, damaged("record %d is of no known type", r.count)
	case binary.LittleEndian.Uint32(rec.head[8:]) != r.count:
		return rec, 0, damaged("record %d is missing", r.count)
	case size > most:
		return rec, 0, damaged("record %d is too long", r.count)
	}
	r.count++
	return rec, int(size), nil
}

// next reads a record. What it returns is overwritten by the next call.
func (r *reader) next() (kind uint32, content []byte, err error) {
	rec, length, err := r.begun()
	if err != nil {
		return 0, nil, err
	}
	if rec.content, err = r.content(length); err != nil {
		return 0, nil, cut(err)
	}
	return rec.kind(), rec.content, rec.check()
}

// content reads so many bytes, and takes no more memory for them than there are.
func (r *reader) content(length int) ([]byte, error) {
	r.buf = r.buf[:0]
	for done := 0; done < length; done = len(r.buf) {
		part := min(length-done, maxPages+12)
		if cap(r.buf) < done+part {
			r.buf = append(make([]byte, 0, max(2*cap(r.buf), done+part)), r.buf...)
		}
		r.buf = r.buf[:done+part]
		if _, err := io.ReadFull(r.r, r.buf[done:]); err != nil {
			return nil, err
		}
	}
	return r.buf, nil
}

// cut is the error of an image that ends too early.
func cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return damaged("it is cut short")
	}
	return err
}

// memory reads the rest of the image, and has put store what is in it, several
// pieces at once and in no certain order. data is nil for zeros. All was stored,
// and the image is whole, when there is no error.
func (r *reader) memory(put func(o owner, address, length uint64, data []byte) error) error {
	var all sync.WaitGroup
	for range readers {
		all.Go(func() { r.someMemory(put) })
	}
	all.Wait()
	return r.err
}

// someMemory reads records until there are none, for itself or for others.
func (r *reader) someMemory(put func(o owner, address, length uint64, data []byte) error) {
	buf, plain := make([]byte, maxPages+16), []byte(nil)
	for {
		rec, err := r.take(buf)
		if err == nil && rec == nil {
			return
		}
		if err == nil {
			err = rec.check()
		}
		if err == nil && plain == nil && (rec.kind() == recordPacked || rec.kind() == recordTwins) {
			plain = make([]byte, maxPages)
		}
		if err == nil && rec.kind() != recordEnd {
			err = r.place(rec, plain, put)
		}
		if err != nil {
			r.fail(err)
			return
		}
	}
}

// fail has the others stop, and notes why if it is the first.
func (r *reader) fail(err error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.ended = true; r.err == nil {
		r.err = err
		close(r.failed)
	}
}

// take reads the next record, nil when there is none for the caller. Of a file it
// only notes where the record is, and reads it while others take the next ones.
func (r *reader) take(buf []byte) (*record, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.ended {
		return nil, nil
	}
	rec, length, err := r.begun()
	if err != nil {
		return nil, err
	}
	if length > len(buf) {
		return nil, damaged("record %d stands in the wrong place", rec.number)
	}
	switch rec.kind() {
	case recordEnd:
		r.ended = true
	case recordKept:
		if len(r.kept) == maxKept {
			return nil, damaged("record %d is one page to keep too many", rec.number)
		}
		r.kept = append(r.kept, &keptPage{there: make(chan struct{})})
	}
	rec.known = r.kept
	rec.content = buf[:length]
	here := rec.content
	if r.file != nil {
		here = here[:min(length, r.r.Buffered())]
	}
	if _, err := io.ReadFull(r.r, here); err != nil {
		return nil, cut(err)
	}
	if r.read += int64(recordSize + length); r.tell != nil {
		r.tell(r.read)
	}
	if rest := rec.content[len(here):]; len(rest) > 0 {
		at := r.at
		r.at += int64(len(rest))
		r.lock.Unlock()
		_, err = r.file.ReadAt(rest, at)
		r.lock.Lock()
	}
	return &rec, cut(err)
}

// inherit notes memory that is as in the base.
func (r *reader) inherit(o owner, as run) error {
	if o.shared {
		return damaged("shared memory is in no base")
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.same == nil {
		r.same = map[int][]run{}
	}
	r.same[o.index] = append(r.same[o.index], as)
	return nil
}

// place has put store what a record has, made in plain if need be.
func (r *reader) place(rec *record, plain []byte, put func(o owner, address, length uint64, data []byte) error) error {
	b := rec.content
	var length uint64
	var data []byte
	var err error
	switch kind := rec.kind(); {
	case kind == recordPages && len(b) > 12:
		data = b[12:]
		length = uint64(len(data))
	case kind == recordPacked && len(b) > 16:
		if data, err = unpack(rec, plain); err != nil {
			return err
		}
		length = uint64(len(data))
	case kind == recordKept && len(b) == 12+pageSize:
		data = b[12:]
		length = pageSize
		rec.known[len(rec.known)-1].keep(data)
	case kind == recordTwins && len(b) == 20:
		if data, err = r.twins(rec, plain); err != nil {
			return err
		}
		length = uint64(len(data))
	case kind == recordZeros && len(b) == 20, kind == recordBase && len(b) == 20 && r.job.Base != nil:
		length = binary.LittleEndian.Uint64(b[12:])
	default:
		return damaged("record %d stands in the wrong place", rec.number)
	}
	index := binary.LittleEndian.Uint32(b)
	o := owner{index>>31 == 1, int(index &^ (1 << 31))}
	address := binary.LittleEndian.Uint64(b[4:])
	if !r.job.holds(o, address, length) {
		return damaged("record %d is for memory that is not there", rec.number)
	}
	if rec.kind() == recordBase {
		return r.inherit(o, run{address, address + length})
	}
	return put(o, address, length, data)
}
