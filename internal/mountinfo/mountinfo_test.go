package mountinfo

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, line string
		want       Mount
		readOnly   bool
		freezer    bool
	}{
		{
			"a hybrid host's cgroup1 freezer",
			"37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer",
			Mount{"37", "0:34", "/", "/sys/fs/cgroup/freezer", "rw,relatime", "cgroup", "cgroup", "rw,freezer"},
			false, true,
		},
		{
			"controllers that share a hierarchy",
			"30 25 0:26 / /sys/fs/cgroup/cpu,freezer rw,nosuid shared:9 - cgroup cgroup rw,cpu,freezer",
			Mount{"30", "0:26", "/", "/sys/fs/cgroup/cpu,freezer", "rw,nosuid", "cgroup", "cgroup", "rw,cpu,freezer"},
			false, true,
		},
		{
			"a container's, read-only, with optional fields",
			"41 31 0:38 /docker/x /sys/fs/cgroup ro,nosuid shared:1 master:2 propagate_from:3 unbindable - cgroup2 cgroup rw,nsdelegate",
			Mount{"41", "0:38", "/docker/x", "/sys/fs/cgroup", "ro,nosuid", "cgroup2", "cgroup", "rw,nsdelegate"},
			true, false,
		},
		{
			"a file system that is read-only as a whole",
			"41 31 0:38 / /c rw - cgroup cgroup ro,freezer",
			Mount{"41", "0:38", "/", "/c", "rw", "cgroup", "cgroup", "ro,freezer"},
			true, true,
		},
		{
			"a name like the controller's is not the controller",
			"41 31 0:38 / /c rw - cgroup cgroup rw,name=freezer,xfreezer",
			Mount{"41", "0:38", "/", "/c", "rw", "cgroup", "cgroup", "rw,name=freezer,xfreezer"},
			false, false,
		},
		{
			"blank, tab, newline and backslash in paths",
			`41 31 0:38 /a\134b /mnt\040x/y\011z\012 rw - fuse.sshfs me@host:\040 rw`,
			Mount{"41", "0:38", `/a\b`, "/mnt x/y\tz\n", "rw", "fuse.sshfs", "me@host: ", "rw"},
			false, false,
		},
		{
			"a backslash that begins no escape",
			`41 31 0:38 / /a\9\04 rw - x y rw`,
			Mount{"41", "0:38", "/", `/a\9\04`, "rw", "x", "y", "rw"},
			false, false,
		},
		{
			"a source that is empty",
			"41 31 0:38 / /c rw - cgroup  rw,freezer",
			Mount{"41", "0:38", "/", "/c", "rw", "cgroup", "", "rw,freezer"},
			false, true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Parse([]byte(test.line + "\n"))
			if len(got) != 1 || got[0] != test.want {
				t.Fatalf("Parse(%q) = %+v, want %+v", test.line, got, test.want)
			}
			if got[0].ReadOnly() != test.readOnly || got[0].HasController("freezer") != test.freezer {
				t.Errorf("read-only %v, freezer %v", got[0].ReadOnly(), got[0].HasController("freezer"))
			}
		})
	}
}

func TestParseLeavesOutWhatIsNoMount(t *testing.T) {
	for _, text := range []string{"", "\n", "1 2 3", "1 2 0:1 / /x rw shared:1 cgroup cgroup rw", "1 2 0:1 / /x - cgroup cgroup rw", "1 2 0:1 / /x rw - cgroup cgroup"} {
		if got := Parse([]byte(text)); got != nil {
			t.Errorf("Parse(%q) = %+v", text, got)
		}
	}
	two := "broken\n1 2 0:1 / /x rw - t s rw\nbroken\n2 2 0:1 / /y rw - t s rw"
	if got := Parse([]byte(two)); len(got) != 2 || got[1].Point != "/y" {
		t.Errorf("Parse(%q) = %+v", two, got)
	}
}

func TestSelfFindsProc(t *testing.T) {
	mounts, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m.Type == "proc" && m.Point == "/proc" {
			return
		}
	}
	t.Errorf("no /proc in %+v", mounts)
}

// escape is what the kernel does to paths (show_path, mangle).
var escape = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)

// FuzzPathsComeBack makes lines as the kernel does, and reads them.
func FuzzPathsComeBack(f *testing.F) {
	f.Add("/", "/sys/fs/cgroup", "cgroup2", "cgroup")
	f.Add(`/a\040b`, "/x - y/\n", "fuse", " ")
	f.Add("/-", "/-", "-", "-")
	f.Fuzz(func(t *testing.T, root, point, fstype, source string) {
		fstype = escape.Replace(fstype)
		line := fmt.Sprintf("41 31 0:38 %s %s rw shared:1 - %s %s rw,freezer\n",
			escape.Replace(root), escape.Replace(point), fstype, escape.Replace(source))
		got := Parse([]byte(line))
		want := Mount{"41", "0:38", root, point, "rw", fstype, source, "rw,freezer"}
		if len(got) != 1 || got[0] != want {
			t.Errorf("Parse(%q) = %+v, want %+v", line, got, want)
		}
	})
}

// FuzzParse reads anything at all.
func FuzzParse(f *testing.F) {
	f.Add([]byte("37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer\n"))
	f.Add([]byte(`1 2 3 \ \0 rw - \777 \`))
	f.Fuzz(func(t *testing.T, text []byte) {
		mounts := Parse(text)
		if lines := strings.Count(string(text), "\n") + 1; len(mounts) > lines {
			t.Errorf("%d mounts in %d lines", len(mounts), lines)
		}
		for _, m := range mounts {
			if strings.ContainsAny(m.ID+m.Device+m.Options+m.Type, " \n") {
				t.Errorf("a field is more than a field: %+v", m)
			}
		}
	})
}
