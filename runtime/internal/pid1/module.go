package pid1

import (
	"syscall"
	"unsafe"
)

// finitModule is finit_module(2), which the syscall package lacks.
func finitModule(descriptor int, parameters *byte) error {
	_, _, errno := syscall.Syscall(
		sysFinitModule, uintptr(descriptor), uintptr(unsafe.Pointer(parameters)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
