package main

// refused are system calls that the kernel is built without.
var refused = map[string]uintptr{
	"bpf": 280, "init_module": 105, "io_uring_setup": 425, "kcmp": 272, "kexec_load": 104,
	"keyctl": 219, "process_vm_readv": 270, "swapon": 224, "userfaultfd": 282,
}
