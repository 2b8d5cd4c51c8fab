"""A filter of system calls for Linux: no sockets, no processes, no namespaces.

Closes what namespaces leave open (the kernel's own surface, a fork bomb), for this
process and for good. Imports nothing but the standard library: it is run by its
path. Numbers are those of the kernel's asm/unistd.h; seccomp(2), bpf in
linux/filter.h.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable

# Audit architecture, numbers of the calls that are refused.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "x86_64": {
        "socket": 41,
        "fork": 57,
        "vfork": 58,
        "execve": 59,
        "ptrace": 101,
        "pivot_root": 155,
        "chroot": 161,
        "mount": 165,
        "umount2": 166,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "unshare": 272,
        "perf_event_open": 298,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "memfd_create": 319,
        "bpf": 321,
        "execveat": 322,
        "userfaultfd": 323,
    },
    "aarch64": {
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "chroot": 51,
        "unshare": 97,
        "ptrace": 117,
        "socket": 198,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "execve": 221,
        "perf_event_open": 241,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "memfd_create": 279,
        "bpf": 280,
        "execveat": 281,
        "userfaultfd": 282,
    },
}
REFUSED_EVERYWHERE = {  # newer calls have one number on all machines
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "mount_setattr": 442,
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
CLONE_THREAD = 0x10000  # a thread, which is allowed, and not a process
X32 = 0x40000000  # x86 calls of another numbering begin here

NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
FAIL = 0x00050000  # with an errno in the low bits
PR_SET_SECCOMP, MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]  # code, jumps if true and if false, operand


def filter_calls() -> None:
    """Refuse the calls from now on. Raises OSError where the kernel cannot."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    instructions = program(machine)
    packed = b"".join(struct.pack("HBBI", *one) for one in instructions)
    code = ctypes.create_string_buffer(packed)
    header = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def program(machine: str) -> list[Instruction]:
    """The filter as instructions: each test skips the return behind it, or not."""
    refused = [*REFUSED[machine].values(), *REFUSED_EVERYWHERE.values()]
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        *_unless(AT_LEAST, [X32], FAIL | errno.EPERM),
        *_unless(EQUAL, refused, FAIL | errno.EPERM),
        *_unless(EQUAL, [CLONE3], FAIL | errno.ENOSYS),  # libc falls back to clone
        (EQUAL, 1, 0, CLONE[machine]),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, FAIL | errno.EPERM),
        (RETURN, 0, 0, ALLOW),
    ]


def _unless(test: int, operands: Iterable[int], result: int) -> list[Instruction]:
    return [
        instruction
        for operand in operands
        for instruction in ((test, 0, 1, operand), (RETURN, 0, 0, result))
    ]
