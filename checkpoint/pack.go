package checkpoint

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/cgfreezer/freezer"
)

// Zstd has the memory in an image compressed, each record by itself: so that a
// record's bounds and checks are as they are without, and records can be read in
// any order.
const Zstd = "zstd"

// packers is how many records are compressed at once.
const packers = 2

// A packer compresses records of memory beside whoever writes them.
type packer struct {
	encoder *zstd.Encoder
	idle    chan *packing
	lock    sync.Mutex // of the writer, and of err
	err     error
}

// A packing is what one record is compressed with.
type packing struct{ plain, packed []byte }

// compresses says whether there is such a compression, or none is asked for.
func compresses(how string) error {
	if how != "" && how != Zstd {
		return fmt.Errorf("%w: there is no compression %q, but %s", freezer.ErrUnsupported, how, Zstd)
	}
	return nil
}

// compress has a writer compress what follows.
func (w *writer) compress(how string) error {
	if how == "" {
		return nil
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(packers),
		zstd.WithWindowSize(maxPages), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return err
	}
	w.packer = &packer{encoder: encoder, idle: make(chan *packing, packers)}
	for range packers {
		w.packer.idle <- &packing{}
	}
	return nil
}

// add writes pages when they are compressed, or as they are where they do not
// become smaller. Its error may be of earlier ones.
func (p *packer) add(w *writer, head [12]byte, pages []byte) error {
	b := <-p.idle
	p.lock.Lock()
	err := p.err
	p.lock.Unlock()
	if err != nil {
		p.idle <- b
		return err
	}
	b.plain = append(b.plain[:0], pages...)
	go func() {
		b.packed = p.encoder.EncodeAll(b.plain, b.packed[:0])
		var size [4]byte
		binary.LittleEndian.PutUint32(size[:], uint32(len(b.plain)))
		p.lock.Lock()
		if p.err != nil { // nothing follows a record that is missing
		} else if len(b.packed)+len(size) < len(b.plain) {
			p.err = w.record(recordPacked, head[:], size[:], b.packed)
		} else {
			p.err = w.record(recordPages, head[:], b.plain)
		}
		p.lock.Unlock()
		p.idle <- b
	}()
	return nil
}

// wait waits until all is written that was added.
func (p *packer) wait() error {
	var all []*packing
	for range packers {
		all = append(all, <-p.idle)
	}
	for _, b := range all {
		p.idle <- b
	}
	return p.err
}

// unpacker decompresses into no more room than it is given.
var unpacker = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(readers), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(maxPages), zstd.WithDecoderMaxWindow(maxPages))
})

// unpack decompresses what a record has behind its head.
func unpack(rec *record, into []byte) ([]byte, error) {
	b := rec.content[12:]
	size := binary.LittleEndian.Uint32(b)
	if size > uint32(len(into)) {
		return nil, damaged("record %d is too long", rec.number)
	}
	decoder, err := unpacker()
	if err != nil {
		return nil, err
	}
	plain, err := decoder.DecodeAll(b[4:], into[:0:size])
	if err != nil || len(plain) != int(size) {
		return nil, damaged("record %d cannot be decompressed", rec.number)
	}
	return plain, nil
}
