package ptrace

import "unsafe"

// Dispatches says whether a tracee's system calls go to a handler of its own
// (PR_SET_SYSCALL_USER_DISPATCH), as programs have it that imitate another system.
func Dispatches(tid int) (bool, error) {
	const getConfiguration = 0x4211 // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, since Linux 6.4
	var conf struct{ mode, selector, offset, length uint64 }
	err := fill(getConfiguration, tid, unsafe.Sizeof(conf), unsafe.Pointer(&conf))
	return conf.mode != 0, err
}
