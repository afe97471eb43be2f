package checkpoint

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// small is a job as small as one can be.
func small() *Job {
	return &Job{
		Group: "g",
		Processes: []Process{{
			PID: 100, Directory: "/",
			Threads:  []Thread{{TID: 100, State: make([]byte, 576), Stack: make([]byte, 24)}},
			Mappings: []Mapping{{Start: 0x10000, End: 0x20000, Kind: kindPrivate}, {Start: 0x20000, End: 0x30000, Kind: kindFile}},
		}},
		Mapped:    []Mapped{{Path: "/bin/true"}},
		Shared:    []Shared{{Size: 1 << 20}},
		Terminals: []Terminal{{Number: 7, Settings: make([]byte, settingsSize)}},
		Files: []File{
			{Kind: fileMaster},
			{Kind: fileSocket, Socket: &Socket{ID: 1, Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, Peer: 2}},
			{Kind: fileSocket, Socket: &Socket{ID: 2, Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, Peer: 1}},
		},
	}
}

func written(t testing.TB, job *Job) []byte { return writtenAs(t, job, "") }

func writtenAs(t testing.TB, job *Job, compress string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &writer{w: &b}
	runs := func(o owner, from, to uint64, zeros bool, read func([]byte, uint64) error) error {
		all := sources{all: []source{{o, []run{{from, to}}, zeros, read}}}
		return all.chunks(w.chunk)
	}
	content := func(p []byte, at uint64) error {
		clear(p)
		for i := 0; i < len(p); i += pageSize {
			p[i] = byte((at + uint64(i)) >> 12)
		}
		return nil
	}
	for _, err := range []error{
		w.begin(job), w.compress(compress),
		runs(owner{true, 0}, 0, 8192, false, content),
		runs(owner{index: 0}, 0x11000, 0x13000, false, content),
		runs(owner{index: 0}, 0x21000, 0x25000, true, func(p []byte, _ uint64) error { clear(p); return nil }),
		w.end(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestAnImageIsReadAsItWasWritten(t *testing.T) {
	for _, compress := range []string{"", Zstd} {
		t.Run(compress, func(t *testing.T) { isReadAsItWasWritten(t, compress) })
	}
}

func isReadAsItWasWritten(t *testing.T, compress string) {
	r := newReader(bytes.NewReader(writtenAs(t, small(), compress)))
	if _, err := r.begin(); err != nil {
		t.Fatal(err)
	}
	var lock sync.Mutex // several pieces are stored at once
	var got []string
	err := r.memory(func(o owner, address, length uint64, data []byte) error {
		lock.Lock()
		defer lock.Unlock()
		switch {
		case o.shared && address == 4096 && length == 4096 && data[0] == 1: // the first page is zero
			got = append(got, "shared")
		case !o.shared && address == 0x11000 && length == 8192 && data[0] == 0x11:
			got = append(got, "private")
		case !o.shared && address == 0x21000 && length == 0x4000 && data == nil:
			got = append(got, "zeros")
		default:
			t.Errorf("there is %v %x %d", o, address, length)
		}
		return nil
	})
	if err != nil || len(got) != 3 {
		t.Errorf("got %v, %v", got, err)
	}
}

// mapShared has the first process map shared memory.
func mapShared(j *Job) {
	j.Processes[0].Mappings[0].Kind = kindShared
}

// What an image must not be made to do, however it was made.
func TestImpossibleJobsAreRefused(t *testing.T) {
	for what, spoil := range map[string]func(*Job){
		"no process":           func(j *Job) { j.Processes = nil },
		"PID 1":                func(j *Job) { j.Processes[0].PID, j.Processes[0].Threads[0].TID = 1, 1 },
		"a parent of nowhere":  func(j *Job) { j.Processes[0].Parent = 50 },
		"a session of nowhere": func(j *Job) { j.Processes[0].Session = 50 },
		"no thread":            func(j *Job) { j.Processes[0].Threads = nil },
		"a path out":           func(j *Job) { j.Processes[0].Group = "a/../../b" },
		"an absolute group":    func(j *Job) { j.Processes[0].Group = "/a" },
		"a relative file":      func(j *Job) { j.Mapped[0].Path = "bin/true" },
		"crossing mappings":    func(j *Job) { j.Processes[0].Mappings[1].Start = 0x1f000 },
		"kernel addresses":     func(j *Job) { j.Processes[0].Mappings[1].End = 1 << 60 },
		"page 0":               func(j *Job) { j.Processes[0].Mappings[0].Start = 0 },
		"no such shared":       func(j *Job) { j.Processes[0].Mappings[0].Kind, j.Processes[0].Mappings[0].Object = kindShared, 7 },
		"no such executable":   func(j *Job) { j.Processes[0].Executable = -1 },
		"descriptor 2^30":      func(j *Job) { j.Files = []File{{}}; j.Processes[0].Descriptors = []Descriptor{{FD: 1 << 30}} },
		"no such file":         func(j *Job) { j.Processes[0].Descriptors = []Descriptor{{File: 3}} },
		"signal 99":            func(j *Job) { j.Processes[0].Handlers = []Handler{{99, make([]byte, 32)}} },
		"half a signal":        func(j *Job) { j.Processes[0].Pending = [][]byte{make([]byte, 5)} },
		"a small XSAVE area":   func(j *Job) { j.Processes[0].Threads[0].State = nil },
		"no contents":          func(j *Job) { j.Files[0] = File{Kind: fileOfImage, Shared: 0} },
		"contents of nowhere":  func(j *Job) { j.Mapped[0].Contents = new(int) },
		"contents mapped": func(j *Job) {
			j.Shared[0].Contents = &Contents{Kind: contentsMemfd, Path: "/a", Length: 1 << 20}
			mapShared(j)
		},
		"contents too short": func(j *Job) { j.Shared[0].Contents = &Contents{Kind: contentsDeleted, Path: "/a", Length: 1} },
		"negative contents":  func(j *Job) { j.Shared[0].Contents = &Contents{Kind: contentsDeleted, Path: "/a", Length: -1} },
		"relative contents":  func(j *Job) { j.Shared[0].Contents = &Contents{Kind: contentsDeleted, Path: "a", Length: 1 << 20} },
		"unknown contents":   func(j *Job) { j.Shared[0].Contents = &Contents{Path: "/a", Length: 1 << 20} },
		"a file of memory": func(j *Job) {
			j.Shared[0].Contents = &Contents{Kind: contentsSystemV, Path: "/a", Length: 1 << 20}
			j.Files = []File{{Kind: fileOfImage}}
		},
		"memory -1": func(j *Job) {
			j.Shared[0].Contents = &Contents{Kind: contentsSystemV, Path: "/a", Length: 1 << 20, ID: -1}
		},
		"a timer twice":    func(j *Job) { j.Processes[0].PosixTimers = []PosixTimer{{ID: 1}, {ID: 1}} },
		"a timer's thread": func(j *Job) { j.Processes[0].PosixTimers = []PosixTimer{{Notify: 2}} },
		"half a packet":    func(j *Job) { j.Files = []File{{Kind: filePipe, Data: []byte("abc"), Packets: []int{2}}} },
		"an empty packet":  func(j *Job) { j.Files = []File{{Kind: filePipe, Data: []byte("abc"), Packets: []int{3, 0}}} },
		"a watch twice": func(j *Job) {
			j.Files = []File{{Kind: fileInotify, Paths: []WatchedPath{{WD: 1, Path: "/"}, {WD: 1, Path: "/"}}}}
		},
		"a foreign owner":    func(j *Job) { j.Files = []File{{Owner: &Owner{ID: 1}}} },
		"a barrier":          func(j *Job) { j.Processes[0].Settings.Membarrier = 1 },
		"a lock of nothing":  func(j *Job) { j.Processes[0].Locks = []Lock{{FD: 5, Kind: lockFlock}} },
		"half a socket":      func(j *Job) { j.Files[1].Socket = nil },
		"twins":              func(j *Job) { j.Files[1].Socket.ID = 2 },
		"half a connection":  func(j *Job) { j.Files[1].Socket.Peer = 7 },
		"its own peer":       func(j *Job) { j.Files[1].Socket.Peer = 1 },
		"peers of two kinds": func(j *Job) { j.Files[1].Socket.Type = unix.SOCK_SEQPACKET },
		"two were accepted": func(j *Job) {
			for _, f := range j.Files[1:] {
				f.Socket.Accepted, f.Socket.Name = true, []byte("\x01\x00\x00x")
			}
		},
		"an endless name": func(j *Job) { j.Files[1].Socket.Name = append([]byte{1, 0}, make([]byte, 200)...) },
		"a name upwards":  func(j *Job) { j.Files[1].Socket.Name = []byte("\x01\x00a/../../b") },
		"a place elsewhere": func(j *Job) {
			j.Files[1].Socket.Name, j.Files[1].Socket.Place = []byte("\x01\x00b"), &Place{Path: "/etc/b", From: "/"}
		},
		"a place of no name": func(j *Job) { j.Files[1].Socket.Place = &Place{Path: "/b", From: "/"} },
		"any option":         func(j *Job) { j.Files[1].Socket.Options = []Option{{1, 26, make([]byte, 4)}} },
		"half an option":     func(j *Job) { j.Files[1].Socket.Options = []Option{{1, unix.SO_SNDBUF, nil}} },
		"another family":     func(j *Job) { j.Files[1].Socket.Family = unix.AF_PACKET },
		"nobody's maker":     func(j *Job) { j.Files[1].Socket.Maker = &Maker{PID: -4} },
		"half an address": func(j *Job) {
			j.Files[1].Socket = &Socket{ID: 1, Family: unix.AF_INET, Type: unix.SOCK_STREAM, Name: []byte{2, 0, 1}}
			j.Files[2] = File{}
		},
		"a raw socket": func(j *Job) {
			j.Files[1].Socket = &Socket{ID: 1, Family: unix.AF_INET, Type: unix.SOCK_RAW}
			j.Files[2] = File{}
		},
		"no TCP": func(j *Job) {
			j.Files[1].Socket = &Socket{ID: 1, Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: 262}
			j.Files[2] = File{}
		},
		"a call outside": func(j *Job) {
			j.Files[1].Socket = &Socket{ID: 1, Family: unix.AF_INET, Type: unix.SOCK_STREAM, Name: loopback(&Socket{Family: unix.AF_INET}), Remote: loopback(&Socket{Family: unix.AF_INET})}
			j.Files[2] = File{}
		},
		"gone, and connected": func(j *Job) { j.Files[1].Socket.Gone = true },
		"datagrams gone": func(j *Job) {
			j.Files[1].Socket = &Socket{ID: 1, Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Gone: true}
			j.Files[2] = File{}
		},
		"an end of no address": func(j *Job) {
			for _, f := range j.Files[1:] {
				f.Socket.Family = unix.AF_INET
			}
		},
		"who waits is none":    func(j *Job) { j.Files[1].Socket.Waiting = []uint64{9} },
		"a terminal of none":   func(j *Job) { j.Files[0].Kind = fileTerminal },
		"two masters":          func(j *Job) { j.Files = append(j.Files, File{Kind: fileMaster}) },
		"terminal 7 of 1":      func(j *Job) { j.Files[0].Terminal = 7 },
		"terminal number 2^30": func(j *Job) { j.Terminals[0].Number = 1 << 30 },
		"half the settings":    func(j *Job) { j.Terminals[0].Settings = nil },
		"a follower's":         func(j *Job) { j.Processes[0].Terminal = 1 },
		"nobody in front":      func(j *Job) { j.Processes[0].Session, j.Processes[0].Terminal, j.Processes[0].Foreground = 100, 1, 7 },
		"endless shared":       func(j *Job) { j.Shared[0].Size = 1 << 63 },
	} {
		job := small()
		spoil(job)
		var b bytes.Buffer
		w := &writer{w: &b}
		_ = w.begin(job)
		_ = w.end()
		if _, _, err := Read(&b); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// asFile is an image as a file, whose memory is read by several at once.
func asFile(t *testing.T, image []byte) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "image")
	if _, err := f.WriteAt(image, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDamagedImagesAreFound(t *testing.T) {
	for _, compress := range []string{"", Zstd} {
		t.Run(compress, func(t *testing.T) { damageIsFound(t, writtenAs(t, small(), compress)) })
	}
}

func damageIsFound(t *testing.T, image []byte) {
	found := func(damaged []byte, what string, n int) {
		t.Helper()
		if _, _, err := Read(bytes.NewReader(damaged)); !errors.Is(err, ErrImage) {
			t.Fatalf("%s %d: %v", what, n, err)
		}
		f := asFile(t, damaged)
		defer f.Close()
		if _, _, err := Read(f); !errors.Is(err, ErrImage) {
			t.Fatalf("%s %d, of a file: %v", what, n, err)
		}
	}
	f := asFile(t, image)
	defer f.Close()
	if _, _, err := Read(f); err != nil {
		t.Fatal(err)
	}
	found(append(bytes.Clone(image), 0), "something follows byte", len(image))
	for length := 0; length < len(image); length += 1 + length/50 {
		found(image[:length], "it is cut at byte", length)
	}
	bits := 2000
	if os.Getenv("FREEZER_LONG") != "" {
		bits = 10000
	}
	for range bits {
		bit := rand.IntN(8 * len(image))
		image[bit/8] ^= 1 << (bit % 8)
		found(image, "bit", bit)
		image[bit/8] ^= 1 << (bit % 8)
	}
}

func FuzzRead(f *testing.F) {
	whole := written(f, small())
	f.Add(writtenAs(f, small(), Zstd))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("frez"))
	f.Fuzz(func(t *testing.T, image []byte) {
		if job, _, err := Read(bytes.NewReader(image)); err == nil {
			job.Summarize()
		}
	})
}

func TestBuildIDsAreRead(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip(err)
	}
	if id := buildID("/bin/sh"); len(id) != 40 {
		t.Skipf("/bin/sh has no build ID of the usual length: %q", id)
	}
	if id := buildID("/etc/passwd"); id != "" {
		t.Errorf("/etc/passwd has the build ID %s", id)
	}
}
