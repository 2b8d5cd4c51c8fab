"""The journal of a conversion: its identity, and digests of all finished tensors.

`DST.partial/journal.jsonl` has one JSON object per line, appended as steps finish, so
that a conversion killed at any moment can be resumed. The result keeps the contents as
`conversion.json`. An entry counts only if the bytes on the disk have its digests. The
journal has no dates and no paths. Knows digests and names, not arrays.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import ConversionError

NAME = "journal.jsonl"
RESULT = "conversion.json"


@dataclass(frozen=True)
class JournalEntry:
    """A finished step: sha256 of outputs and sources, and counts of lossy blocks."""

    outputs: Mapping[str, str]
    sources: Mapping[str, str]
    lossy_blocks: Mapping[str, int] = field(default_factory=dict)


class Journal:
    """An open, locked journal; `done` has its entries by the name of the first output.

    `identity` describes source, recipe and version. `stamps` are sizes and times of the
    source's files; if they are equal, the source is taken to be unchanged.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], stamps: Mapping[str, Any]
    ) -> None:
        self.path = folder / NAME
        self.identity = identity
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(self.path, flags, 0o644)
        try:
            self._lock()
            self.done, self.source_unchanged = self._recall(stamps)
        except BaseException:
            self.close()
            raise

    def record(self, entry: JournalEntry) -> None:
        """Append a finished step; its bytes must already be written."""
        self._append(asdict(entry))
        self.done[next(iter(entry.outputs))] = entry

    def forget(self, first_output: str) -> None:
        """Remove an entry whose bytes do not have its digests."""
        del self.done[first_output]

    def result(self) -> str:
        """Return the contents of `conversion.json`."""
        entries = self.done.values()
        tensors = {k: v for entry in entries for k, v in entry.outputs.items()}
        sources = {k: v for entry in entries for k, v in entry.sources.items()}
        lossy = {k: v for entry in entries for k, v in entry.lossy_blocks.items()}
        contents = {
            **self.identity,
            "lossy_blocks": dict(sorted(lossy.items())),
            "source_tensors": dict(sorted(sources.items())),
            "tensors": dict(sorted(tensors.items())),
        }
        return json.dumps(contents, indent=2) + "\n"

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Remove the file, after its contents are written to `conversion.json`."""
        self.path.unlink()
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConversionError(
                f"another conversion is writing `{self.path.parent}`: wait for it"
            ) from error

    def _append(self, line: Mapping[str, Any]) -> None:
        left = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        while left:  # a nearly full disk accepts only a part
            left = left[os.write(self._descriptor, left) :]

    def _recall(
        self, stamps: Mapping[str, Any]
    ) -> tuple[dict[str, JournalEntry], bool]:
        lines, whole = read_lines(self.path)
        os.ftruncate(self._descriptor, whole)
        if not lines:
            self._check_same(read_result(self.path.parent))
            self._append({"identity": self.identity, "stamps": stamps})
            return {}, True
        self._check_same(lines[0]["identity"])
        entries = [JournalEntry(**line) for line in lines[1:]]
        done = {next(iter(entry.outputs)): entry for entry in entries}
        return done, lines[0].get("stamps") == stamps

    def _check_same(self, started: Mapping[str, Any]) -> None:
        if started and any(started.get(key) != x for key, x in self.identity.items()):
            raise ConversionError(
                f"`{self.path.parent}` was started with another "
                f"{first_difference(started, self.identity)}: remove it, or repeat the "
                "command it was started with"
            )


def read_result(folder: Path) -> dict[str, Any]:
    """Read `conversion.json` of a folder killed just before it was renamed."""
    path = folder / RESULT
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise damaged_error(path, error) from error
    if not isinstance(found, dict):
        raise damaged_error(path, "it is not a JSON object")
    return found


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the valid lines at the start of a journal, and their size in bytes.

    Anything after them was cut short by a kill, or zeroed by a power failure; those
    steps are repeated.
    """
    content = path.read_bytes()
    lines: list[dict[str, Any]] = []
    whole = 0
    for line in content.splitlines(keepends=True):
        found = parse_line(line)
        if not (is_entry(found) if lines else is_header(found)):
            break
        lines.append(found)
        whole += len(line)
    if not lines and (b"\n" in content or b"\0" in content):
        raise damaged_error(path, "it does not say what was converted")
    return lines, whole


def parse_line(line: bytes) -> Any:
    """Parse a line; return None if it is incomplete or invalid."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def is_header(line: Any) -> bool:
    """Whether this can be the first line of a journal."""
    return isinstance(line, dict) and isinstance(line.get("identity"), dict)


def is_entry(line: Any) -> bool:
    """Whether this line is a `JournalEntry`."""
    names = {member.name for member in fields(JournalEntry)}
    if not isinstance(line, dict) or line.keys() != names or not line["outputs"]:
        return False
    return all(isinstance(value, dict) for value in line.values())


def damaged_error(path: Path, why: object) -> ConversionError:
    return ConversionError(
        f"`{path}` is damaged ({why}): remove `{path.parent}` and convert again"
    )


def first_difference(ours: Any, theirs: Mapping[str, Any]) -> str:
    """Return the first key in which two identities differ."""
    return next((key for key in theirs if ours.get(key) != theirs[key]), "format")
