"""Files and folders to mask, and where the masked ones go. Reads their beginnings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mlx_gptoss.errors import RedactionError
from mlx_gptoss.workloads.redact.documents import is_text


class MaskingWork(NamedTuple):
    """A file to mask, and where the masked one goes; None is the standard output."""

    source: Path
    target: Path | None


class MaskingWorks(NamedTuple):
    """Files to mask, and those of folders left out because they are no text."""

    works: tuple[MaskingWork, ...]
    left_out: tuple[Path, ...]


def list_work(
    sources: Sequence[Path], output: Path | None, vault: Path | None = None
) -> MaskingWorks:
    """List the files of `sources`, which may be folders, without hidden ones.

    Nor is the `vault` one of them.

    One file goes to `output`, or to the standard output without one; several, and
    folders, go into the folder `output`, in the same places. Raises RedactionError for
    what does not fit, and for output that would replace a source.
    """
    several = len(sources) > 1 or any(path.is_dir() for path in sources)
    if several and output is None:
        raise RedactionError(
            "several files are masked into a folder: name it with `--output DIR`"
        )
    if several and output is not None and output.is_file():
        raise RedactionError(f"`{output}` is a file: give a folder for several files")
    works, left_out = [], []
    for source in sources:
        for path, inside in _files(source):
            if several and output and path.resolve().is_relative_to(output.resolve()):
                continue  # of an earlier call
            if vault is not None and path.resolve() == vault.resolve():
                continue
            if source.is_dir() and not is_text(path):
                left_out.append(path)
                continue
            target = output
            if output is not None and (several or output.is_dir()):
                target = output / inside
            works.append(MaskingWork(path, target))
    _check(works)
    return MaskingWorks(tuple(works), tuple(left_out))


def _files(source: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a source, and their places in an output folder."""
    if not source.is_dir():
        yield source, Path(source.name)
        return
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.is_file() and not hidden:
            yield path, Path(source.resolve().name) / inside


def _check(works: Sequence[MaskingWork]) -> None:
    sources = {work.source.resolve() for work in works}
    targets: dict[Path, Path] = {}
    for source, target in works:
        if target is None:
            continue
        place = target.resolve()
        if place in sources:
            raise RedactionError(
                f"`{target}` would replace a file that is to be masked: choose another "
                "place for the output"
            )
        other = targets.setdefault(place, source)
        if other != source:
            raise RedactionError(
                f"`{other}` and `{source}` would both become `{target}`: mask them "
                "one by one"
            )
