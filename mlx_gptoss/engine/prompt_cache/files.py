"""Nodes of the prefix tree on disk: one safetensors file per stretch of tokens.

    ROOT/DIGEST/START-KEY.safetensors

DIGEST identifies the weights, config, dtype, runtime and adapter that computed the
keys and values (see `digest`), START and KEY the tokens. A file holds all tokens from
the first one, the keys and values of the full layers for its own stretch, and the
sliding windows at its end. It is written to a temporary file, synced and renamed, and
readable by its owner only. A damaged, truncated or foreign file is reported and
ignored. The least recently used files are removed when the limit is exceeded.

The text of prompts can be recovered from these files: they are as private as chats.
"""

import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint.safetensors_header import read_header
from mlx_gptoss.engine.prompt_cache.digest import digest_with_adapter
from mlx_gptoss.engine.prompt_cache.file_format import (
    FORMAT,
    FULL,
    TOKENS,
    WINDOW,
    Arrays,
    checksum,
    dtype_and_shape,
    file_name,
    save_arrays,
    tensor_names,
)
from mlx_gptoss.engine.prompt_cache.folder import SUFFIX, by_age, remove_oldest
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode, PrefixTree
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import (
    draft,
    explain_os_error,
    is_draft,
    make_folder,
)
from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.model.kv_cache import KeysValues, Segment, Snapshot

MIN_FILE_TOKENS = 256  # tokens: read again sooner than their windows are loaded

log = logging.getLogger(__name__)


class UnusableFile(Exception):
    """The file of a node cannot be read; the node must be removed."""

    def __init__(self, node: PrefixNode, problem: str) -> None:
        super().__init__(problem)
        self.node = node


@dataclass(frozen=True)
class FileSpan:
    """The part of a file that holds a node, at first all of it."""

    files: "PromptFiles"
    name: str
    first: int
    last: int
    has_snapshot: bool

    def split(self, at: int) -> tuple["FileSpan", "FileSpan"]:
        """Split after `at` tokens; the snapshot stays with the end."""
        files, name, cut = self.files, self.name, self.first + at
        return (
            FileSpan(files, name, self.first, cut, has_snapshot=False),
            FileSpan(files, name, cut, self.last, self.has_snapshot),
        )

    def load(self, node: PrefixNode) -> tuple[Segment, Snapshot | None]:
        """Read keys and values, and any snapshot. Raises UnusableFile."""
        try:
            return self.files.read(self, node.start)
        except CheckpointError as error:
            raise UnusableFile(node, str(error)) from error


class PromptFiles:
    """The saved prompts of one model; `max_bytes` limits those of all models.

    Raises StorageError if the folder cannot be made.
    """

    def __init__(
        self,
        root: Path,
        digest: str,
        config: ModelConfig,
        dtype: mx.Dtype,
        max_bytes: int,
        *,
        min_tokens: int = 1,
    ) -> None:
        self.root = root
        self.min_tokens = min_tokens  # of a stretch that is worth a file
        self.folder = root / digest
        self.max_bytes = max_bytes
        self._digest = digest
        self._config = config
        self._dtype = dtype
        self._row = (config.num_key_value_heads, config.head_dim)
        self._window = config.sliding_window
        sliding = sum(kind == SLIDING for kind in config.layer_types)
        self._layers = {FULL: len(config.layer_types) - sliding, WINDOW: sliding}
        make_folder(self.folder)
        self._shrink()

    def of_adapter(self, adapter: str) -> "PromptFiles":
        """Return the files of the same model with an adapter, given its digest."""
        return PromptFiles(
            self.root,
            digest_with_adapter(self._digest, adapter),
            self._config,
            self._dtype,
            self.max_bytes,
            min_tokens=self.min_tokens,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the saved prompts of all models."""
        return sum(size for _, _, size in by_age(self.root))

    def load_index(self, tree: PrefixTree) -> None:
        """Add the files to a tree; only their token ids are read."""
        found: list[tuple[int, np.ndarray, str]] = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if is_draft(path):
                continue
            try:
                start, arrays = self._open(path.name)
            except CheckpointError as error:
                log.warning("%s", error)
                continue
            found.append((start, np.array(arrays[TOKENS]), path.name))
        for start, tokens, name in sorted(found, key=lambda one: one[0]):
            if tree.match_length(tokens[:start]) < start:
                continue  # the stretch before it is missing
            nodes = tree.extend(tree.root, tokens)
            self._assign([node for node in nodes if node.start >= start], name, start)

    def write(self, nodes: list[PrefixNode], rows: list[Segment]) -> set[str]:
        """Write consecutive nodes, of which the last has a snapshot, to one file.

        Returns the names of older files that were removed to make room. Writes nothing
        if they alone exceed the limit. Raises StorageError if writing fails, and leaves
        no partial file.
        """
        path, start = nodes[-1].path(), nodes[0].start
        tokens = np.concatenate([part.tokens for part in path])
        arrays = {TOKENS: mx.array(tokens)}
        for n, pair in enumerate(Segment.concatenate(rows).layers):
            arrays |= dict(zip(tensor_names(FULL, n), pair, strict=True))
        for n, (_, keys, values) in enumerate(nodes[-1].snapshot.windows):
            arrays |= dict(zip(tensor_names(WINDOW, n), (keys, values), strict=True))
        if sum(x.nbytes for x in arrays.values()) > self.max_bytes:
            return set()
        name = file_name(tokens, start)
        metadata = {
            "format": FORMAT,
            "digest": self._digest,
            "start": str(start),
            "checksum": checksum(arrays),
        }
        make_folder(self.folder)  # another process may have removed it
        with draft(self.folder / name) as place:
            save_arrays(place, arrays, metadata)
        self._assign(nodes, name, start)
        self.touch(path)
        return self._shrink()

    def read(self, span: FileSpan, node_start: int) -> tuple[Segment, Snapshot | None]:
        """Read a stretch of a file after verifying its checksum."""
        start, arrays = self._open(span.name)
        self._check_bytes(span.name, arrays)
        if start + span.first != node_start:
            raise CheckpointError(
                f"`{self.folder / span.name}` starts at another token"
            )
        length = arrays[TOKENS].shape[0] - start
        rows = Segment(tuple(self._pairs(arrays, FULL)))
        if (span.first, span.last) != (0, length):
            rows = rows.slice(span.first, span.last)
        mx.eval(rows.arrays)
        if not span.has_snapshot:
            return rows, None
        end = node_start + span.last - span.first
        windows = tuple((end, k, v) for k, v in self._pairs(arrays, WINDOW))
        return rows, Snapshot(end, windows)

    def _assign(self, nodes: list[PrefixNode], name: str, start: int) -> None:
        """Assign a file to nodes; its snapshot is at the end of the last node."""
        for node in nodes:
            ended = node is nodes[-1]
            if node.file is None or ended:
                first, last = node.start - start, node.end - start
                node.file = FileSpan(self, name, first, last, has_snapshot=ended)

    def discard(self, names: Iterable[str]) -> None:
        """Remove files whose content must not be used."""
        for name in names:
            _remove(self.folder / name)

    def touch(self, path: list[PrefixNode]) -> None:
        """Mark the files of a path as used now."""
        now = time.time_ns()
        for name in {node.file.name for node in path if node.file is not None}:
            with suppress(OSError):  # a missing file shows when it is read
                os.utime(self.folder / name, ns=(now, now))

    def _open(self, name: str) -> tuple[int, Arrays]:
        """Check everything but the checksum; return the start and lazy arrays."""
        path = self.folder / name
        read_header(path)
        try:
            loaded = mx.load(str(path), return_metadata=True)
        except RuntimeError as error:  # a dtype that MLX does not know
            raise CheckpointError(f"`{path}` cannot be read ({error})") from error
        arrays, metadata = cast("tuple[Arrays, dict[str, str]]", loaded)
        if metadata.get("format") != FORMAT or metadata.get("digest") != self._digest:
            raise CheckpointError(
                f"`{path}` is not a prompt of this model and runtime: it is ignored"
            )
        start, tokens = int(metadata.get("start", 0)), arrays.get(TOKENS)
        if tokens is None or {n: dtype_and_shape(x) for n, x in arrays.items()} != (
            self._expected_tensors(tokens.shape[0], start)
        ):
            raise CheckpointError(
                f"`{path}` does not have the tensors of a prompt: it is ignored"
            )
        if name != file_name(np.array(tokens), start):
            raise CheckpointError(f"`{path}` is damaged: it is ignored")
        arrays["checksum"] = mx.array(int(metadata.get("checksum", "0"), 16))
        return start, arrays

    def _check_bytes(self, name: str, arrays: Arrays) -> None:
        """Verify the checksum; remove the file if it is damaged."""
        expected = arrays.pop("checksum").item()
        mx.eval(arrays)
        if int(checksum(arrays), 16) != expected:
            path = self.folder / name
            _remove(path)
            raise CheckpointError(f"`{path}` is damaged: it is not used")

    def _expected_tensors(
        self, tokens: int, start: int
    ) -> dict[str, tuple[object, ...]]:
        """Return the dtype and shape of every tensor of a file."""
        heads, size = self._row
        rows = {FULL: tokens - start, WINDOW: self._window}
        forms: dict[str, tuple[object, ...]] = {TOKENS: (mx.int32, tokens)}
        for kind, count in self._layers.items():
            for n in range(count):
                form = (self._dtype, 1, heads, rows[kind], size)
                forms |= dict.fromkeys(tensor_names(kind, n), form)
        return forms

    def _pairs(self, arrays: Arrays, kind: str) -> list[KeysValues]:
        names = [tensor_names(kind, n) for n in range(self._layers[kind])]
        return [(arrays[keys], arrays[values]) for keys, values in names]

    def _shrink(self) -> set[str]:
        """Remove the oldest files beyond the limit; return the names of ours."""
        gone, _ = remove_oldest(self.root, self.max_bytes)
        return {path.name for path in gone if path.parent == self.folder}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # on a read-only disk it is found damaged again
        log.warning("`%s` cannot be removed: %s", path, explain_os_error(error))
