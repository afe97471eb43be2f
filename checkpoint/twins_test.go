package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"
)

// memoryOf reads what an image has of its process 0, as a page by each address.
func memoryOf(t *testing.T, image []byte) map[uint64][]byte {
	t.Helper()
	r := newReader(bytes.NewReader(image))
	if _, err := r.begin(); err != nil {
		t.Fatal(err)
	}
	var lock sync.Mutex
	all := map[uint64][]byte{}
	err := r.memory(func(_ owner, address, _ uint64, data []byte) error {
		lock.Lock()
		defer lock.Unlock()
		for at := 0; at < len(data); at += pageSize {
			all[address+uint64(at)] = bytes.Clone(data[at : at+pageSize])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestTwinsTakeNoRoom(t *testing.T) {
	job := small()
	job.Processes[0].Mappings = []Mapping{{Start: 1 << 24, End: 1 << 30, Kind: kindPrivate}}
	random := rand.New(rand.NewPCG(1, 2))
	kinds := make([][]byte, 10)
	for i := range kinds {
		kinds[i] = make([]byte, pageSize)
		for k := range kinds[i] {
			kinds[i][k] = byte(random.Uint32())
		}
		if i > 7 { // what they are known by is the same
			copy(kinds[i], kinds[7])
			kinds[i][100+i] ^= 1
		}
	}
	for _, compress := range []string{"", Zstd} {
		var b bytes.Buffer
		w := &writer{w: &b}
		if err := errors.Join(w.begin(job), w.compress(compress)); err != nil {
			t.Fatal(err)
		}
		want := map[uint64][]byte{}
		for at := uint64(1 << 24); at < 1<<24+8<<20; at += maxPages {
			piece := make([]byte, 0, maxPages)
			for len(piece) < maxPages {
				kind := kinds[random.IntN(len(kinds))]
				for range 1 + random.IntN(5) {
					if len(piece) < maxPages {
						want[at+uint64(len(piece))] = kind
						piece = append(piece, kind...)
					}
				}
			}
			if err := w.pages(owner{}, at, piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		got := memoryOf(t, b.Bytes())
		for at, page := range want {
			if !bytes.Equal(got[at], page) {
				t.Fatalf("the page at %x is another", at)
			}
		}
		if len(got) != len(want) {
			t.Errorf("there are %d pages of %d", len(got), len(want))
		}
		t.Logf("%q: %d pages are %d bytes", compress, len(want), b.Len())
		if b.Len() > 4<<20 { // two of the kinds are not told from another one
			t.Errorf("%d pages are %d bytes", len(want), b.Len())
		}
	}
}

func TestImpossibleTwinsAreRefused(t *testing.T) {
	page := bytes.Repeat([]byte("x"), pageSize)
	twinOf := func(number, length uint32) []byte {
		b := make([]byte, 20)
		owner{}.put(b, 0x11000)
		binary.LittleEndian.PutUint32(b[12:], number)
		binary.LittleEndian.PutUint32(b[16:], length)
		return b
	}
	for what, c := range map[string]struct {
		number, length uint32
		before, ok     bool
	}{
		"a twin":           {0, 2 * pageSize, true, true},
		"the next one":     {1, pageSize, true, false},
		"one further on":   {0, pageSize, false, false},
		"half a page":      {0, 100, true, false},
		"none":             {0, 0, true, false},
		"more than fit in": {0, 1 << 31, true, false},
	} {
		var b bytes.Buffer
		w := &writer{w: &b}
		keep := func() error { return w.alike(toKeep, 0, owner{}, 0x10000, page) }
		err := w.begin(small())
		if c.before {
			err = errors.Join(err, keep())
		}
		err = errors.Join(err, w.record(recordTwins, twinOf(c.number, c.length)))
		if !c.before {
			err = errors.Join(err, keep())
		}
		if err = errors.Join(err, w.end()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Read(bytes.NewReader(b.Bytes())); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var b bytes.Buffer
	w := &writer{w: &b}
	err := w.begin(small())
	for range maxKept + 1 {
		err = errors.Join(err, w.alike(toKeep, 0, owner{}, 0x10000, page))
	}
	if err = errors.Join(err, w.end()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(&b); !errors.Is(err, ErrImage) {
		t.Errorf("too many: %v", err)
	}
}

// What looking for twins costs where there are none, beside a checksum of the same
// pages.
func BenchmarkNoTwins(b *testing.B) {
	data := make([]byte, maxPages)
	source := rand.NewChaCha8([32]byte{})
	b.SetBytes(int64(len(data)))
	b.Run("twins", func(b *testing.B) {
		var t twins
		for b.Loop() {
			b.StopTimer()
			_, _ = source.Read(data)
			b.StartTimer()
			for at := 0; at < len(data); at += pageSize {
				t.compare(data[at : at+pageSize])
			}
		}
	})
	b.Run("checksum", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			_, _ = source.Read(data)
			b.StartTimer()
			crc32.Checksum(data, castagnoli())
		}
	})
}
