"""The profile of macOS's sandbox (`sandbox-exec`, SBPL) that the notebook runs in.

Everything is denied that is not named here: the network, other files, other
processes, shared memory. What is named is what the dynamic loader and Python need to
start. Text in and out; nothing is run here.

The sandbox says what may be opened, not how much may be used. Memory, the drive and
its files are therefore counted from outside, and code that grows fast can pass a
limit for a moment before it is ended; memory that macOS has compressed is not
counted. On Linux the kernel itself holds these limits. The profile has not been run
on a Mac by our tests: what it really lets through is tried at each start.
"""

from collections.abc import Iterable, Sequence

COMMAND = "/usr/bin/sandbox-exec"
SYSTEM_FOLDERS = (  # the loader's shared cache, libraries, locales
    "/usr/lib",
    "/usr/share",
    "/System/Library",
    "/System/Cryptexes/OS",
    "/System/Volumes/Preboot/Cryptexes/OS",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
)
SYSTEM_FILES = (
    "/",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/private/etc/localtime",
)
PATH_NODES = ("(vnode-type DIRECTORY)", "(vnode-type SYMLINK)")  # to walk a path
WRITABLE_DEVICES = ("/dev/null", "/dev/zero")


def sandbox_profile(readable: Sequence[str], drive: str) -> str:
    """Let Python of the folders `readable` run, and write below `drive` only.

    Paths must be without links: the sandbox compares what they resolve to.
    """
    return "\n".join(
        [
            "(version 1)",
            "(deny default)",
            _rule("process-exec", _all("subpath", readable)),
            _rule("file-read*", _all("subpath", (*readable, *SYSTEM_FOLDERS))),
            _rule("file-read*", _all("literal", SYSTEM_FILES)),
            _rule("file-map-executable", _all("subpath", (*readable, *SYSTEM_FOLDERS))),
            _rule("file-read-metadata", PATH_NODES),
            _rule("file-read* file-write*", _all("subpath", [drive])),
            _rule("file-write-data", _all("literal", WRITABLE_DEVICES)),
            _rule("file-ioctl", _all("subpath", [drive])),
            "(allow sysctl-read)",
            "(allow signal (target self))",
            "(allow process-info* (target self))",
            "(deny network*)",
            "(deny process-fork)",
            "(deny ipc-posix-shm*)",
            "(deny ipc-sysv*)",
            "",
        ]
    )


def _rule(operations: str, filters: Iterable[str]) -> str:
    return "\n  ".join([f"(allow {operations}", *filters]) + ")"


def _all(kind: str, paths: Iterable[str]) -> list[str]:
    return [f"({kind} {_quoted(path)})" for path in paths]


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
