"""Documents in, documents out: what `redact` and `unredact` share."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.files import storage_errors, write

if TYPE_CHECKING:
    from mlx_gptoss.workloads.redact.folders import MaskingWorks

STDIN = Path("-")
FORMATS = ("text", "json", "jsonl", "csv")  # those of `documents`; tested


@dataclass(frozen=True)
class Source:
    """A document: its name, its text, its format, and where the result goes."""

    name: str
    text: str
    kind: str
    target: Path | None


def takes_documents(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add FILE..., --output and --format to a command."""
    for option in (
        click.option(
            "--format",
            "kind",
            type=click.Choice(FORMATS),
            help="How to read them [default: by their names, else text]",
        ),
        click.option(
            "-o",
            "--output",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help="File for the result, or a folder for those of several "
            "[default: stdout]",
        ),
        click.argument(
            "sources",
            nargs=-1,
            metavar="[FILE]...",
            type=click.Path(path_type=Path, exists=True, allow_dash=True),
        ),
    ):
        function = option(function)
    return function


def plan_documents(
    sources: Sequence[Path], output: Path | None, vault: Path | None
) -> "MaskingWorks":
    """List the files to read; none means the standard input."""
    from mlx_gptoss.workloads.redact.folders import MaskingWork, MaskingWorks, list_work

    if list(sources) in ([], [STDIN]):
        return MaskingWorks((MaskingWork(STDIN, output),), ())
    if STDIN in sources:
        raise click.UsageError("`-`, the standard input, stands alone")
    found = list_work(sources, output, vault)
    if found.left_out:
        names = ", ".join(f"`{path}`" for path in found.left_out[:3])
        more = ", …" if len(found.left_out) > 3 else ""
        note(f"left out, as no text: {len(found.left_out):,} files ({names}{more})")
    return found


def read_source(path: Path, target: Path | None, kind: str | None) -> Source:
    """Read a document. Raises RedactionError if it is not UTF-8."""
    from mlx_gptoss.workloads.redact.documents import decode, format_of

    if path == STDIN:
        if sys.stdin.isatty():
            note("Write or paste a text, then press Ctrl-D")
        data, name = sys.stdin.buffer.read(), "stdin"
    else:
        data, name = path.read_bytes(), str(path)
    return Source(name, decode(data, name), kind or format_of(path), target)


def write_result(target: Path | None, pieces: Sequence[str], *, private: bool) -> None:
    """Write a whole result to its file, or to stdout without one."""
    data = "".join(pieces).encode("utf-8", "surrogatepass")
    if target is None:
        click.echo(data, nl=False)
        return
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write(target, data, private=private)
