"""The kernel's fragments: readable, alike where they can be, and nothing on that must be off.

That the options exist and hold in the end is checked by runtime/kernel/build.sh: it has the source.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal

import pytest

from cagebuild.nitro.cmdline import CMDLINE

ROOT: Final = Path(__file__).parents[3]
Architecture = Literal["x86_64", "aarch64"]
ARCHITECTURES: Final[tuple[Architecture, ...]] = ("x86_64", "aarch64")

_SET = re.compile(r'CONFIG_([A-Za-z0-9_]+)=(y|-?[0-9]+|"[^"]*")')
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")

OWN: Final = re.compile(
    # the machine and its processor
    r"64BIT|GENERIC_CPU|PROCESSOR_SELECT|CPU_SUP_.*|X86_.*|ARM64_.*|SERIAL_(AMBA|OF)_.*|RTC_.*"
    r"|HYPERVISOR_GUEST|PARAVIRT|KVM_GUEST|MTRR|KERNEL_GZIP|EARLY_PRINTK|PERF_EVENTS"
    # 32-bit and older programs
    r"|IA32_EMULATION|COMPAT|COMPAT_VDSO|MODIFY_LDT_SYSCALL|LEGACY_VSYSCALL_NONE"
    # its defences
    r"|MITIGATION_.*|MITIGATE_.*|UNMAP_KERNEL_AT_EL0|RODATA_FULL_DEFAULT_ENABLED|SHADOW_CALL_STACK"
    r"|RANDOMIZE_MEMORY|ARCH_MMAP_RND_BITS|UNWINDER_ORC|SECURITY_PERF_EVENTS_RESTRICT"
)
"""Options that may stand in one fragment only, or differ."""

REQUIRED: Final = {
    "what an enclave is made of": (
        "VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES VSOCKETS VIRTIO_VSOCKETS NSM HW_RANDOM"
        " SERIAL_8250_CONSOLE BLK_DEV_INITRD DEVTMPFS PROC_FS SYSFS TMPFS UNIX98_PTYS SMP"
    ),
    "what apps are promised": (
        "UNIX INET IPV6 TUN OVERLAY_FS TMPFS_XATTR TMPFS_POSIX_ACL SYSVIPC POSIX_MQUEUE FUTEX EPOLL"
        " SECCOMP_FILTER USER_NS PID_NS NET_NS PTP_1588_CLOCK_KVM BINFMT_ELF BINFMT_SCRIPT"
    ),
    "the control groups that AWS's init mounts": (
        "CGROUPS CPUSETS CPUSETS_V1 MEMCG MEMCG_V1 CGROUP_SCHED CGROUP_CPUACCT CGROUP_DEVICE"
        " CGROUP_FREEZER CGROUP_PIDS"
    ),
    "hardening": (
        "RANDOMIZE_BASE RANDOMIZE_KSTACK_OFFSET_DEFAULT STRICT_KERNEL_RWX VMAP_STACK"
        " STACKPROTECTOR_STRONG INIT_ON_ALLOC_DEFAULT_ON INIT_STACK_ALL_ZERO ZERO_CALL_USED_REGS"
        " SLAB_FREELIST_RANDOM SLAB_FREELIST_HARDENED RANDOM_KMALLOC_CACHES SHUFFLE_PAGE_ALLOCATOR"
        " HARDENED_USERCOPY FORTIFY_SOURCE UBSAN_BOUNDS LIST_HARDENED BUG_ON_DATA_CORRUPTION"
        " PANIC_ON_OOPS CPU_MITIGATIONS SECURITY_LOCKDOWN_LSM_EARLY SECURITY_YAMA SECURITY_LANDLOCK"
        " LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY SECURITY_DMESG_RESTRICT STATIC_USERMODEHELPER"
    ),
}

FORBIDDEN: Final = {
    "code that wasn't measured": (
        "MODULES KEXEC KEXEC_FILE HIBERNATION KPROBES UPROBES FTRACE LIVEPATCH BPF_SYSCALL"
        " FW_LOADER"
    ),
    "memory from outside of a process": (
        "DEVMEM DEVPORT PROC_KCORE PROC_VMCORE DEBUG_FS COREDUMP MAGIC_SYSRQ CROSS_MEMORY_ATTACH"
        " USERFAULTFD"
    ),
    "hardware that isn't there": "PCI ACPI EFI INPUT SERIO VT USB_SUPPORT SOUND BLOCK",
    "attack surface": (
        "BINFMT_MISC IO_URING KEYS PACKET NETFILTER NET_SCHED LDISC_AUTOLOAD LEGACY_TIOCSTI"
        " LEGACY_PTYS COMPAT_BRK UID16 USELIB CRYPTO"
    ),
    "what makes builds differ or stop": "LOCALVERSION_AUTO IKCONFIG WERROR GCC_PLUGINS",
}

FORBIDDEN_X86: Final = (
    "IA32_EMULATION X86_X32_ABI X86_16BIT MODIFY_LDT_SYSCALL X86_IOPL_IOPERM X86_MSR X86_CPUID"
    " X86_VSYSCALL_EMULATION"
)


def fragment(architecture: Architecture) -> list[str]:
    text = (ROOT / "runtime/kernel" / f"{architecture}.config").read_text("ascii")
    assert text.endswith("\n")
    return text.splitlines()


def option(line: str) -> tuple[str, str] | None:
    """Name and value of an option's line, ``n`` where it is off; None for a comment."""
    if found := _SET.fullmatch(line):
        return found[1], found[2]
    if found := _UNSET.fullmatch(line):
        return found[1], "n"
    return None


def options(architecture: Architecture) -> dict[str, str]:
    return dict(filter(None, map(option, fragment(architecture))))


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    chosen: Architecture = request.param
    return chosen


def test_a_line_is_an_option_or_a_comment_or_empty(architecture: Architecture) -> None:
    for number, line in enumerate(fragment(architecture), 1):
        where = f"{architecture}.config:{number}: {line!r}"
        assert len(line) <= 100, where
        if option(line) or not line:
            continue
        assert line.startswith("# "), where
        # A misspelt option would be a comment to Kconfig, and on or off as it likes.
        assert not re.match(r"# ?CONFIG|CONFIG", line), where


def test_no_option_is_given_twice(architecture: Architecture) -> None:
    names = [found[0] for line in fragment(architecture) if (found := option(line))]
    assert sorted(names) == sorted(set(names))


def test_every_group_has_a_comment(architecture: Architecture) -> None:
    groups = "\n".join(fragment(architecture)).split("\n\n")
    bare = [group for group in groups if option(group.strip("\n").split("\n")[0])]
    assert not bare


def test_the_architectures_agree_but_for_their_hardware() -> None:
    one, other = (options(architecture) for architecture in ARCHITECTURES)
    differing = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    assert {name for name in differing if not OWN.fullmatch(name)} == set()


def test_shared_options_stand_in_the_same_order() -> None:
    def shared(architecture: Architecture) -> list[str]:
        lines = fragment(architecture)
        names = [found[0] for line in lines if (found := option(line))]
        return [name for name in names if name in both and not OWN.fullmatch(name)]

    both = options("x86_64").keys() & options("aarch64").keys()
    assert shared("x86_64") == shared("aarch64")


@pytest.mark.parametrize("why", REQUIRED)
def test_what_must_be_on(architecture: Architecture, why: str) -> None:
    given = options(architecture)
    assert [name for name in REQUIRED[why].split() if given.get(name) != "y"] == []


@pytest.mark.parametrize("why", FORBIDDEN)
def test_what_must_be_off_is_said_to_be_off(architecture: Architecture, why: str) -> None:
    """In so many words: build.sh then fails when something else selects it."""
    given = options(architecture)
    assert [name for name in FORBIDDEN[why].split() if given.get(name) != "n"] == []


def test_what_must_be_off_on_x86_64() -> None:
    given = options("x86_64")
    assert [name for name in FORBIDDEN_X86.split() if given.get(name) != "n"] == []
    assert given["LEGACY_VSYSCALL_NONE"] == "y"


def test_no_mitigation_is_left_out_without_a_reason() -> None:
    off = {name for name, value in options("x86_64").items() if value == "n"}
    assert {name for name in off if "MITIGATION" in name} == {"MITIGATION_CALL_DEPTH_TRACKING"}


def test_the_lsms_that_are_built_are_started(architecture: Architecture) -> None:
    assert options(architecture)["LSM"] == '"lockdown,yama,landlock"'


def test_the_console_is_the_command_lines(architecture: Architecture) -> None:
    assert "console=ttyS0" in CMDLINE[architecture].split()
    assert options(architecture)["SERIAL_8250_RUNTIME_UARTS"] == "1"
