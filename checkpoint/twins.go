package checkpoint

import (
	"bytes"
	"encoding/binary"
)

// Twins are pages with the same content, of whatever process. An image has such a
// page once, in a record that says to keep it, and after that only where else it is.
//
// To look for them must cost next to nothing where there are none. So a page is known
// by a few of its bytes; only when these are seen for a second time is the page kept,
// and only what is equal to a kept page byte by byte is its twin.
type twins struct {
	seen  []uint64          // marks that were seen, each at a place of its own
	kept  map[uint64]uint32 // marks to numbers of pages
	pages []byte            // that are kept
}

const (
	seenMarks = 1 << 16
	maxKept   = 4096 // pages, 16 MiB
)

// mark is what a page is known by.
func mark64(page []byte) uint64 {
	const prime = 0x9e3779b97f4a7c15
	h := uint64(1)
	for at := 0; at < pageSize; at += pageSize / 3 / 8 * 8 {
		h = (h ^ binary.LittleEndian.Uint64(page[at:])) * prime
		h ^= h >> 29
	}
	return h
}

// A likeness is what a page is to those before it.
type likeness int

const (
	unlike likeness = iota
	toKeep          // its twins are to be known
	twin
)

// compare says what a page is like, and the number of what is kept.
func (t *twins) compare(page []byte) (likeness, uint32) {
	m := mark64(page)
	if n, ok := t.kept[m]; ok {
		if bytes.Equal(page, t.page(n)) {
			return twin, n
		}
		return unlike, 0
	}
	if t.seen == nil {
		t.seen, t.kept = make([]uint64, seenMarks), map[uint64]uint32{}
	}
	if last := &t.seen[m%seenMarks]; *last != m || len(t.kept) == maxKept {
		*last = m
		return unlike, 0
	}
	n := uint32(len(t.kept))
	t.kept[m] = n
	t.pages = append(t.pages, page...)
	return toKeep, n
}

func (t *twins) page(n uint32) []byte { return t.pages[int(n)*pageSize:][:pageSize] }

// pages writes contents of memory, at most maxPages of them.
func (w *writer) pages(o owner, address uint64, data []byte) error {
	from, was, number := 0, unlike, uint32(0) // of the run that is not written yet
	for at := 0; ; at += pageSize {
		like, n := unlike, uint32(0)
		if at < len(data) {
			like, n = w.twins.compare(data[at : at+pageSize])
		}
		if at > from && (at == len(data) || like != was || n != number || was == toKeep) {
			if err := w.alike(was, number, o, address+uint64(from), data[from:at]); err != nil {
				return err
			}
			from = at
		}
		if at == len(data) {
			return nil
		}
		was, number = like, n
	}
}

// alike writes pages that are all of one likeness.
func (w *writer) alike(like likeness, number uint32, o owner, address uint64, pages []byte) error {
	var head [20]byte
	o.put(head[:], address)
	switch like {
	case toKeep:
		return w.locked(recordKept, head[:12], pages)
	case twin:
		binary.LittleEndian.PutUint32(head[12:], number)
		binary.LittleEndian.PutUint32(head[16:], uint32(len(pages)))
		return w.locked(recordTwins, head[:])
	}
	if w.packer != nil {
		return w.packer.add(w, [12]byte(head[:]), pages)
	}
	return w.record(recordPages, head[:12], pages)
}

// A keptPage is a page of an image that has twins further on.
type keptPage struct {
	there chan struct{} // closed when it is
	page  []byte
}

// keep has those who read on know the page.
func (k *keptPage) keep(page []byte) {
	k.page = bytes.Clone(page)
	close(k.there)
}

// twins fills plain with the pages of a record that has only a kept page's number.
// known are the pages that stand before it.
func (r *reader) twins(rec *record, plain []byte) ([]byte, error) {
	number, length := binary.LittleEndian.Uint32(rec.content[12:]), binary.LittleEndian.Uint32(rec.content[16:])
	if number >= uint32(len(rec.known)) || length > maxPages {
		return nil, damaged("record %d is like no page before it", rec.number)
	}
	kept := rec.known[number]
	select {
	case <-kept.there:
	case <-r.failed: // and why is said by who failed
		return nil, damaged("record %d is like a page that is damaged", rec.number)
	}
	for at := 0; at < int(length); at += pageSize {
		copy(plain[at:length], kept.page)
	}
	return plain[:length], nil
}
