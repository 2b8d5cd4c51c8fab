"""A journal of what has arrived of an answer and is not saved: it outlives `kill -9`.

    journals = Journals(path_of_the_chats)
    journal = journals.open(chat_id)
    journal.begin(question="Why?", updated=None, data=data)
    journal.add("answer", "Becau")
    journal.begin(updated="2026-…")        # all of it has been saved
    journal.close()                        # the answer has ended

    for left in journals.left_behind(): ...    # of programs that were killed

One line per piece, handed to the system at once, without waiting for the disk. The
file is the owner's alone, locked while the answer runs, overwritten before its removal.
Knows JSON values; nothing of databases.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlx_gptoss.errors import StorageError
from mlx_gptoss.files import OWNER_FILE, make_folder

log = logging.getLogger(__name__)

FOLDER = "-answers"  # behind the name of the file of chats
ENDING = ".jsonl"
CHANNELS = {"reasoning": "analysis", "preamble": "commentary", "answer": "final"}


class AnswerJournal:
    """The journal of one answer. One thread at a time; raises OSError."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def create(cls, folder: Path, id: str) -> Self:
        """Create the journal of the chat `id`, and lock it."""
        make_folder(folder)
        path = folder / f"{id}{ENDING}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(path, flags, OWNER_FILE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return cls(path, handle)

    def begin(
        self,
        *,
        question: str | None = None,
        updated: str | None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Begin anew, behind the chat as it was saved at `updated`; None: never was.

        `data` is the chat if what is saved is another, `question` what it is asked.
        """
        _blank(self._handle)
        head = {"pid": os.getpid(), "updated": updated}
        self._write(head | {"question": question, "data": data})

    def add(self, kind: str, text: str) -> None:
        """Add a piece of text; `kind` is one of CHANNELS."""
        self._write([kind, text])

    def close(self) -> None:
        """Remove it."""
        with suppress(OSError):
            _blank(self._handle)
            self._path.unlink(missing_ok=True)
        os.close(self._handle)

    def _write(self, value: Any) -> None:
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._handle, line) :]


@dataclass(frozen=True)
class LeftBehind:
    """What a program that was killed left of an answer to the chat `id`.

    `messages` are those that were not saved, as JSON values, the question first.
    """

    id: str
    updated: str | None
    data: dict[str, Any] | None
    messages: list[dict[str, Any]]


class Journals:
    """The journals of the chats in the file `chats`, in a folder beside it."""

    def __init__(self, chats: Path) -> None:
        self._folder = chats.with_name(chats.name + FOLDER)

    def open(self, id: str) -> AnswerJournal | None:
        """Create the journal of a chat; None, with a line in the log, if impossible."""
        try:
            return AnswerJournal.create(self._folder, id)
        except (OSError, StorageError) as error:
            log.warning("an answer is kept at its end only: %s", error)
            return None

    def left_behind(self) -> Iterator[LeftBehind]:
        """Yield what killed programs left; each journal is removed behind its use."""
        for path in sorted(self._folder.glob(f"*{ENDING}")):
            with _opened(path) as handle:
                if handle is None:
                    continue
                lines = _read_lines(handle)
                if not _lock(handle) and (not lines or _is_alive(lines[0])):
                    continue
                found = _read(path.stem, lines)
                if found is not None:
                    yield found
                _blank(handle)
                path.unlink(missing_ok=True)

    def remove(self, ids: Sequence[str] | None = None) -> None:
        """Remove the journals of these chats, or all: the chats are deleted."""
        every = self._folder.glob(f"*{ENDING}")
        named = [self._folder / f"{id}{ENDING}" for id in ids or ()]
        for path in every if ids is None else named:
            with _opened(path) as handle:
                if handle is not None:
                    _blank(handle)
                    path.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open a journal; None if it was removed, or is not ours."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _read(id: str, lines: list[Any]) -> LeftBehind | None:
    """Return what lines say; None if the first is not whole, or they are not ours."""
    try:
        head, messages = lines[0], list[dict[str, Any]]()
        if head["question"] is not None:
            messages.append({"role": "user", "content": head["question"]})
        kind = None
        for part, text in lines[1:]:
            if part != kind:
                channel = CHANNELS[part]
                made = {"role": "assistant", "content": "", "channel": channel}
                messages.append(made)
            kind = part
            messages[-1]["content"] += text
        return LeftBehind(id, head["updated"], head["data"], messages)
    except (LookupError, TypeError, ValueError):
        return None


def _read_lines(handle: int) -> list[Any]:
    """Return the whole lines as values; what cannot be read ends them."""
    with open(os.dup(handle), "rb") as file:
        file.seek(0)
        found: list[Any] = []
        for line in file:
            try:
                found.append(json.loads(line))
            except ValueError:  # killed in the middle of it
                break
    return found


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_alive(head: Any) -> bool:
    """Whether the writer still runs: a process it started may hold its lock."""
    try:
        os.kill(head["pid"], 0)
    except ProcessLookupError:
        return False
    except (PermissionError, KeyError, TypeError, OverflowError):
        return True
    return True


def _blank(handle: int) -> None:
    """Overwrite a file with zeros, and empty it."""
    length = os.lseek(handle, 0, os.SEEK_END)
    os.pwrite(handle, bytes(length), 0)
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
