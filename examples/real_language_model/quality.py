"""Measure what every recipe costs a real language model: KL, top tokens, perplexity.

    python -m examples.real_language_model.quality smol --work made

Converts the checkpoint by every recipe into the folder `--work` (existing conversions
are kept), then runs all of them and the source layer by layer. Prints a Markdown table;
`--json FILE` also saves the figures.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.measure.divergence import Divergence
from mlx_gptoss_convert.measure.kl import Progress, choose_texts, diverge
from mlx_gptoss_convert.measure.layers import CheckpointModel
from mlx_gptoss_convert.measure.texts import EvaluationText
from mlx_gptoss_convert.measure.verify import verify
from mlx_gptoss_convert.plan.plan import make_plan
from mlx_gptoss_convert.plan.recipe import RECIPES, Recipe, with_experts
from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.source import TensorReader
from mlx_gptoss_convert.write.conversion import convert

TEXT = Path(__file__).parent / "persuasion.txt"
MEASURED: dict[str, Recipe] = {
    **RECIPES,
    "q8 --expert-bits 3": with_experts(RECIPES["q8"], bits=3),
}
HEADER = """\
| recipe | size | KL, mean | KL, 99th percentile | top token differs | top 5 kept \
| perplexity |
|---|---:|---:|---:|---:|---:|---:|"""
SOURCE_ROW = "| {recipe} | {size} | | | | | {perplexity:.2f} |"
ROW = (
    "| `{recipe}` | {size} | {kl:.4f} | {kl_99:.3f} | {flips:.1%} | {top5_overlap:.1%} "
    "| {perplexity:.2f} |"
)
Row = dict[str, Any]  # the figures of one recipe


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what recipes cost.")
    parser.add_argument("checkpoint", type=Path, help="made by `build`")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for conversions, kept"
    )
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--json", type=Path, help="also save the figures here")
    given = parser.parse_args()

    def progress(done: int, total: int, what: str) -> None:
        print(f"{done / total:.0%} {what}", flush=True)

    try:
        opened = open_source(given.checkpoint)
        source = opened.checkpoint
        made = convert_all(source, given.work)
        texts = choose_texts(opened, given.text)
        found = measure_all(source, made, texts, progress=progress)
    except GptOssError as error:
        parser.exit(1, f"{error}\n")
    rows = result_rows(source, made, found)
    if given.json is not None:
        save_results(given.json, rows)
    print(table(rows))


def convert_all(source: Checkpoint, work: Path) -> dict[str, Checkpoint]:
    """Convert by every recipe, except into folders that exist."""
    work.mkdir(exist_ok=True)
    made = {}
    for name, recipe in MEASURED.items():
        folder = work / name.replace(" ", "")
        if not folder.exists():
            convert(make_plan(source, recipe), folder, resume=True)
        made[name] = open_checkpoint(folder)
    return made


def measure_all(
    source: Checkpoint,
    made: dict[str, Checkpoint],
    texts: Sequence[EvaluationText],
    *,
    progress: Progress | None = None,
) -> list[Divergence]:
    """Run the source and every conversion together; results in the order of `made`."""
    shared = [
        verify(checkpoint.folder, source.folder).same_experts
        for checkpoint in made.values()
    ]
    with ExitStack() as stack:
        read = stack.enter_context
        teacher = CheckpointModel(source, read(TensorReader()))
        students = [
            CheckpointModel(checkpoint, read(TensorReader()), shared=same)
            for checkpoint, same in zip(made.values(), shared, strict=True)
        ]
        return diverge(teacher, students, texts, progress=progress)


def result_rows(
    source: Checkpoint, made: dict[str, Checkpoint], found: Sequence[Divergence]
) -> list[Row]:
    """Return the figures of the source, then of every recipe."""
    before = {"perplexity": found[0].perplexity_before}
    rows: list[Row] = [{"recipe": "source", "bytes": size(source), **before}]
    for (name, checkpoint), divergence in zip(made.items(), found, strict=True):
        figures = divergence.as_dict()
        del figures["perplexity_before"]
        figures["perplexity"] = figures.pop("perplexity_after")
        rows.append({"recipe": name, "bytes": size(checkpoint), **figures})
    return rows


def size(checkpoint: Checkpoint) -> int:
    return sum(path.stat().st_size for path in checkpoint.files)


def table(rows: Sequence[Row]) -> str:
    return "\n".join(
        [
            HEADER,
            *(
                (ROW if "kl" in row else SOURCE_ROW).format(
                    size=format_bytes(row["bytes"]), **row
                )
                for row in rows
            ),
        ]
    )


def save_results(path: Path, rows: Sequence[Row]) -> None:
    """Save the figures with the command and the date."""
    results = {
        "command": " ".join(["python -m", module_name(), *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "rows": rows,
    }
    path.write_text(json.dumps(results, indent=2) + "\n")


def module_name() -> str:
    """Return the module run by `python -m`, which `__main__` has in its spec."""
    spec = sys.modules["__main__"].__spec__
    return "" if spec is None else spec.name


if __name__ == "__main__":
    main()
