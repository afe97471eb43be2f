// Package checkpoint writes all that the processes of a group are to an image,
// and starts them again from it where they were, with the same PIDs.
//
//	obstacles, err := checkpoint.Check(group)        // what would not be carried
//	stats, err := checkpoint.SaveFile(ctx, group, "sim.image", checkpoint.SaveOptions{Leave: checkpoint.Killed})
//	...
//	r, err := os.Open("sim.image")
//	job, err := checkpoint.Restore(ctx, r, freezer, checkpoint.RestoreOptions{})
//	status, signal, err := job.Wait()
//
// It is all or nothing: what an image would not carry is found before it is
// written, and refused with its name (RefusedError). docs/checkpoint.md lists what
// is carried, what is refused, what nobody can see, and the form of an image.
//
// Save stops the tasks by ptrace alone, so that they run on when this program is
// killed, at whatever moment; Restore leaves nothing behind then, unless it has
// let the job go. Both keep to one thread of the operating system while they work,
// as ptrace wants it. Several may be called at once for different groups.
//
// It needs x86-64, the right to trace the processes and, to restore them, root's
// or CAP_CHECKPOINT_RESTORE. An image is a program: who restores one runs what is
// in it, with his own rights. It is not what limits them.
package checkpoint
