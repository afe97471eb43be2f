package freezerfs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/freezerfs"
	"github.com/cgfreezer/freezer/freezertest"
	"github.com/cgfreezer/freezer/internal/proc"
)

// constEnv makes the test binary the server of a floor: a mount that is as
// little as the FUSE library lets one be, with one file a/const that always says
// the same. It may be cached no more than ours.
const constEnv = "FREEZERFS_TEST_CONST"

type constOrder struct{ Dir, Text string }

func serveConst(text string) error {
	var o constOrder
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	server, err := fs.Mount(o.Dir, &constRoot{text: []byte(o.Text)}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: os.Geteuid() == 0, DisableXAttrs: true},
	})
	if err != nil {
		return err
	}
	fmt.Println("0 mounted")
	server.Wait()
	return nil
}

type constRoot struct {
	fs.Inode
	text []byte
}

// OnAdd makes the directory and the file.
func (r *constRoot) OnAdd(ctx context.Context) {
	dir := r.NewPersistentInode(ctx, &fs.Inode{}, fs.StableAttr{Mode: syscall.S_IFDIR})
	r.AddChild("a", dir, true)
	dir.AddChild("const", dir.NewPersistentInode(ctx, &constFile{text: r.text}, fs.StableAttr{Mode: syscall.S_IFREG}), true)
}

type constFile struct {
	fs.Inode
	text []byte
}

// Open has each read come to the server.
func (f *constFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read says the same each time.
func (f *constFile) Read(_ context.Context, _ fs.FileHandle, _ []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultData(f.text[min(int(off), len(f.text)):]), 0
}

// constant mounts the floor and returns the file's path.
func (t *tree) constant(text string) string {
	t.Helper()
	dir := publicDir(t)
	order, err := json.Marshal(constOrder{dir, text})
	if err != nil {
		t.Fatal(err)
	}
	t.serve(dir, constEnv+"="+string(order))
	return filepath.Join(dir, "a", "const")
}

const rounds = 3000

// compareReads measures reading a file of ours beside one that says the same
// from memory: of a file that is open, and from open to close.
func compareReads(b *testing.B, tr *tree, name string) {
	ours, floor := tr.path(name), tr.constant(tr.read(name))
	b.Run("open-file", func(b *testing.B) {
		var ways []freezertest.Way
		for _, path := range []string{ours, floor} {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(fd)
			buf := make([]byte, 4096)
			ways = append(ways, freezertest.Way{Name: path, Do: func() error {
				_, err := unix.Pread(fd, buf, 0)
				return err
			}})
		}
		for b.Loop() {
			took := freezertest.Interleave(b, rounds, ways)
			freezertest.ReportFloor(b, took[0], took[1:])
		}
	})
	b.Run("open-to-close", func(b *testing.B) {
		var ways []freezertest.Way
		for _, path := range []string{ours, floor} {
			ways = append(ways, freezertest.Way{Name: path, Do: func() error { return cat(path) }})
		}
		for b.Loop() {
			took := freezertest.Interleave(b, rounds, ways)
			freezertest.ReportFloor(b, took[0], took[1:])
		}
	})
}

func cat(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for n := 1; n > 0 && err == nil; {
		n, err = unix.Read(fd, buf)
	}
	unix.Close(fd)
	return err
}

func eachBackend(b *testing.B, bench func(*testing.B, *tree)) {
	for _, backend := range freezertest.Backends { // others have no floor of the kernel's
		b.Run(backend, func(b *testing.B) {
			tr := mount(b, backend, freezerfs.Options{})
			tr.mkdir("a")
			bench(b, tr)
		})
	}
}

func BenchmarkReadState(b *testing.B) {
	eachBackend(b, func(b *testing.B, tr *tree) { compareReads(b, tr, "a/freezer.state") })
}

func BenchmarkReadTasks(b *testing.B) {
	eachBackend(b, func(b *testing.B, tr *tree) {
		for range 10 {
			tr.put(fmt.Sprint(freezertest.Sleeper(b)), "a/tasks")
		}
		compareReads(b, tr, "a/tasks")
	})
}

// BenchmarkMkdirRmdir measures both beside the kernel's own.
func BenchmarkMkdirRmdir(b *testing.B) {
	eachBackend(b, func(b *testing.B, tr *tree) {
		var ways []freezertest.Way
		for _, path := range []string{tr.path("x"), tr.f.Root() + "/y"} {
			ways = append(ways, freezertest.Way{Name: path, Do: func() error {
				if err := unix.Mkdir(path, 0o755); err != nil {
					return err
				}
				return unix.Rmdir(path)
			}})
		}
		for b.Loop() {
			took := freezertest.Interleave(b, rounds, ways)
			freezertest.ReportFloor(b, took[0], took[1:])
		}
	})
}

// BenchmarkServerMemory reports how much memory a server needs when clients have
// looked at all of 10,000 groups.
func BenchmarkServerMemory(b *testing.B) {
	eachBackend(b, func(b *testing.B, tr *tree) {
		for i := range 100 {
			tr.mkdir(fmt.Sprintf("a/%02d", i))
			for j := range 99 {
				tr.mkdir(fmt.Sprintf("a/%02d/%02d", i, j))
			}
		}
		var most int
		for b.Loop() {
			names, err := (system{tr}).List()
			if err != nil || len(names) < 10_000 {
				b.Fatal(len(names), err)
			}
			for _, name := range names {
				for _, file := range groupFiles {
					if err := cat(tr.path(name, file)); err != nil {
						b.Fatal(err)
					}
				}
			}
			field, _, _ := strings.Cut(proc.Status(tr.server, "VmHWM"), " ")
			most, _ = strconv.Atoi(field)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(most)/1024, "MiB")
		if most > 64*1024 {
			b.Errorf("the server has needed %d KiB, more than 64 MiB", most)
		}
	})
}
