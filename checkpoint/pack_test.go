//go:build amd64

package checkpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/cgfreezer/freezer"
)

// packed is an image whose memory is compressed as a hostile writer might do it.
func packed(t *testing.T, size uint32, frame []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &writer{w: &b}
	var head [16]byte
	owner{index: 0}.put(head[:], 0x11000)
	binary.LittleEndian.PutUint32(head[12:], size)
	if err := errors.Join(w.begin(small()), w.record(recordPacked, head[:], frame), w.record(recordEnd)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDecompressionIsBounded(t *testing.T) {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros := func(n int) []byte { return encoder.EncodeAll(make([]byte, n), nil) }
	if _, size, err := Read(bytes.NewReader(packed(t, pageSize, zeros(pageSize)))); err != nil || size != pageSize {
		t.Errorf("a page: %d, %v", size, err)
	}
	for what, image := range map[string][]byte{
		"a bomb":             packed(t, pageSize, zeros(64<<20)),
		"many small frames":  packed(t, pageSize, bytes.Repeat(zeros(1<<20), 100)),
		"less than is said":  packed(t, 2*pageSize, zeros(pageSize)),
		"more than may be":   packed(t, 1<<31, zeros(pageSize)),
		"half a page":        packed(t, 100, zeros(100)),
		"nothing":            packed(t, 0, zeros(0)),
		"no frame":           packed(t, pageSize, []byte("nonsense")),
		"memory not mapped":  packed(t, 1<<20, zeros(1<<20)),
		"only a small frame": packed(t, pageSize, zeros(pageSize)[:5]),
	} {
		if _, _, err := Read(bytes.NewReader(image)); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestACompressedImageIsSmallerAndAsGood(t *testing.T) {
	s := start(t, goSubject(t, "runtime"))
	var plain, image bytes.Buffer
	if _, err := Save(context.Background(), s.group, &plain, SaveOptions{Snapshot: WhileStopped}); err != nil {
		t.Fatal(err)
	}
	if _, err := Save(context.Background(), s.group, &bytes.Buffer{}, SaveOptions{Compress: "lzw"}); !errors.Is(err, freezer.ErrUnsupported) {
		t.Errorf("an unknown compression: %v", err)
	}
	if _, err := Save(context.Background(), s.group, &image, SaveOptions{Compress: Zstd, Leave: Killed}); err != nil {
		t.Fatal(err)
	}
	if image.Len() > plain.Len()/2 {
		t.Errorf("it has %d bytes, and %d uncompressed", image.Len(), plain.Len())
	}
	_ = s.cmd.Wait()
	reap(t, image.Bytes())
	goesOn(t, s, s.restore(t, image.Bytes()))
}
