//go:build !amd64

package checkpoint

import "github.com/cgfreezer/freezer/internal/ptrace"

// There is no code here for other architectures: supported says so before any of
// this is used.

var guestCode, workerCode, initCode, callInstruction []byte

const (
	threadFlags     = 0
	restartNoHand   = 0
	restartWithRest = 0
)

func toReturn(*ptrace.Regs, *room)                          {}
func toCall(*ptrace.Regs, *room, int, []uintptr)            {}
func toFork(*ptrace.Regs, *room)                            {}
func toWork(_ *ptrace.Regs, _, _ uintptr, _, _, _ int)      {}
func toLast(_ *ptrace.Regs, _ uintptr, _ int, _ ...uintptr) {}
func toInit(_ *ptrace.Regs, _, _ uintptr, _ int)            {}
func setCall(*ptrace.Regs, int)                             {}
func restarts(*ptrace.Regs) bool                            { return false }
func fitsSmaller(*Thread) bool                              { return false }
func frameSize(*Thread, bool) int                           { return 0 }
func signalFrame(uintptr, *Thread, bool) []byte             { return nil }
func features([]byte) uint64                                { return 0 }
func workshop(_, _ uint64) []byte                           { return nil }
