//go:build !amd64

package invisible

// kinds is empty: the calls of this architecture have not been measured, or, as
// on arm64, a stopped task does not show the call's first argument any more.
var kinds, sleeps map[int]kind

const restartCall = -1

func restartedCall(string, uint64) int { return 0 }
