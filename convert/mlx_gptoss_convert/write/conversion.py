"""Carry out a plan: read, write, digest, rename; stop anywhere, go on later.

Everything is written to `DST.partial/` and renamed to `DST` when all of it is on the
disk, so nothing half-written can be taken for a model. Peak memory: one slice a step,
a few slices on their way to being hashed (see `steps`).
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
SPARE_BYTES = 64 * 1024**2  # for the small files and the file system's own needs


@dataclass
class RunningConversion:
    """What the parts of one running conversion share."""

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
) -> None:
    """Carry out `plan` into the folder `dst`, which must not exist.

    `resume` goes on where an interrupted conversion of the same plan stopped; its
    finished tensors are read again and compared with their digests first. Raises
    ConversionError, and leaves at most `DST.partial`.
    """
    partial = partial_folder(dst)
    check_destination(dst, partial, resume=resume)
    check_disk(plan, partial, free_disk or free_bytes)
    try:
        write_folder(plan, partial, progress or no_progress)
        check_destination(dst, partial, resume=True)
        partial.rename(dst)
        sync_folder(dst.parent)
    except (OSError, StorageError) as error:  # a full disk, one taken away
        why = error.strerror if isinstance(error, OSError) else error.reason
        raise ConversionError(
            f"`{partial}` could not be finished: {why}; put that right, then go on "
            "with `--resume`"
        ) from error


def write_folder(plan: ConversionPlan, partial: Path, progress: Progress) -> None:
    """Write what is missing in `partial`, until it is the whole result."""
    partial.mkdir(exist_ok=True)
    stamps = {path.name: list(file_stamp(path)) for path in plan.files}
    with (
        closing(Journal(partial, plan.identity, stamps)) as journal,
        Digests() as written,
        Digests() as read,
        TensorReader(read_inspector(read)) as source,
    ):
        work = RunningConversion(
            plan, partial, journal, source, written, read, progress
        )
        if not journal.source_unchanged:
            check_sources(work)
        for shard in plan.shards:
            write_shard(work, shard)
        check_unchanged(plan, stamps)
        write_small_files(work)
        journal.remove()


def check_unchanged(plan: ConversionPlan, stamps: Mapping[str, list[int]]) -> None:
    """Raise ConversionError if a file of the source is not what it was at first."""
    for path in plan.files:
        if list(file_stamp(path)) != stamps[path.name]:
            raise ConversionError(
                f"`{path}` changed while it was read: convert again from a source "
                "that stays as it is"
            )


def read_inspector(digests: Digests) -> Callable[[SourceTensor, np.ndarray], None]:
    """Make what looks at every piece read: digests it and refuses broken values."""

    def inspect(stored: SourceTensor, raw: np.ndarray) -> None:
        digests.add(stored.name, raw)
        check_values(stored, raw)

    return inspect


def partial_folder(dst: Path) -> Path:
    return dst.with_name(dst.name + PARTIAL)


def no_progress(done: int, total: int, tensor: str) -> None:
    """Report to nobody."""


def check_destination(dst: Path, partial: Path, *, resume: bool) -> None:
    """Refuse to overwrite anything."""
    if dst.exists() or dst.is_symlink():
        raise ConversionError(
            f"`{dst}` already exists: choose another name, or remove it"
        )
    if partial.exists() and not resume:
        raise ConversionError(
            f"`{partial}` is left from an interrupted conversion: go on with "
            "`--resume`, or remove it"
        )
    if not dst.parent.is_dir():
        raise ConversionError(f"`{dst.parent}` is not a folder: make it first")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def check_disk(
    plan: ConversionPlan, partial: Path, free_disk: Callable[[Path], int]
) -> None:
    """Refuse to begin what the disk cannot hold."""
    there = sum(path.stat().st_blocks * 512 for path in partial.glob("*"))
    needed = plan.nbytes + SPARE_BYTES - there
    free = free_disk(partial.parent)
    if free < needed:
        raise ConversionError(
            f"the result needs {needed / 1e9:.2f} GB, the disk of `{partial.parent}` "
            f"has {free / 1e9:.2f} GB free: make room or choose another disk"
        )


def check_sources(work: RunningConversion) -> None:
    """Compare the source of every finished step with what it was read as."""
    for step in work.plan.steps:
        entry = work.journal.done.get(step.outputs[0].name)
        if entry is not None and source_digests(work, step.sources) != entry.sources:
            raise ConversionError(
                f"the source of `{step.outputs[0].name}` is not what "
                f"`{work.folder}` was begun with: remove `{work.folder}` and convert "
                "again"
            )


def source_digests(
    work: RunningConversion, sources: tuple[SourceTensor, ...]
) -> dict[str, str]:
    for stored in sources:
        for _ in work.source.slices(stored):
            pass  # reading feeds the digests
    return work.read.take()


def write_shard(work: RunningConversion, shard: Shard) -> None:
    """Write what is missing of one file, then give it its name."""
    steps = work.plan.steps_of(shard)
    finished = [is_finished(work, shard, step) for step in steps]
    if all(finished) and has_header(work.folder / shard.name, shard):
        return
    with closing(ShardFile(work.folder, shard)) as file:
        for step, is_done in zip(steps, finished, strict=True):
            if not is_done:
                write_step(work, file, step)
        file.finish()


def has_header(path: Path, shard: Shard) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(shard.header)) == shard.header


def is_finished(work: RunningConversion, shard: Shard, step: TensorStep) -> bool:
    """Say whether a step's bytes are on the disk; forget its entry if they are not."""
    first = step.outputs[0].name
    entry = work.journal.done.get(first)
    if entry is None:
        return False
    if written_digests(work, shard, step) == entry.outputs:
        for tensor in step.outputs:
            work.advance(tensor.nbytes, tensor.name)
        return True
    work.journal.forget(first)
    return False


def written_digests(
    work: RunningConversion, shard: Shard, step: TensorStep
) -> dict[str, str]:
    """Digest a step's outputs as they lie in the unfinished or finished file."""
    path = existing_path(work.folder, shard)
    if path is None or path.stat().st_size != shard.nbytes:
        return {}
    with TensorReader(lambda stored, raw: work.written.add(stored.name, raw)) as reader:
        for tensor in step.outputs:
            at = shard.offsets[tensor.name]
            stored = SourceTensor(tensor.name, tensor.dtype, tensor.shape, path, at)
            for _ in reader.slices(stored):
                pass  # reading feeds the digests
    return work.written.take()


def write_step(work: RunningConversion, file: ShardFile, step: TensorStep) -> None:
    copied = isinstance(step, Copy)  # then reading it digests it
    ends = [0] * len(step.outputs)
    pieces = step.pieces(work.source)
    while True:
        try:
            output, piece = next(pieces)
        except StopIteration as end:
            lossy_blocks = end.value
            break
        name = step.outputs[output].name
        raw = piece.reshape(-1).view("uint8")
        if not copied:
            work.written.add(name, raw)
        file.write(name, ends[output], raw.data)
        ends[output] += raw.nbytes
        work.advance(raw.nbytes, name)
    expected = [tensor.nbytes for tensor in step.outputs]
    assert ends == expected, f"{ends=} {expected=} {step.outputs[0].name}"
    first = step.outputs[0].name
    sources = work.read.take()
    work.journal.record(
        JournalEntry(
            outputs={first: sources[step.sources[0].name]}
            if copied
            else work.written.take(),
            sources=sources,
            lossy_blocks={first: lossy_blocks} if lossy_blocks else {},
        )
    )


def write_small_files(work: RunningConversion) -> None:
    """Write the config, the index, the card and the journal; copy what comes along."""
    result = work.journal.result()
    texts: Mapping[str, bytes] = {
        **work.plan.texts,
        RESULT: result.encode(),
        CARD: model_card(work.plan, work.journal).encode(),
    }
    for path in work.plan.companions:
        write(work.folder / path.name, path.read_bytes(), private=False)
    for name, text in texts.items():
        write(work.folder / name, text, private=False)
    sync_folder(work.folder)
