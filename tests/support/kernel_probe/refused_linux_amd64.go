package main

// refused are system calls that the kernel is built without.
var refused = map[string]uintptr{
	"bpf": 321, "init_module": 175, "io_uring_setup": 425, "kcmp": 312, "kexec_load": 246,
	"keyctl": 250, "modify_ldt": 154, "process_vm_readv": 310, "swapon": 167, "userfaultfd": 323,
	"iopl": 172, "sysfs": 139, "uselib": 134,
}
