"""The prompts that one adapter has read: a prefix tree, and its files on disk.

Keys and values depend on the adapter that computed them, so each has a tree and a
folder of files of its own, and so has the model without one. Nothing crosses: a prompt
is looked up in one tree only, by the digest of its adapter.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_gptoss.engine.prompt_cache.disk import DiskTier
from mlx_gptoss.engine.prompt_cache.files import PromptFiles
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode, PrefixTree
from mlx_gptoss.errors import StorageError

NO_ADAPTER = ""  # in place of the digest of an adapter

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class KnownPrompts:
    """A prefix tree, and its files if prompts are saved."""

    tree: PrefixTree
    disk: DiskTier | None


class PromptsByAdapter:
    """The known prompts of each adapter, by its digest. For the engine thread.

    `files` are those of the model without an adapter.
    """

    def __init__(self, files: PromptFiles | None) -> None:
        self._files = files
        self._known: dict[str, KnownPrompts] = {}
        self.open(NO_ADAPTER)

    def __iter__(self) -> Iterator[PrefixNode]:
        """Yield the nodes of all trees."""
        for known in self._known.values():
            yield from known.tree

    def open(self, adapter: str) -> KnownPrompts:
        """Return what is known under the digest of an adapter."""
        known = self._known.get(adapter)
        if known is None:
            tree = PrefixTree()
            files = self._files_of(adapter)
            known = KnownPrompts(tree, None if files is None else DiskTier(files, tree))
            self._known[adapter] = known
        return known

    @property
    def nbytes(self) -> int:
        """Bytes of the nodes of all trees in memory outside live caches."""
        return sum(known.tree.nbytes for known in self._known.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes of the files of all models."""
        return 0 if self._files is None else self._files.nbytes

    def _files_of(self, adapter: str) -> PromptFiles | None:
        """Open the files of an adapter; without them it has the memory only."""
        if self._files is None or adapter == NO_ADAPTER:
            return self._files
        try:
            return self._files.of_adapter(adapter)
        except StorageError as error:
            log.warning("prompts of an adapter are not saved to disk: %s", error)
            return None
