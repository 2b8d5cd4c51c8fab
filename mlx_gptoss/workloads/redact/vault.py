"""A kept map from placeholders to what they stand for: `redact --vault`, `unredact`.

The file is JSON that only its owner can read. Numbers go on over all documents that
were masked with it, and every spelling has a placeholder of its own, `[PERSON_1]` and
`[PERSON_1.2]` of the same person, so that a text comes back exactly. What looks like a
placeholder in a text is masked as well, as `[LITERAL_1]`.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from mlx_gptoss.errors import RedactionError
from mlx_gptoss.files import make_private_file, storage_errors, write
from mlx_gptoss.workloads.redact.placeholders import (
    LOOKALIKE,
    Numbering,
    placeholder_name,
)

FORMAT = 1
LITERAL = "literal"


class Kept(NamedTuple):
    """What a placeholder stands for; `is_number` if it was a number of JSON."""

    category: str
    text: str
    is_number: bool = False


class Vault(Numbering):
    """The map in memory; `opened` reads it from a file and keeps it there."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Kept] = {}
        self._names: dict[tuple[str, str, bool], str] = {}
        self._forms: dict[tuple[str, int], int] = {}
        self._path: Path | None = None
        self._saved = 0

    def placeholder(self, category: str, text: str, *, is_number: bool = False) -> str:
        """Return the placeholder of one spelling of a value, kept from now on."""
        name = placeholder_name(category)
        known = self._names.get((name, text, is_number))
        if known is not None:
            return known
        number = self.number(category, text)
        form = self._forms.get((name, number), 0) + 1
        made = f"[{name}_{number}]" if form == 1 else f"[{name}_{number}.{form}]"
        self._keep(made, number, form, Kept(category, text, is_number))
        return made

    def _keep(self, placeholder: str, number: int, form: int, kept: Kept) -> None:
        name = placeholder_name(kept.category)
        self.entries[placeholder] = kept
        self._names[name, kept.text, kept.is_number] = placeholder
        self._forms[name, number] = max(form, self._forms.get((name, number), 0))

    def avoid(self, text: str) -> None:
        """Do nothing: what looks like a placeholder is masked itself."""

    def restore(self, text: str) -> str:
        """Put back what placeholders stand for; unknown ones stay."""
        return LOOKALIKE.sub(self._original, text)

    def _original(self, match: Any) -> str:
        found = self.entries.get(match[0])
        return match[0] if found is None else found.text

    def number_of(self, text: str) -> str | None:
        """Return the number of JSON that a whole value stands for, if it does."""
        found = self.entries.get(text)
        return found.text if found is not None and found.is_number else None

    def flush(self) -> None:
        """Write what is new to the file: before a text that needs it is written."""
        if self._path is not None and len(self.entries) > self._saved:
            self.save(self._path)

    def save(self, path: Path) -> None:
        """Write the map, whole or not at all, for its owner only."""
        entries = [
            {"placeholder": name, **kept._asdict()}
            for name, kept in self.entries.items()
        ]
        facts = {"format": FORMAT, "entries": entries}
        write(path, json.dumps(facts, indent=1) + "\n", private=True)
        self._saved = len(entries)

    @classmethod
    def read(cls, path: Path) -> "Vault":
        """Read a map. Raises RedactionError for a file that is none."""
        vault = cls()
        try:
            raw: Any = json.loads(path.read_text("utf-8"))
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']!r:.20}")
            for entry in cast("list[dict[str, Any]]", raw["entries"]):
                vault._read_entry(**entry)
        except OSError as error:
            raise RedactionError(
                f"the vault `{path}` cannot be read: {error.strerror}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RedactionError(
                f"`{path}` is no vault of `mlx-gptoss redact`, or a damaged one: give "
                "the file that --vault wrote"
            ) from error
        return vault

    def _read_entry(
        self, placeholder: str, category: str, text: str, is_number: bool
    ) -> None:
        if not LOOKALIKE.fullmatch(placeholder) or not isinstance(text, str):
            raise ValueError("entry")
        number, _, form = placeholder[1:-1].rpartition("_")[2].partition(".")
        self.learn(category, text, int(number))
        self._keep(
            placeholder, int(number), int(form or 1), Kept(category, text, is_number)
        )

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> "Iterator[Vault]":
        """Yield the map of a file, new or old; write it when the block ends well.

        Nobody else can open it meanwhile.
        """
        with _locked(path):
            vault = cls.read(path) if path.exists() else cls()
            vault._path = path
            vault.save(path)  # before anything is masked: it can be written
            yield vault
            vault.flush()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a vault, a file beside it."""
    lock = path.with_name(f".{path.name}.lock")
    with storage_errors(path):
        make_private_file(lock)
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RedactionError(
                f"the vault `{path}` is in use: wait for the other command to end"
            ) from error
        yield
    finally:
        os.close(handle)
