"""Records by id: a JSON file each, in a private folder, written whole.

    records = Records(folder, FileObject)
    records.save(one); records.load(id); records.list(); records.remove(id)

A record that cannot be read is passed over and logged. Raises StorageError.
"""

import logging
import re
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from mlx_gptoss import files
from mlx_gptoss.api.batches.wire import BatchObject
from mlx_gptoss.api.files.wire import FileObject

log = logging.getLogger(__name__)

Stored = TypeVar("Stored", FileObject, BatchObject)
SUFFIX = ".json"
ID = re.compile(r"[a-z]+[-_][0-9a-f]{24}")


class Records(Generic[Stored]):
    """The records of one kind. Thread-safe, but for two changes of one record."""

    def __init__(self, folder: Path, kind: type[Stored]) -> None:
        self.folder = folder
        self._kind = kind

    def save(self, one: Stored) -> None:
        files.make_folder(self.folder)
        files.write(self._path(one.id), one.model_dump_json())

    def load(self, id: str) -> Stored | None:
        """Return a record; None if there is none, or for what is no id."""
        return self._read(self._path(id)) if ID.fullmatch(id) else None

    def list(self) -> list[Stored]:
        """Return all records, the newest first."""
        paths = self.folder.glob(f"*{SUFFIX}") if self.folder.is_dir() else ()
        found = [one for path in paths if (one := self._read(path)) is not None]
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def remove(self, id: str) -> None:
        """Remove a record. Idempotent."""
        with files.storage_errors(self._path(id), "removed"):
            self._path(id).unlink(missing_ok=True)

    def _path(self, id: str) -> Path:
        return self.folder / (id + SUFFIX)

    def _read(self, path: Path) -> Stored | None:
        try:
            return self._kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("`%s` cannot be read: %s", path, type(error).__name__)
            return None
