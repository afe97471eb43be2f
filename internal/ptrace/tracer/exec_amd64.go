package tracer

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// execCode is an execve, whose arguments are in the registers already; the
// register of its number is set by the end of the first one. Should it fail, the program begins at its entry all the same, with
// the registers that the kernel gives it: zeros.
func execCode(entry uintptr) []byte {
	code := []byte{
		0xb8, unix.SYS_EXECVE, 0, 0, 0, // mov eax, SYS_EXECVE
		0x0f, 0x05, // syscall
		0x31, 0xc0, // xor eax, eax
		0x31, 0xff, // xor edi, edi
		0x31, 0xf6, // xor esi, esi
		0x31, 0xd2, // xor edx, edx
		0x31, 0xc9, // xor ecx, ecx
		0x45, 0x31, 0xdb, // xor r11d, r11d
		0xff, 0x25, 0, 0, 0, 0, // jmp [rip]
	}
	return binary.LittleEndian.AppendUint64(code, uint64(entry))
}
