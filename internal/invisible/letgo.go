package invisible

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cgfreezer/freezer/internal/kernfs"
	"github.com/cgfreezer/freezer/internal/proc"
)

// A task whose call is minded has a tracer, and a task can have only one. So whoever
// has to trace it himself asks the other one to let go of all that it minds, by a signal
// that nothing else uses and that ends a process which does not mind (any more). The
// calls then begin anew in full.
const letGoSignal = unix.SIGSTKFLT

// letGo has a channel for each Minder of this process that is at work.
var letGo struct {
	sync.Mutex
	once sync.Once
	now  chan struct{} // closed at the next signal
}

// askedToLetGo returns a channel that is closed when this process is asked to. From
// the first call on the signal does no harm to it.
func askedToLetGo() <-chan struct{} {
	letGo.once.Do(func() {
		got := make(chan os.Signal, 1)
		signal.Notify(got, letGoSignal)
		letGo.now = make(chan struct{})
		go func() {
			for range got {
				letGo.Lock()
				close(letGo.now)
				letGo.now = make(chan struct{})
				letGo.Unlock()
			}
		}()
	})
	letGo.Lock()
	defer letGo.Unlock()
	return letGo.now
}

// LetGo has whoever minds the call of a task let go of it, if that is why the task
// is traced, and waits until it has, for at most a second. It says whether it has.
func LetGo(tid int) (done bool) {
	asked := false
	for begun := time.Now(); time.Since(begun) < time.Second; time.Sleep(time.Millisecond) {
		by, err := strconv.Atoi(proc.Status(tid, "TracerPid"))
		if err != nil || by == 0 {
			return asked
		}
		asked = true
		name, _ := kernfs.ReadFile(proc.Path(by, "comm"))
		if strings.TrimSpace(string(name)) != ThreadName || unix.Kill(proc.Process(by), letGoSignal) != nil {
			return false
		}
	}
	return false
}
