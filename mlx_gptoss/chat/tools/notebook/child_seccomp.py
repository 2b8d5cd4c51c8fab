"""Filter system calls on Linux: no sockets, no processes, no hidden memory.

Closes what namespaces leave open (the kernel's own surface, fork bombs), permanently
and for this process. Also refuses memory that is not accounted to the process (shared
segments, message queues, inotify queues, pages in pipes, large socket buffers, BPF
programs), and signals from timers or files that would wake the process while it is
stopped.
Imports only the standard library, because it is run by its path. Numbers are those of
the kernel's asm/unistd.h; see seccomp(2), and linux/filter.h for BPF.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Iterable, Sequence

# Audit architectures, and the numbers of the refused calls.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "x86_64": {
        "shmget": 29,
        "socket": 41,
        "setsockopt": 54,
        "fork": 57,
        "vfork": 58,
        "execve": 59,
        "semget": 64,
        "msgget": 68,
        "ptrace": 101,
        "pivot_root": 155,
        "chroot": 161,
        "mount": 165,
        "umount2": 166,
        "io_setup": 206,
        "timer_create": 222,
        "mq_open": 240,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "inotify_init": 253,
        "unshare": 272,
        "vmsplice": 278,
        "inotify_init1": 294,
        "perf_event_open": 298,
        "fanotify_init": 300,
        "open_by_handle_at": 304,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "seccomp": 317,
        "memfd_create": 319,
        "bpf": 321,
        "execveat": 322,
        "userfaultfd": 323,
    },
    "aarch64": {
        "io_setup": 0,
        "inotify_init1": 26,
        "umount2": 39,
        "mount": 40,
        "pivot_root": 41,
        "chroot": 51,
        "vmsplice": 75,
        "unshare": 97,
        "timer_create": 107,
        "ptrace": 117,
        "mq_open": 180,
        "msgget": 186,
        "semget": 190,
        "shmget": 194,
        "socket": 198,
        "setsockopt": 208,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "execve": 221,
        "perf_event_open": 241,
        "fanotify_init": 262,
        "open_by_handle_at": 265,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "seccomp": 277,
        "memfd_create": 279,
        "bpf": 280,
        "execveat": 281,
        "userfaultfd": 282,
    },
}
REFUSED_EVERYWHERE = {  # newer calls have the same number on all machines
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "memfd_secret": 447,
}
# Calls refused for some arguments only.
CLONE = {"x86_64": 56, "aarch64": 220}
MMAP = {"x86_64": 9, "aarch64": 222}
FCNTL = {"x86_64": 72, "aarch64": 25}
PRCTL = {"x86_64": 157, "aarch64": 167}
CLONE3 = 435
CLONE_THREAD = 0x10000  # a thread, which is allowed, not a process
MAP_SHARED, MAP_ANONYMOUS = 0x01, 0x20  # together: memory that outlives its mapping
F_SETSIG, F_SETPIPE_SZ = 10, 1031  # wake by any signal; pipes of a megabyte
F_OFD_SETLK, F_OFD_SETLKW = 37, 38  # locks without an owner cannot be counted
FCNTL_REFUSED = (F_SETSIG, F_SETPIPE_SZ, F_OFD_SETLK, F_OFD_SETLKW)
PR_SET_PDEATHSIG, PR_SET_SECCOMP = 1, 22  # the link to the guard; more filters
PRCTL_REFUSED = (PR_SET_PDEATHSIG, PR_SET_SECCOMP)
X32 = 0x40000000  # x86 calls with another numbering start here

NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
ARGUMENT_BYTES = 8
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
FAIL = 0x00050000  # with an errno in the low bits
MODE_FILTER = 2

Instruction = tuple[int, int, int, int]  # code, jumps if true and if false, operand


def filter_calls() -> None:
    """Install the filter. Raises OSError where the kernel has none."""
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
    """Return the filter: each test skips the return that follows it, or does not."""
    refused = [*REFUSED[machine].values(), *REFUSED_EVERYWHERE.values()]
    refuse = (RETURN, 0, 0, FAIL | errno.EPERM)
    only_threads = [(ANY_BIT, 1, 0, CLONE_THREAD), refuse]
    not_shared = [(ANY_BIT, 0, 2, MAP_ANONYMOUS), (ANY_BIT, 0, 1, MAP_SHARED), refuse]
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        *_unless(AT_LEAST, [X32], FAIL | errno.EPERM),
        *_unless(EQUAL, refused, FAIL | errno.EPERM),
        *_unless(EQUAL, [CLONE3], FAIL | errno.ENOSYS),  # libc falls back to clone
        *_look_at(CLONE[machine], 0, only_threads),
        *_look_at(MMAP[machine], 3, not_shared),
        *_look_at(FCNTL[machine], 1, _unless(EQUAL, FCNTL_REFUSED, refuse[3])),
        *_look_at(PRCTL[machine], 0, _unless(EQUAL, PRCTL_REFUSED, refuse[3])),
        (RETURN, 0, 0, ALLOW),
    ]


def _unless(test: int, operands: Iterable[int], result: int) -> list[Instruction]:
    return [
        instruction
        for operand in operands
        for instruction in ((test, 0, 1, operand), (RETURN, 0, 0, result))
    ]


def _look_at(
    call: int, argument: int, tests: Sequence[Instruction]
) -> list[Instruction]:
    """Allow `call` unless `tests` of the low word of an argument refuse it."""
    at = FIRST_ARGUMENT + ARGUMENT_BYTES * argument
    body = [(LOAD, 0, 0, at), *tests, (RETURN, 0, 0, ALLOW)]
    return [(EQUAL, 0, len(body), call), *body]
