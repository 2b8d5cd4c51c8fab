"""`mlx-gptoss redact [FILE]...`: mask what is private."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.given import refuse_given
from mlx_gptoss.cli.options import (
    MemorySizeType,
    collects_load_options,
    json_option,
    offline_option,
    strict_option,
)
from mlx_gptoss.cli.progress_line import ProgressLine
from mlx_gptoss.cli.redact.documents import (
    plan_documents,
    read_source,
    takes_documents,
    write_result,
)
from mlx_gptoss.cli.redact.model import MODEL_VARIABLE, load_redactor
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.shell_words import complete_models
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.redact import Redactor, Vault
    from mlx_gptoss.workloads.redact.folders import MaskingWorks
    from mlx_gptoss.workloads.redact.work import RedactionReport

OF_MODELS = ("model", "min_confidence", "favour", "memory", "dtype")


@click.command(short_help="Mask what is private in texts")
@takes_documents
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_models,
    help="A token classifier: a path (./x) or a Hub id (a/b) "
    f"[default: ${MODEL_VARIABLE}, else openai/privacy-filter]",
)
@click.option(
    "--patterns-only",
    is_flag=True,
    help="Use no model: finds e-mails, cards, IBANs, keys, no names",
)
@click.option(
    "--favour",
    type=click.Choice(["recall", "precision", "balance"]),
    default="balance",
    show_default=True,
    help="Mask rather more, or rather less",
)
@click.option(
    "--min-confidence",
    metavar="P",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Leave what the model is less sure of than this, from 0 to 1",
)
@click.option(
    "--keep",
    metavar="LABEL",
    multiple=True,
    help="Do not mask these, such as `date`; may be repeated",
)
@click.option(
    "--vault",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep what was masked in this file, for `unredact`; only you can read it",
)
@click.option(
    "--memory",
    type=MemorySizeType(),
    help="Memory the model may use, such as 4GB [default: all there is]",
)
@click.option(
    "--dtype",
    metavar="[float32|bfloat16]",
    help="Precision of the arithmetic [default: bfloat16 on GPU, float32 on CPU]",
)
@offline_option
@strict_option
@json_option
@collects_load_options
@pass_services
def redact(
    services: Services,
    options: "LoadOptions",
    *,
    sources: Sequence[Path],
    output: Path | None,
    kind: str | None,
    model: str | None,
    patterns_only: bool,
    favour: Any,
    min_confidence: float,
    keep: Sequence[str],
    vault: Path | None,
    as_json: bool,
) -> None:
    """Mask names, addresses, numbers and secrets in FILEs, folders or stdin.

    Text and Markdown are masked whole; of JSON and JSONL the values, of CSV and TSV
    the cells. A person has the same number throughout a document: [PERSON_1]. A model
    and patterns with checksums look for them; what was found by which is printed at
    the end, and with --json where, too.

    \b
    mlx-gptoss redact letter.md
    mlx-gptoss redact letters/ -o masked/ --vault letters.vault
    git diff | mlx-gptoss redact --patterns-only
    """
    from mlx_gptoss.workloads.redact import Redactor

    if patterns_only:
        refuse_given(OF_MODELS, "is for a model: leave out --patterns-only")
    works = plan_documents(sources, output, vault)
    if patterns_only:
        redactor = Redactor(None, keep=keep)
    else:
        redactor = load_redactor(
            services,
            model,
            options,
            min_confidence=min_confidence,
            favour=favour,
            keep=keep,
        )
    with redactor, _opened(vault) as kept:
        found = _mask_all(works, kind, redactor, kept, as_json=as_json)
    if as_json:
        left_out = [str(path) for path in works.left_out]
        click.echo(json.dumps({"files": found, "left_out": left_out}, indent=2))
        return
    note(_summary(found))
    if patterns_only:
        note("(patterns alone: names, addresses and dates are not looked for)")


def _opened(path: Path | None) -> Any:
    from mlx_gptoss.workloads.redact import Vault

    return nullcontext() if path is None else Vault.opened(path)


def _mask_all(
    works: "MaskingWorks",
    kind: str | None,
    redactor: "Redactor",
    vault: "Vault | None",
    *,
    as_json: bool,
) -> list[dict[str, Any]]:
    """Mask all files; return what is to be said of each."""
    from mlx_gptoss.workloads.redact.work import redact_document

    found = []
    with ProgressLine() as line:
        for number, (path, target) in enumerate(works.works, start=1):
            source, pieces = read_source(path, target, kind), list[str]()
            report = redact_document(
                source.text,
                source.kind,
                source.name,
                redactor,
                vault,
                write=pieces.append,
            )
            facts = _facts(source.name, target, report)
            if vault is not None:
                vault.flush()  # before there is a text that needs it
            if target is None and as_json:
                facts["text"] = "".join(pieces)
            else:
                write_result(target, pieces, private=False)
            found.append(facts)
            if len(works.works) > 1:
                done = f"{number:,}/{len(works.works):,} files masked"
                line.show(done, last=number == len(works.works))
    return found


def _facts(name: str, target: Path | None, report: "RedactionReport") -> dict[str, Any]:
    return {
        "file": name,
        "output": None if target is None else str(target),
        "labels": report.labels,
        "found_by": report.found_by,
        "spans": report.spans,
    }


def _summary(found: Sequence[dict[str, Any]]) -> str:
    """Say how much was masked, by label and by what found it; nothing of it."""
    labels, finders = Counter[str](), Counter[str]()
    for facts in found:
        labels.update(facts["labels"])
        finders.update(facts["found_by"])
    where = f" in {len(found):,} files" if len(found) > 1 else ""
    if not labels:
        return f"Nothing private was found{where}"
    return f"Masked{where}: {_counts(labels)}\nFound by: {_counts(finders)}"


def _counts(counter: "Counter[str]") -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())
