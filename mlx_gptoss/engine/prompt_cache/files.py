"""Parts of the prompt tree on disk: one safetensors file a node, whole or not there.

    ROOT/DIGEST/START-KEY.safetensors

DIGEST names the weights, config, dtype and runtime that computed the keys and values
(see `digest`), START and KEY the tokens. A file holds all tokens from the first on, of
its own stretch the rows of the full layers, and the windows at its end. It is written
beside its place, synced and renamed, for its owner's eyes only. Whatever is damaged,
cut short or from elsewhere is reported and left out. What was used longest ago goes
when the cap is passed, or when it is lower than what lies there at the start.

What stands in these files can be read back as text: they are as private as the chats.
"""

import errno
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint.safetensors_header import read_header
from mlx_gptoss.engine.prompt_cache.options import default_folder
from mlx_gptoss.engine.prompt_cache.tree import PrefixNode, PrefixTree
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.files import (
    draft,
    explain_os_error,
    is_draft,
    make_folder,
    storage_errors,
)
from mlx_gptoss.format.config import SLIDING, ModelConfig
from mlx_gptoss.model.kv_cache import KeysValues, Segment, Snapshot

FORMAT = "mlx-gptoss prompt 1"
SUFFIX = ".safetensors"
MIN_FILE_TOKENS = 256  # tokens: read again sooner than their windows are loaded
START_DIGITS = 9
KEY_BYTES = 16
TOKENS = "tokens"
FULL, WINDOW = "full", "window"  # kinds of layers, in names of tensors

Arrays = dict[str, mx.array]

log = logging.getLogger(__name__)


class UnusableFile(Exception):
    """A node's file cannot be read: the node is to be left out."""

    def __init__(self, node: PrefixNode, problem: str) -> None:
        super().__init__(problem)
        self.node = node


@dataclass(frozen=True)
class FileSpan:
    """Where a node lies on disk: a stretch of a file, at first all of it."""

    files: "PromptFiles"
    name: str
    first: int
    last: int
    has_snapshot: bool

    def split(self, at: int) -> tuple["FileSpan", "FileSpan"]:
        """Cut after `at` tokens; the snapshot belongs to the end."""
        files, name, cut = self.files, self.name, self.first + at
        return (
            FileSpan(files, name, self.first, cut, has_snapshot=False),
            FileSpan(files, name, cut, self.last, self.has_snapshot),
        )

    def load(self, node: PrefixNode) -> tuple[Segment, Snapshot | None]:
        """Read rows, and the snapshot if it has one. Raises UnusableFile."""
        try:
            return self.files.read(self, node.start)
        except CheckpointError as error:
            raise UnusableFile(node, str(error)) from error


class PromptFiles:
    """The files of one model under one runtime, and a cap on those of all models.

    Raises StorageError if their folder cannot be made.
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
        self.min_tokens = min_tokens  # tokens that are worth a file
        self.folder = root / digest
        self.max_bytes = max_bytes
        self._digest = digest
        self._dtype = dtype
        self._row = (config.num_key_value_heads, config.head_dim)
        self._window = config.sliding_window
        sliding = sum(kind == SLIDING for kind in config.layer_types)
        self._layers = {FULL: len(config.layer_types) - sliding, WINDOW: sliding}
        make_folder(self.folder)
        self._shrink()

    @property
    def nbytes(self) -> int:
        """Bytes of the files of all models."""
        return sum(size for _, _, size in _by_age(self.root))

    def load_index(self, tree: PrefixTree) -> None:
        """Put what is on disk into a tree; of the files only the tokens are read."""
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
                continue  # what it follows is gone
            nodes = tree.extend(tree.root, tokens)
            self._assign([node for node in nodes if node.start >= start], name, start)

    def write(self, nodes: list[PrefixNode], rows: list[Segment]) -> set[str]:
        """Write nodes that follow each other, of which the last has a snapshot.

        Returns the names of older files that had to go for it. What is larger than
        the cap by itself is not written. Raises StorageError, and leaves no part of a
        file, if the disk does not take it.
        """
        path, start = nodes[-1].path(), nodes[0].start
        tokens = np.concatenate([part.tokens for part in path])
        arrays = {TOKENS: mx.array(tokens)}
        for n, pair in enumerate(Segment.concatenate(rows).layers):
            arrays |= dict(zip(_tensor_names(FULL, n), pair, strict=True))
        for n, (_, keys, values) in enumerate(nodes[-1].snapshot.windows):
            arrays |= dict(zip(_tensor_names(WINDOW, n), (keys, values), strict=True))
        if sum(x.nbytes for x in arrays.values()) > self.max_bytes:
            return set()
        name = _file_name(tokens, start)
        metadata = {
            "format": FORMAT,
            "digest": self._digest,
            "start": str(start),
            "checksum": _checksum(arrays),
        }
        make_folder(self.folder)  # somebody may have removed it
        with draft(self.folder / name) as place:
            _save(place, arrays, metadata)
        self._assign(nodes, name, start)
        self.touch(path)
        return self._shrink()

    def read(self, span: FileSpan, node_start: int) -> tuple[Segment, Snapshot | None]:
        """Read a stretch of a file whose every byte is checked."""
        start, arrays = self._open(span.name)
        self._check_bytes(span.name, arrays)
        if start + span.first != node_start:
            raise CheckpointError(f"`{self.folder / span.name}` begins elsewhere")
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
        """Say which file the nodes lie in that has a snapshot at the last one's end."""
        for node in nodes:
            ended = node is nodes[-1]
            if node.file is None or ended:
                first, last = node.start - start, node.end - start
                node.file = FileSpan(self, name, first, last, has_snapshot=ended)

    def discard(self, names: Iterable[str]) -> None:
        """Remove files whose contents are of no use."""
        for name in names:
            _remove(self.folder / name)

    def touch(self, path: list[PrefixNode]) -> None:
        """Note that a path was used just now."""
        now = time.time_ns()
        for name in {node.file.name for node in path if node.file is not None}:
            with suppress(OSError):  # it is gone: that shows when it is read
                os.utime(self.folder / name, ns=(now, now))

    def _open(self, name: str) -> tuple[int, Arrays]:
        """Check all of a file but its bytes; return its start and lazy arrays."""
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
        if tokens is None or {n: _dtype_and_shape(x) for n, x in arrays.items()} != (
            self._expected_tensors(tokens.shape[0], start)
        ):
            raise CheckpointError(f"`{path}` holds no prompt as it should: ignored")
        if name != _file_name(np.array(tokens), start):
            raise CheckpointError(f"`{path}` is damaged: it is ignored")
        arrays["checksum"] = mx.array(int(metadata.get("checksum", "0"), 16))
        return start, arrays

    def _check_bytes(self, name: str, arrays: Arrays) -> None:
        """Compare the checksum; a file that is damaged is of no more use."""
        expected = arrays.pop("checksum").item()
        mx.eval(arrays)
        if int(_checksum(arrays), 16) != expected:
            path = self.folder / name
            _remove(path)
            raise CheckpointError(f"`{path}` is damaged: it is not used")

    def _expected_tensors(
        self, tokens: int, start: int
    ) -> dict[str, tuple[object, ...]]:
        """The dtype and shape of every tensor of a file."""
        heads, size = self._row
        rows = {FULL: tokens - start, WINDOW: self._window}
        forms: dict[str, tuple[object, ...]] = {TOKENS: (mx.int32, tokens)}
        for kind, count in self._layers.items():
            for n in range(count):
                form = (self._dtype, 1, heads, rows[kind], size)
                forms |= dict.fromkeys(_tensor_names(kind, n), form)
        return forms

    def _pairs(self, arrays: Arrays, kind: str) -> list[KeysValues]:
        names = [_tensor_names(kind, n) for n in range(self._layers[kind])]
        return [(arrays[keys], arrays[values]) for keys, values in names]

    def _shrink(self) -> set[str]:
        """Remove the oldest files until the cap holds; return the names of ours."""
        gone, _ = _remove_oldest(self.root, self.max_bytes)
        return {path.name for path in gone if path.parent == self.folder}


def shrink_files(max_bytes: int, root: Path | None = None) -> int:
    """Remove the prompts used longest ago until `most` bytes are left; 0 leaves none.

    Returns the bytes that are free again. Raises StorageError.
    """
    return _remove_oldest(root or default_folder(), max_bytes)[1]


def clear_files(root: Path | None = None) -> int:
    """Remove the prompts of all models; return the bytes that are free again.

    A process that knows one of them reads it again as if it had never been there.
    """
    return shrink_files(0, root)


def _remove_oldest(root: Path, max_bytes: int) -> tuple[list[Path], int]:
    """Remove the oldest files until the cap holds; return them and their bytes."""
    ages = _by_age(root)
    excess = sum(size for _, _, size in ages) - max_bytes
    gone: list[Path] = []
    freed = 0
    for _, path, size in ages:
        if freed >= excess:
            break
        with storage_errors(path, "removed"):
            path.unlink(missing_ok=True)
        freed += size
        gone.append(path)
    return gone, freed


def _by_age(root: Path) -> list[tuple[int, Path, int]]:
    """All files, the least recently used first; of one use the last first."""
    ages: list[tuple[int, Path, int]] = []
    for path in root.glob(f"*/*{SUFFIX}"):
        try:
            facts = path.stat()
        except FileNotFoundError:  # another process removed it
            continue
        ages.append((facts.st_mtime_ns, path, facts.st_size))
    by_start = sorted(ages, key=lambda one: one[1].name, reverse=True)
    return sorted(by_start, key=lambda one: one[0])


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:  # a read-only disk: it is found of no use again
        log.warning("`%s` cannot be removed: %s", path, explain_os_error(error))


def _file_name(tokens: np.ndarray, start: int) -> str:
    key = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=KEY_BYTES)
    return f"{start:0{START_DIGITS}}-{key.hexdigest()}{SUFFIX}"


def _tensor_names(kind: str, layer: int) -> tuple[str, str]:
    return f"{kind}.{layer}.keys", f"{kind}.{layer}.values"


def _dtype_and_shape(x: mx.array) -> tuple[object, ...]:
    return (x.dtype, *x.shape)


def _checksum(arrays: Arrays) -> str:
    """CRC-32 over the bytes of all tensors, by name."""
    mx.eval(arrays)
    total = 0
    for name in sorted(arrays):
        x = arrays[name]
        flat = x.flatten().view(mx.uint8) if x.size else mx.zeros((0,), mx.uint8)
        total = zlib.crc32(np.asarray(flat).data, total)
    return f"{total:08x}"


def _save(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write a file. Raises OSError."""
    try:
        with path.open("wb") as file:  # of a path MLX would not say why it failed
            mx.save_safetensors(file, arrays, metadata)
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
