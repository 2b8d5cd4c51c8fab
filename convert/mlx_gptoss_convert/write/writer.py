"""Write safetensors and GGUF files piece by piece; rename each when it is complete.

Knows the layout of a file and its bytes; nothing of where they come from.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mlx_gptoss.files import sync_folder
from mlx_gptoss_convert.plan.shards import Shard

SYNC_BYTES = 64 * 1024**2
UNFINISHED = ".part"


class ShardFile:
    """A shard being written; pieces may arrive in any order.

    The file has the suffix `.part` until `finish` has synced and renamed it. A thread
    syncs it every `SYNC_BYTES`, so that the disk works while the next pieces are made.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self.shard = shard
        self.path = folder / shard.name
        self.unfinished = folder / (shard.name + UNFINISHED)
        if self.path.exists():
            self.path.rename(
                self.unfinished
            )  # finished before, but some bytes are wrong
        flags = os.O_RDWR | os.O_CREAT
        self._descriptor = os.open(self.unfinished, flags, 0o644)
        try:
            os.ftruncate(self._descriptor, shard.nbytes)
            write_all(self._descriptor, shard.header, 0)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def write(self, tensor: str, offset: int, piece: memoryview) -> None:
        """Write `piece` at `offset` from the start of `tensor`."""
        write_all(self._descriptor, piece, self.shard.offsets[tensor] + offset)
        self._unsynced += piece.nbytes
        if self._unsynced > SYNC_BYTES and (not self._syncing or self._syncing.done()):
            self._unsynced = 0
            self._wait_for_sync()
            self._syncing = self._syncer.submit(os.fsync, self._descriptor)

    def _wait_for_sync(self) -> None:
        """Raise the error of the last sync, which the system reports only once."""
        if self._syncing is not None:
            self._syncing.result()

    def finish(self) -> None:
        """Sync the file, then give it its final name."""
        self._wait_for_sync()
        os.fsync(self._descriptor)
        self.close()
        self.unfinished.rename(self.path)
        sync_folder(self.path.parent)

    def close(self) -> None:
        if self._descriptor >= 0:
            self._syncer.shutdown()
            os.close(self._descriptor)
            self._descriptor = -1


def existing_path(folder: Path, shard: Shard) -> Path | None:
    """Return the path of a shard's file, finished or not, or None."""
    names = (shard.name, shard.name + UNFINISHED)
    return next((folder / name for name in names if (folder / name).exists()), None)


def write_all(descriptor: int, piece: bytes | memoryview, offset: int) -> None:
    """Write all of `piece` at `offset`; `pwrite` may write only a part of it."""
    left = memoryview(piece).cast("B")
    while left:
        written = os.pwrite(descriptor, left, offset)
        left = left[written:]
        offset += written
