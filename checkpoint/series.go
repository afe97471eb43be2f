package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Series is the images that are taken of one group, one after the other. Each is a
// file of its own, whose name is Path and the time (UTC) at which it was begun, as in
// sim.image.20260131T120000Z: so the last one by name is the newest.
type Series struct {
	Path string
	Keep int // how many are kept, at least 1
}

const seriesTime = "20060102T150405Z"

// At is the name of the image of a time.
func (s Series) At(t time.Time) string { return s.Path + "." + t.UTC().Format(seriesTime) }

// List lists the images, the oldest first.
func (s Series) List() (paths []string, err error) {
	all, err := os.ReadDir(filepath.Dir(s.Path))
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		text, ok := strings.CutPrefix(e.Name(), filepath.Base(s.Path)+".")
		if t, err := time.Parse(seriesTime, text); ok && err == nil && t.Format(seriesTime) == text && e.Type().IsRegular() {
			paths = append(paths, s.Path+"."+text)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// Prune removes the oldest images but for those to keep. The newest, which must be
// safe, is one of these, also when the clock was set back.
func (s Series) Prune(newest string) error {
	all, err := s.List()
	if err != nil {
		return err
	}
	old := slices.DeleteFunc(all, func(path string) bool { return path == newest })
	var errs []error
	for _, path := range old[:max(0, len(old)-max(s.Keep, 1)+1)] {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
