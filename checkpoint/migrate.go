package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/cgfreezer/freezer"
)

// A move from one host to another is a conversation. Who sends says a byte for what
// comes next, who receives answers by a line:
//
//	image  an image follows, which the next one builds on: "here", when all of it is
//	last   the last one follows, of a group that is stopped: "running", when it runs there
//
// or, at any time, "failed" and why. So the job exists all the time on one of the hosts
// and never runs on both.
const (
	sendImage = 'i'
	sendLast  = 'l'
)

// How long a job is sent while it runs: until so little is written meanwhile, or for
// so many rounds.
const (
	littleToSend = 8 << 20
	mostRounds   = 8
)

// A Moved tells how a job was moved.
type Moved struct {
	Rounds  int           `json:"rounds"`     // images that were sent while it ran
	Bytes   int64         `json:"bytes"`      // that were sent
	Stopped time.Duration `json:"stopped_ns"` // from here to there
	PID     int           `json:"pid"`        // there
}

// ErrLost is of a move whose other side was lost in the moment in which it may have
// begun to run the job. The group is frozen here, so that it runs on one host at most:
// thaw it if it does not run there, and kill it if it does.
var ErrLost = errors.New("the other host was lost when it was about to run the job, so that the job is frozen here")

// Send moves a group's processes to where Receive reads from to and writes to from,
// and kills them here when they run there. They go on here when it fails, unless the
// error is ErrLost. What is written to memory while it is sent is sent again; the job is
// stopped for the rest, and until all of it is in place there.
func Send(ctx context.Context, g *freezer.Group, to io.Writer, from io.Reader) (m Moved, err error) {
	answers := bufio.NewReader(from)
	defer func() { _ = Untrack(g) }()
	var base *Base
	for last := int64(0); m.Rounds < mostRounds; m.Rounds++ {
		stats, err := send(ctx, g, to, sendImage, SaveOptions{Track: true, base: base}, func() error { return answered(answers, "here") })
		m.Bytes += stats.Bytes
		if err != nil {
			return m, err
		}
		base = &Base{stats.ID, receivedPath}
		if stats.Untracked != "" || stats.Bytes < littleToSend || last > 0 && stats.Bytes > last*3/4 {
			m.Rounds++
			break
		}
		last = stats.Bytes
	}
	stats, err := send(ctx, g, to, sendLast, SaveOptions{Leave: Killed, base: base}, func() error {
		line, err := answer(answers)
		if err == nil {
			_, err = fmt.Sscanf(line, "running %d", &m.PID)
		} else if !errors.Is(err, errRefused) {
			err = errors.Join(ErrLost, err)
		}
		return err
	})
	m.Bytes, m.Stopped = m.Bytes+stats.Bytes, stats.Stopped
	return m, err
}

// receivedPath stands for the path of a base that was sent.
const receivedPath = "/received"

func send(ctx context.Context, g *freezer.Group, to io.Writer, what byte, o SaveOptions, commit func() error) (Stats, error) {
	sent := &announced{to: to, what: what}
	return save(ctx, g, sent, o, commit)
}

// An announced image begins with a byte that says what it is.
type announced struct {
	to    io.Writer
	what  byte
	begun bool
}

func (a *announced) Write(b []byte) (int, error) {
	if !a.begun {
		a.begun = true
		if _, err := a.to.Write([]byte{a.what}); err != nil {
			return 0, err
		}
	}
	return a.to.Write(b)
}

// errRefused is of what the other side has said.
var errRefused = errors.New("the other host says")

func answer(from *bufio.Reader) (string, error) {
	line, err := from.ReadString('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if why, ok := strings.CutPrefix(strings.TrimSpace(line), "failed "); ok && err == nil {
		return "", fmt.Errorf("%w: %s", errRefused, why)
	}
	return line, err
}

func answered(from *bufio.Reader, want string) error {
	line, err := answer(from)
	if err == nil && strings.TrimSpace(line) != want {
		err = fmt.Errorf("it answers %q", line)
	}
	if err != nil && !errors.Is(err, errRefused) {
		err = fmt.Errorf("the other host does not take the image: %w", err)
	}
	return err
}

// Receive is the other side of Send. It returns when the job runs here.
func Receive(ctx context.Context, in io.Reader, out io.Writer, f *freezer.Freezer, o RestoreOptions) (*Restored, error) {
	job, err := receive(ctx, in, out, f, o)
	if err != nil {
		fmt.Fprintf(out, "failed %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil, err
	}
	_, err = fmt.Fprintf(out, "running %d\n", job.PID)
	return job, err
}

func receive(ctx context.Context, in io.Reader, out io.Writer, f *freezer.Freezer, o RestoreOptions) (*Restored, error) {
	from := bufio.NewReaderSize(in, 1<<20)
	o.bases = map[string]*os.File{}
	defer func() {
		for _, image := range o.bases {
			image.Close()
		}
	}()
	for {
		what, err := from.ReadByte()
		if err != nil {
			return nil, cut(err)
		}
		if what != sendImage && what != sendLast {
			return nil, damaged("it is no move of a job")
		}
		image, err := receiveImage(from)
		if err != nil {
			return nil, err
		}
		if what == sendLast {
			defer image.Close()
			return Restore(ctx, image, f, o)
		}
		job, err := ReadJob(image)
		if err != nil {
			return nil, errors.Join(err, image.Close())
		}
		o.bases[job.ID] = image
		if _, err := fmt.Fprintln(out, "here"); err != nil {
			return nil, err
		}
	}
}

// receiveImage copies an image to a file without a name. It reads no further than to
// the image's end.
func receiveImage(from *bufio.Reader) (*os.File, error) {
	image, err := nameless()
	if err != nil {
		return nil, err
	}
	if err = newReader(from).copyRecords(image); err == nil {
		_, err = image.Seek(0, io.SeekStart)
	}
	if err != nil {
		image.Close()
		return nil, err
	}
	return image, nil
}
