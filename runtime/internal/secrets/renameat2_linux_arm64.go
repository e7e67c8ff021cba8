package secrets

// sysRenameat2 is the number of renameat2(2), which package syscall has for some architectures only.
const sysRenameat2 = 276
