package checkpoint

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestASeriesKeepsTheNewestImages(t *testing.T) {
	dir := t.TempDir()
	s := Series{Path: filepath.Join(dir, "sim.image"), Keep: 3}
	others := []string{"sim.image", "sim.image.old", "sim.image.20260131T120000Z.x", "other.image.20260131T120000Z", "sim.image.20261331T120000Z"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	take := func(minute int) string {
		t.Helper()
		path := s.At(begin.Add(time.Duration(minute) * time.Minute))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Prune(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var all []string
	for minute := range 5 {
		all = append(all, take(minute))
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, all[2:]) {
		t.Errorf("there are %v, %v", got, err)
	}
	early := take(-100) // the clock was set back
	if got, err := s.List(); err != nil || !slices.Equal(got, []string{early, all[3], all[4]}) {
		t.Errorf("there are %v, %v", got, err)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
