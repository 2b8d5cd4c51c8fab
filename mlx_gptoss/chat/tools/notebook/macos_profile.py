"""Write the macOS sandbox profile (`sandbox-exec`, SBPL) of the notebook.

Denies everything that is not named: the network, other files, other processes, shared
memory. Allows what the dynamic loader and Python need to start. Paths in, text out;
runs nothing.

The sandbox restricts what may be opened, not how much may be used. Memory, the drive
and its files are therefore counted from outside: code that grows fast can exceed a
limit for a moment before it is ended, and memory that macOS has compressed is not
counted. On Linux the operating system enforces these limits. Our tests have not run the
profile on a Mac: the kernel tests at each start what it permits.
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
PATH_NODES = ("(vnode-type DIRECTORY)", "(vnode-type SYMLINK)")  # to resolve a path
WRITABLE_DEVICES = ("/dev/null", "/dev/zero")


def sandbox_profile(readable: Sequence[str], drive: str) -> str:
    """Return a profile that runs Python from `readable` and writes to `drive` only.

    Paths must have links resolved: the sandbox compares resolved paths.
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
