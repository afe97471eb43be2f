//go:build amd64

package checkpoint

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/proc"
)

// Each benchmark makes its own rounds, and reports medians beside a floor that is
// measured in the same run. Images are on tmpfs.
const rounds = 7

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2]) / 1e6
}

// imageDir is where images cost only memory.
func imageDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "freezer-bench-")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// forked is the time that a bulk subject has measured for a fork of itself.
func (s *subject) forked(b *testing.B) float64 {
	b.Helper()
	var us float64
	if _, err := fmt.Sscanf(s.said(), "fork %f", &us); err != nil {
		b.Fatal(err, s.said())
	}
	return us / 1000
}

// copyFloor is how long it takes to copy so much of a process's memory to a file, by
// one thread that does nothing else.
func copyFloor(b *testing.B, pid int, dir string) time.Duration {
	b.Helper()
	pagemap, err := os.Open(proc.Path(pid, "pagemap"))
	if err != nil {
		b.Fatal(err)
	}
	defer pagemap.Close()
	mem, err := os.Open(proc.Path(pid, "mem"))
	if err != nil {
		b.Fatal(err)
	}
	defer mem.Close()
	areas, err := readAreas(pid, "maps")
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(dir, "floor")
	out, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(path)
	defer out.Close()
	buf := make([]byte, maxPages)
	begin := time.Now()
	for _, a := range areas {
		if a.shared || strings.HasPrefix(a.name, "[v") {
			continue
		}
		runs, err := presentIn(int(pagemap.Fd()), a.start, a.end, a.inode != "0")
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range runs {
			for at := r.start; at < r.end; {
				part := buf[:min(uint64(len(buf)), r.end-at)]
				if err := readMemory(int(mem.Fd()), part, at); err != nil {
					b.Fatal(err)
				}
				if _, err := out.Write(part); err != nil {
					b.Fatal(err)
				}
				at += uint64(len(part))
			}
		}
	}
	return time.Since(begin)
}

// fillFloor is how long it takes to make so much new memory and to copy something
// there.
func fillFloor(b *testing.B, bytes int) time.Duration {
	b.Helper()
	from := make([]byte, maxPages)
	begin := time.Now()
	to, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		b.Fatal(err)
	}
	for at := 0; at < bytes; at += maxPages {
		copy(to[at:], from)
	}
	took := time.Since(begin)
	_ = unix.Munmap(to)
	return took
}

// BenchmarkCheckpoint makes images of jobs that go on, and restores them.
func BenchmarkCheckpoint(b *testing.B) {
	pipeline := "echo ready; sleep 1000" + strings.Repeat(" | cat", 19)
	for _, job := range []struct {
		name string
		cmd  func() *exec.Cmd
		mib  int
	}{
		{"sleep", func() *exec.Cmd { return exec.Command("sh", "-c", "echo ready; exec sleep 1000") }, 0},
		{"20-processes-with-pipes", func() *exec.Cmd { return exec.Command("sh", "-c", pipeline) }, 0},
		{"512-MiB", func() *exec.Cmd { return bulk(b, 512, "random") }, 512},
		{"512-MiB-of-zeros", func() *exec.Cmd { return bulk(b, 512, "zeros") }, 512},
		{"2-GiB", func() *exec.Cmd { return bulk(b, 2048, "random") }, 2048},
	} {
		b.Run(job.name, func(b *testing.B) {
			dir := imageDir(b)
			s := start(b, job.cmd())
			time.Sleep(200 * time.Millisecond)
			path := filepath.Join(dir, "image")
			var stopped, saved, restored, copied, filled []time.Duration
			var stats Stats
			for range rounds {
				if job.mib > 0 {
					copied = append(copied, copyFloor(b, s.cmd.Process.Pid, dir))
					filled = append(filled, fillFloor(b, job.mib<<20))
				}
				begin := time.Now()
				var err error
				if stats, err = SaveFile(context.Background(), s.group, path, SaveOptions{}); err != nil {
					b.Fatal(err)
				}
				saved, stopped = append(saved, time.Since(begin)), append(stopped, stats.Stopped)
			}
			fork := 0.0
			if job.mib > 0 {
				fork = s.forked(b)
			}
			image, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer image.Close()
			taken, err := ReadJob(image)
			if err != nil {
				b.Fatal(err)
			}
			for i := range 3 {
				_ = s.group.Kill(context.Background())
				if i == 0 {
					_ = s.cmd.Wait()
				}
				reapJob(b, taken)
				begin := time.Now()
				s.restoreFile(b, path)
				restored = append(restored, time.Since(begin))
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(stopped), "stopped-ms")
			b.ReportMetric(median(saved), "save-ms")
			b.ReportMetric(median(restored), "restore-ms")
			b.ReportMetric(float64(stats.Bytes)/(1<<20), "image-MiB")
			if job.mib > 0 {
				b.ReportMetric(fork, "floor-fork-ms")
				b.ReportMetric(median(stopped)/fork, "x-fork")
				b.ReportMetric(median(saved)/median(copied), "x-copy")
				b.ReportMetric(median(restored)/median(filled), "x-fill")
			}
		})
	}
}

func bulk(b *testing.B, mib int, kind string) *exec.Cmd {
	b.Helper()
	cmd := cSubject(b, "bulk")
	cmd.Args = append(cmd.Args, fmt.Sprint(mib), kind)
	return cmd
}

// BenchmarkIncremental compares an image of a job that has written to 1 % of its memory
// since the last one with a whole one.
func BenchmarkIncremental(b *testing.B) {
	dir := imageDir(b)
	s := start(b, bulk(b, 1024, "random"))
	b.Cleanup(func() { _ = Untrack(s.group) })
	save := func(name, base string) (time.Duration, Stats, string) {
		path := filepath.Join(dir, name)
		begin := time.Now()
		stats, err := SaveFile(context.Background(), s.group, path, SaveOptions{Track: true, Base: base})
		if err != nil {
			b.Fatal(err)
		}
		return time.Since(begin), stats, path
	}
	full, whole, base := save("0", "")
	var took, stopped []time.Duration
	var bytes int64
	for i := range rounds {
		s.tell(b, fmt.Sprint("touched ", i+1))
		t, stats, path := save(fmt.Sprint(i+1), base)
		if stats.Base == "" {
			b.Fatal("it is whole")
		}
		took, stopped, bytes, base = append(took, t), append(stopped, stats.Stopped), stats.Bytes, path
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(full)/1e6, "whole-ms")
	b.ReportMetric(median(took), "ms")
	b.ReportMetric(median(stopped), "stopped-ms")
	b.ReportMetric(100*median(took)/(float64(full)/1e6), "%time")
	b.ReportMetric(100*float64(bytes)/float64(whole.Bytes), "%size")
}

// BenchmarkMove moves a job of 1 GiB, of which it writes to 5 % each second.
func BenchmarkMove(b *testing.B) {
	s := start(b, bulk(b, 1024, "busy"))
	l := newLine()
	there := make(chan *Restored, 1)
	go func() {
		job, _ := Receive(context.Background(), l.toReader, l.fromWriter, s.f, RestoreOptions{Group: "there", NewPIDs: true})
		there <- job
	}()
	begin := time.Now()
	m, err := Send(context.Background(), s.group, l.toWriter, l.fromReader)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(time.Since(begin))/1e6, "ms")
	b.ReportMetric(float64(m.Stopped)/1e6, "stopped-ms")
	b.ReportMetric(float64(m.Rounds), "rounds")
	_ = s.cmd.Wait()
	job := <-there
	if g, err := s.f.Group("there"); err == nil {
		_ = g.Kill(context.Background())
	}
	_, _, _ = job.Wait()
}
