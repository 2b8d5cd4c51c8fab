"""Enter new Linux namespaces, then run the kernel there.

    python -I child_linux.py '{"replies": 3, "readable": [...], "drive": ..., ...}'

All that is left of the machine are the folders `readable`, read-only, and `drive`, an
empty folder in memory: no network, no other files, no other processes. Needs no
privilege where the system lets users create namespaces. If isolation fails, replies
{"refused": "..."} and runs nothing. Imports only the standard library. See
user_namespaces(7), pivot_root(2), mount_setattr(2).
"""

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = (
    CLONE_NEWNS
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
LAST_CAPABILITY = 63
USER = 1000  # the user id inside
DEVICES = ("null", "full", "random", "urandom")  # not zero: mapping it allocates memory
OLD = "/old"  # the old root, while the new one is built

libc = ctypes.CDLL(None, use_errno=True)


def main(given: dict[str, Any]) -> None:
    """Fork the kernel into new namespaces, report its process id, and guard it."""
    here = Path(__file__).parent
    kernel = runpy.run_path(str(here / "child_kernel.py"))
    seccomp = runpy.run_path(str(here / "child_seccomp.py"))
    guard = runpy.run_path(str(here / "child_guard.py"))
    try:
        enter_namespaces()
    except OSError as error:
        refuse(given["replies"], error)
    child = os.fork()  # the init of its process namespace: all end with it
    if child != 0:
        guard["send_reply"](given["replies"], {"pid": child})
        guard["guard"](child, given["replies"], given["life"])
    os.setsid()  # otherwise `kill(0, ...)` in a cell reaches the guard
    os.close(given["life"])
    try:
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
        build_root(given["readable"], given["drive"], drive_options(given))
        limit_memory(given["memory"])
        guard["limit_files"](given["drive_bytes"])
        drop_privileges()
        seccomp["filter_calls"]()
    except OSError as error:
        refuse(given["replies"], error)
    kernel["main"](given)


def enter_namespaces() -> None:
    """Enter new namespaces, as an ordinary user there."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(NAMESPACES), "unshare")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{USER} {user} 1")
    write("/proc/self/gid_map", f"{USER} {group} 1")


def drive_options(given: dict[str, Any]) -> str:
    """Return mount options that limit the drive's bytes and its number of inodes."""
    return f"size={given['drive_bytes']},nr_inodes={given['files'] + 1},mode=700"


def build_root(readable: list[str], drive: str, options: str) -> None:
    """Build a root of `readable`, a few devices and `drive`; unmount the old one."""
    shown = [*readable, *(f"/dev/{device}" for device in DEVICES)]
    sources = {path: OLD + os.path.realpath(path) for path in shown}
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("root", "/tmp", "tmpfs", MS_NOSUID, "size=1m,mode=755")
    os.mkdir("/tmp" + OLD)
    pivot("/tmp", "/tmp" + OLD)
    os.chdir("/")
    for path, source in sources.items():
        bind(Path(source), Path(path))
    os.makedirs(drive)
    check(libc.umount2(OLD.encode(), MNT_DETACH), "umount")
    os.rmdir(OLD)
    freeze("/")
    mount("drive", drive, "tmpfs", MS_NOSUID | MS_NODEV, options)
    os.chdir(drive)


def bind(source: Path, target: Path) -> None:
    """Bind-mount a file or folder at `target`."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(str(source), str(target), None, MS_BIND | MS_REC)


def freeze(path: str) -> None:
    """Make `path` read-only, with everything mounted below it."""

    class Attributes(ctypes.Structure):
        _fields_ = [
            ("set", ctypes.c_uint64),
            ("clear", ctypes.c_uint64),
            ("propagation", ctypes.c_uint64),
            ("user_namespace", ctypes.c_uint64),
        ]

    attributes = Attributes(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    done = libc.syscall(
        MOUNT_SETATTR,
        AT_FDCWD,
        path.encode(),
        AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    check(done, "mount_setattr")


def limit_memory(memory: int) -> None:
    """Limit private memory (RLIMIT_AS would count mappings, too)."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def drop_privileges() -> None:
    """Drop the capabilities that creating the namespaces gave."""
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails above the last one
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    check(libc.syscall(CAPSET[os.uname().machine], header, nothing), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def mount(
    source: str, target: str, kind: str | None, flags: int, options: str = ""
) -> None:
    done = libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode(),
    )
    check(done, f"mount {target}")


def pivot(root: str, old: str) -> None:
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"unknown machine {os.uname().machine}")
    check(libc.syscall(number, root.encode(), old.encode()), "pivot_root")


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def refuse(replies: int, error: OSError) -> None:
    """Report why the code cannot be isolated, and exit."""
    where = f" ({error.filename})" if error.filename else ""
    reply = json.dumps({"refused": f"{error.strerror or error}{where}"})
    os.write(replies, f"{reply}\n".encode())
    os._exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
