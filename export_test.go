package freezer

// Explain is what a Blocker's report says of a task, blocker or not.
func Explain(tid int) (Cause, bool) {
	t, ok := readTask(tid)
	if !ok {
		return Cause{}, false
	}
	t.readSyscall()
	return explain(t), true
}
