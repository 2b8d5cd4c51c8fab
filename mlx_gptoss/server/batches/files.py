"""Uploads and replies of batches: private, within a quota, until they expire.

    store = FileStore(folder)
    found = store.add("requests.jsonl", "batch", chunks, expires_in=3600)
    store.path(found.id)          # its bytes

Each file is its bytes and a record beside them. Thread-safe. Raises StorageError.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mlx_gptoss import files
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.files.wire import FileObject
from mlx_gptoss.server.batches.records import Records

QUOTA = 2 * 2**30  # bytes of all files
KEPT_SECONDS = 30 * 86400  # unless the client says otherwise
ID_BYTES = 12
MAX_NAME = 255  # characters


class FileStore:
    """The files of one server, within `quota` bytes.

    `held` returns the bytes that batches hold beside them, which count as well.
    """

    def __init__(
        self, folder: Path, quota: int = QUOTA, held: Callable[[], int] = lambda: 0
    ) -> None:
        self.folder = folder
        self.quota = quota
        self._held = held
        self._records = Records(folder, FileObject)

    def add(
        self,
        name: str,
        purpose: str,
        chunks: Iterable[bytes],
        *,
        expires_in: int = KEPT_SECONDS,
    ) -> FileObject:
        """Store a file. Raises ApiError (413) beyond the quota."""
        self.remove_expired()
        files.make_folder(self.folder)
        kept = sum(one.bytes for one in self._records.list())
        free = self.quota - kept - self._held()
        found = self._new(name, purpose, 0, expires_in)
        with files.draft(self.path(found.id)) as place, place.open("wb") as file:
            for chunk in chunks:
                found.bytes += file.write(chunk)
                if found.bytes > free:
                    raise quota_exceeded(self.quota)
        self._records.save(found)
        return found

    def adopt(
        self, path: Path, name: str, purpose: str, *, id: str, expires_in: int
    ) -> None:
        """Take over a file that lies on the same disk; it is moved. Idempotent."""
        files.make_folder(self.folder)
        with files.storage_errors(path):
            if path.exists():
                path.replace(self.path(id))
            size = self.path(id).stat().st_size
        self._records.save(self._new(name, purpose, size, expires_in, id))

    def get(self, id: str) -> FileObject:
        """Return a file's record. Raises ApiError (404)."""
        found = self._records.load(id)
        if found is None or found.expires_at <= time.time():
            raise no_such_file(id)
        return found

    def path(self, id: str) -> Path:
        """Return where the bytes of a file are."""
        return self.folder / f"{id}.bin"

    def list(self, purpose: str | None = None) -> list[FileObject]:
        """Return the files that have not expired, the newest first."""
        self.remove_expired()
        return [one for one in self._records.list() if purpose in (None, one.purpose)]

    def remove(self, id: str) -> None:
        """Remove a file. Raises ApiError (404)."""
        self._drop(self.get(id))

    def remove_expired(self) -> None:
        now = time.time()
        for one in self._records.list():
            if one.expires_at <= now:
                self._drop(one)

    def _drop(self, one: FileObject) -> None:
        self._records.remove(one.id)
        with files.storage_errors(self.path(one.id), "removed"):
            self.path(one.id).unlink(missing_ok=True)

    def _new(
        self, name: str, purpose: str, size: int, expires_in: int, id: str | None = None
    ) -> FileObject:
        now = int(time.time())
        return FileObject(
            id=id or new_file_id(),
            bytes=size,
            created_at=now,
            expires_at=now + expires_in,
            filename=Path(name).name[:MAX_NAME] or "file",
            purpose=purpose,
        )


def new_file_id() -> str:
    return f"file-{secrets.token_hex(ID_BYTES)}"


def no_such_file(id: str) -> ApiError:
    return ApiError(404, f"there is no file `{id}`", "not_found", "file_id")


def quota_exceeded(quota: int) -> ApiError:
    return ApiError(
        413,
        f"the files would exceed the {quota:,} bytes that this server keeps: delete "
        "some first",
        "quota_exceeded",
        "file",
    )
