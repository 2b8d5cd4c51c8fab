"""The disk tier of the prompt cache: which nodes are written, and when again.

`files` does the reading and writing; this decides what is worth a file.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_gptoss.engine.prompt_cache.files import PromptFiles
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode, PrefixTree, remove_node
from mlx_gptoss.errors import StorageError

DISK_RETRY_S = 60.0  # seconds without writes after the disk refused one

log = logging.getLogger(__name__)


class DiskTier:
    """Saves nodes of a tree to files; a disk that refuses is retried later."""

    def __init__(self, files: PromptFiles, tree: PrefixTree) -> None:
        self.files = files
        self._tree = tree
        self._next_write_time = 0.0  # seconds of the monotonic clock
        self._write_failed = False
        files.load_index(tree)

    def save(self, tokens: np.ndarray, rows: Callable[[PrefixNode], Any]) -> bool:
        """Write the next part of `tokens` that is not on disk; False if there is none.

        A refused write is one warning, and the disk is tried again after a while.
        """
        if time.monotonic() < self._next_write_time:
            return False
        nodes: list[PrefixNode] = []  # a file ends on a snapshot: it may hold several
        for node in self._tree.match(tokens):
            if node.file is not None:
                if nodes:
                    break
                continue
            nodes.append(node)
            length = node.end - nodes[0].start
            ends = node.snapshot is not None and not node.guessed
            if ends and length >= self.files.min_tokens:
                return self._write(nodes, [rows(node) for node in nodes])
        return False

    def discard(self, names: set[str]) -> None:
        """Remove files whose content must not be used."""
        if names:
            self.files.discard(names)
            self._detach(names)

    def _write(self, nodes: list[PrefixNode], rows: list[Any]) -> bool:
        root = self.files.root
        try:
            self._detach(self.files.write(nodes, rows))
        except StorageError as error:
            if not self._write_failed:
                log.warning("prompts are no longer saved in `%s`: %s", root, error)
            self._next_write_time = time.monotonic() + DISK_RETRY_S
            self._write_failed = True
            return False
        if self._write_failed:
            log.warning("prompts are saved in `%s` again", root)
            self._write_failed = False
        return nodes[-1].file is not None

    def _detach(self, names: set[str]) -> None:
        """Drop removed files from the tree."""
        for node in list(self._tree) if names else ():
            if node.file is not None and node.file.name in names:
                node.file = None
                if node.is_empty and node.parent is not None:
                    remove_node(node)
