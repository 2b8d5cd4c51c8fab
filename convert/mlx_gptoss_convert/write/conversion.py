"""Carry out a plan: read, write, hash and rename; resumable at any point.

Everything is written to `DST.partial/`, which is renamed to `DST` once all of it is on
the disk, so that nothing incomplete can be taken for a model. Peak memory: the slices
of one step (see `steps/step.py`) and a few waiting to be hashed.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_gptoss.errors import ConversionError, StorageError
from mlx_gptoss.files import sync_folder, write
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.plan.shards import Shard
from mlx_gptoss_convert.read.digests import Digests
from mlx_gptoss_convert.read.source import (
    Progress,
    SourceTensor,
    TensorReader,
    check_values,
    file_stamp,
)
from mlx_gptoss_convert.steps.rearrange import Copy
from mlx_gptoss_convert.steps.step import TensorStep
from mlx_gptoss_convert.write.journal import RESULT, Journal, JournalEntry
from mlx_gptoss_convert.write.model_card import CARD, model_card
from mlx_gptoss_convert.write.writer import ShardFile, existing_path

PARTIAL = ".partial"
SPARE_BYTES = 64 * 1024**2  # for the small files and the file system


@dataclass
class RunningConversion:
    """State shared by the parts of one running conversion."""

    plan: ConversionPlan
    folder: Path
    journal: Journal
    source: TensorReader
    written: Digests
    read: Digests
    progress: Progress
    bytes_done: int = 0

    def advance(self, count: int, tensor: str) -> None:
        self.bytes_done += count
        self.progress(self.bytes_done, self.plan.nbytes, tensor)


def convert(
    plan: ConversionPlan,
    dst: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    free_disk: Callable[[Path], int] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Carry out `plan` into the folder `dst`, which must not exist.

    `resume` continues an interrupted conversion of the same plan, after comparing its
    finished tensors with their digests. `finish` is called with the complete folder
    before it is renamed. Raises ConversionError, and then leaves at most
    `DST.partial`.
    """
    partial = partial_folder(dst)
    check_destination(dst, partial, resume=resume)
    check_disk(plan, partial, free_disk or free_bytes)
    try:
        write_folder(plan, partial, progress or no_progress, finish)
        check_destination(dst, partial, resume=True)
        partial.rename(dst)
        sync_folder(dst.parent)
    except (OSError, StorageError) as error:  # a disk that is full or was removed
        why = error.strerror if isinstance(error, OSError) else error.reason
        raise ConversionError(
            f"`{partial}` could not be finished: {why}; fix the cause, then continue "
            "with `--resume`"
        ) from error


def write_folder(
    plan: ConversionPlan,
    partial: Path,
    progress: Progress,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write everything that `partial` lacks."""
    partial.mkdir(exist_ok=True)
    stamps = {path.name: list(file_stamp(path)) for path in plan.files}
    with (
        closing(Journal(partial, plan.identity, stamps)) as journal,
        Digests() as written,
        Digests() as read,
        TensorReader(read_inspector(read)) as source,
    ):
        run = RunningConversion(plan, partial, journal, source, written, read, progress)
        if not journal.source_unchanged:
            check_sources(run)
        for shard in plan.shards:
            write_shard(run, shard)
        check_unchanged(plan, stamps)
        write_small_files(run)
        if finish is not None:
            finish(partial)
        journal.remove()


def check_unchanged(plan: ConversionPlan, stamps: Mapping[str, list[int]]) -> None:
    """Raise ConversionError if a file of the source was modified meanwhile."""
    for path in plan.files:
        if list(file_stamp(path)) != stamps[path.name]:
            raise ConversionError(
                f"`{path}` changed while it was read: convert again from a source "
                "that nothing modifies"
            )


def read_inspector(digests: Digests) -> Callable[[SourceTensor, np.ndarray], None]:
    """Return an observer that hashes every piece read and rejects invalid values."""

    def inspect(stored: SourceTensor, raw: np.ndarray) -> None:
        digests.add(stored.name, raw)
        check_values(stored, raw)

    return inspect


def partial_folder(dst: Path) -> Path:
    return dst.with_name(dst.name + PARTIAL)


def no_progress(done: int, total: int, tensor: str) -> None:
    """Ignore progress."""


def check_destination(dst: Path, partial: Path, *, resume: bool) -> None:
    """Raise ConversionError if anything would be overwritten."""
    if dst.exists() or dst.is_symlink():
        raise ConversionError(
            f"`{dst}` already exists: choose another name, or remove it"
        )
    if partial.exists() and not resume:
        raise ConversionError(
            f"`{partial}` is left from an interrupted conversion: continue with "
            "`--resume`, or remove it"
        )
    if not dst.parent.is_dir():
        raise ConversionError(f"`{dst.parent}` is not a folder: create it first")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_disk(
    plan: ConversionPlan, partial: Path, free_disk: Callable[[Path], int]
) -> None:
    """Raise ConversionError if the disk cannot hold the result."""
    there = sum(path.stat().st_blocks * 512 for path in partial.glob("*"))
    needed = plan.nbytes + SPARE_BYTES - there
    free = free_disk(partial.parent)
    if free < needed:
        raise ConversionError(
            f"the result needs {needed / 1e9:.2f} GB, the disk of `{partial.parent}` "
            f"has {free / 1e9:.2f} GB free: make room or choose another disk"
        )


def check_sources(run: RunningConversion) -> None:
    """Compare the sources of finished steps with the digests in the journal."""
    for step in run.plan.steps:
        entry = run.journal.done.get(step.outputs[0].name)
        if entry is not None and source_digests(run, step.sources) != entry.sources:
            raise ConversionError(
                f"the source of `{step.outputs[0].name}` is not what "
                f"`{run.folder}` was started with: remove `{run.folder}` and "
                "convert again"
            )


def source_digests(
    run: RunningConversion, sources: tuple[SourceTensor, ...]
) -> dict[str, str]:
    for stored in sources:
        for _ in run.source.slices(stored):
            pass  # the observer hashes what is read
    return run.read.take()


def write_shard(run: RunningConversion, shard: Shard) -> None:
    """Write the missing tensors of one file, then give it its final name."""
    steps = run.plan.steps_of(shard)
    finished = [is_finished(run, shard, step) for step in steps]
    if all(finished) and has_header(run.folder / shard.name, shard):
        return
    with closing(ShardFile(run.folder, shard)) as file:
        for step, is_done in zip(steps, finished, strict=True):
            if not is_done:
                write_step(run, file, step)
        file.finish()


def has_header(path: Path, shard: Shard) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(shard.header)) == shard.header


def is_finished(run: RunningConversion, shard: Shard, step: TensorStep) -> bool:
    """Whether a step's bytes are on the disk; forget its journal entry if not."""
    first = step.outputs[0].name
    entry = run.journal.done.get(first)
    if entry is None:
        return False
    if written_digests(run, shard, step) == entry.outputs:
        for tensor in step.outputs:
            run.advance(tensor.nbytes, tensor.name)
        return True
    run.journal.forget(first)
    return False


def written_digests(
    run: RunningConversion, shard: Shard, step: TensorStep
) -> dict[str, str]:
    """Hash a step's outputs in the file, finished or not."""
    path = existing_path(run.folder, shard)
    if path is None or path.stat().st_size != shard.nbytes:
        return {}
    with TensorReader(lambda stored, raw: run.written.add(stored.name, raw)) as reader:
        for tensor in step.outputs:
            at = shard.offsets[tensor.name]
            stored = SourceTensor(tensor.name, tensor.dtype, tensor.shape, path, at)
            for _ in reader.slices(stored):
                pass  # the observer hashes what is read
    return run.written.take()


def write_step(run: RunningConversion, file: ShardFile, step: TensorStep) -> None:
    is_copy = isinstance(step, Copy)  # its output has the digest of its source
    ends = [0] * len(step.outputs)
    pieces = step.pieces(run.source)
    while True:
        try:
            output, piece = next(pieces)
        except StopIteration as end:
            lossy_blocks = end.value
            break
        name = step.outputs[output].name
        raw = piece.reshape(-1).view("uint8")
        if not is_copy:
            run.written.add(name, raw)
        file.write(name, ends[output], raw.data)
        ends[output] += raw.nbytes
        run.advance(raw.nbytes, name)
    expected = [tensor.nbytes for tensor in step.outputs]
    assert ends == expected, f"{ends=} {expected=} {step.outputs[0].name}"
    first = step.outputs[0].name
    sources = run.read.take()
    run.journal.record(
        JournalEntry(
            outputs={first: sources[step.sources[0].name]}
            if is_copy
            else run.written.take(),
            sources=sources,
            lossy_blocks={first: lossy_blocks} if lossy_blocks else {},
        )
    )


def write_small_files(run: RunningConversion) -> None:
    """Write config, index, card and `conversion.json`; copy the companion files."""
    result = run.journal.result()
    texts: Mapping[str, bytes] = {
        **run.plan.texts,
        RESULT: result.encode(),
        CARD: model_card(run.plan, run.journal).encode(),
    }
    for path in run.plan.companions:
        write(run.folder / path.name, path.read_bytes(), private=False)
    for name, text in texts.items():
        write(run.folder / name, text, private=False)
    sync_folder(run.folder)
