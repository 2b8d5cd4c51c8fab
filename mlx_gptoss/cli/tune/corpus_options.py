"""Options that say how training examples are read, and what is shown of them."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.options import collect
from mlx_gptoss.cli.progress import ByteProgress
from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.cli.terminal import CONTROL, note

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint.tokenizer import Tokenizer
    from mlx_gptoss.workloads.tune.corpus import TuneCorpus
    from mlx_gptoss.workloads.tune.settings import CorpusSettings

SIDES = {"train": "training", "valid": "validation"}
KINDS = "analysis,final,calls"
OPTIONS = (
    click.option(
        "--valid",
        metavar="FILE",
        type=click.Path(exists=True, path_type=Path),
        help="Examples for validation [default: a share of DATA]",
    ),
    click.option(
        "--valid-share",
        metavar="SHARE",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.05,
        show_default=True,
        help="Share of DATA kept for validation; 0 keeps none",
    ),
    click.option(
        "--length",
        metavar="N",
        type=click.IntRange(min=2),
        default=2048,
        show_default=True,
        help="Most tokens of one document; plain text is divided",
    ),
    click.option(
        "--too-long",
        type=click.Choice(["refuse", "cut"]),
        default="refuse",
        show_default=True,
        help="Treatment of a longer conversation",
    ),
    click.option(
        "--train-on",
        metavar="KINDS",
        default=KINDS,
        show_default=True,
        help="Messages of the assistant to learn; calls include texts before them",
    ),
    click.option(
        "--effort",
        type=click.Choice(["low", "medium", "high"]),
        default="medium",
        show_default=True,
        help="Reasoning effort of conversations that name none",
    ),
    click.option(
        "--date",
        metavar="DATE",
        help="Current date of conversations that name none, as it is written",
    ),
    click.option(
        "--pairs",
        type=click.Choice(["text", "chat"]),
        default="text",
        show_default=True,
        help="Take a prompt and completion as plain text, or as question and answer",
    ),
    click.option(
        "--recipient-in",
        type=click.Choice(["role", "channel"]),
        default="role",
        show_default=True,
        help="Part of a call's header that names the tool",
    ),
)


def takes_corpus_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options to a command.

    It receives `settings: CorpusSettings` and `valid: Path | None`.
    """

    @wraps(function)
    def wrapper(*args: Any, train_on: str, **given: Any) -> Any:
        from mlx_gptoss.workloads.tune.settings import CorpusSettings

        kinds = tuple(filter(None, (one.strip() for one in train_on.split(","))))
        settings = collect(CorpusSettings, given := {**given, "train_on": kinds})
        return function(*args, settings=settings, **given)

    for option in reversed(OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def open_corpus(
    data: Path,
    tokenizer: "Tokenizer",
    settings: "CorpusSettings",
    valid: Path | None = None,
) -> "TuneCorpus":
    """Read all examples with progress on stderr, and say what was done to them."""
    from mlx_gptoss.workloads.tune.corpus import read_corpus

    with ByteProgress(f"Reading {data}") as progress:
        corpus = read_corpus(data, tokenizer, settings, valid=valid, progress=progress)
    for notice in corpus.notices:
        note(f"({notice})")
    return corpus


def corpus_table(corpus: "TuneCorpus") -> str:
    """Return the counts of a corpus as a table."""
    header = ["", "documents", "learned tokens", "tokens", "longest"]
    rows = [header]
    for side, found in corpus.summary().items():
        keys = ("documents", "learned_tokens", "tokens", "longest")
        rows.append([SIDES[side], *(f"{found[key]:,}" for key in keys)])
    return aligned(rows, columns=len(header))


def show_preview(
    corpus: "TuneCorpus", tokenizer: "Tokenizer", *, coloured: bool
) -> None:
    """Print the first training document with its learned tokens marked, and counts.

    What is learned is green on a terminal, and in `[[ ]]` elsewhere.
    """
    from mlx_gptoss.workloads.tune.preview import bracketed, marked_texts

    document = corpus.train[0]
    if coloured:
        cleaned = (
            (CONTROL.sub("", text), learned)
            for text, learned in marked_texts(document, tokenizer)
        )
        shown = (
            click.style(text, fg="green") if learned else text
            for text, learned in cleaned
        )
        text = "".join(shown)
    else:
        text = bracketed(document, tokenizer)
    learned = int(document.learned.sum())
    click.echo(text, color=coloured)
    click.echo(f"\n{document.where}: {learned:,} of {len(document):,} tokens learned\n")
    click.echo(corpus_table(corpus))
