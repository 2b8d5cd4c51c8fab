"""Measure what every recipe does to the demo model's answers to held-out tasks.

    python -m examples.recipe_accuracy --work made --count 24

Converts the demo by every recipe into the folder `--work` (existing conversions are
kept), then answers the same tasks greedily with the source and every conversion. Prints
a Markdown table: tasks solved, outputs identical to the source's, and the KL divergence
on the bundled Harmony conversations. `--json FILE` also saves the figures.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from examples.demo_model.cases import Case, Output, cases
from examples.demo_model.evaluate import outputs
from examples.real_language_model.quality import (
    Row,
    convert_all,
    measure_all,
    save_results,
    size,
)
from mlx_gptoss import load
from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.measure.divergence import Divergence
from mlx_gptoss_convert.measure.kl import choose_texts
from mlx_gptoss_convert.read.checkpoint import open_source

HEADER = """\
| recipe | size | tasks solved | same output as the source | KL, mean \
| top token differs |
|---|---:|---:|---:|---:|---:|"""
SOURCE_ROW = "| {recipe} | {size} | {solved:.1%} | | | |"
ROW = "| `{recipe}` | {size} | {solved:.1%} | {same:.1%} | {kl:.5f} | {flips:.1%} |"
Outputs = Sequence[Output | None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure answers by recipe.")
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for conversions, kept"
    )
    parser.add_argument("--count", type=int, default=24, help="tasks of each kind")
    parser.add_argument("--json", type=Path, help="also save the figures here")
    given = parser.parse_args()
    try:
        opened = open_source(resolve(given.model))
        source = opened.checkpoint
        made = convert_all(source, given.work)
        chosen = cases(given.count)
        print(f"{len(chosen)} tasks, {given.count} of each kind", flush=True)
        answers = [run(folder, chosen) for folder in folders(source, made)]
        found = measure_all(source, made, choose_texts(opened, None))
    except GptOssError as error:
        parser.exit(1, f"{error}\n")
    rows = result_rows(source, made, chosen, answers, found)
    if given.json is not None:
        save_results(given.json, rows)
    print(table(rows))


def folders(source: Checkpoint, made: dict[str, Checkpoint]) -> list[Path]:
    return [source.folder, *(checkpoint.folder for checkpoint in made.values())]


def run(folder: Path, chosen: Sequence[Case]) -> Outputs:
    with load(folder) as runtime:
        found = outputs(runtime, chosen)
    print(f"{folder.name}: {solved_share(chosen, found):.1%} solved", flush=True)
    return found


def result_rows(
    source: Checkpoint,
    made: dict[str, Checkpoint],
    chosen: Sequence[Case],
    answers: Sequence[Outputs],
    found: Sequence[Divergence],
) -> list[Row]:
    """Return the figures of the source, then of every recipe."""
    first, *others = answers
    solved = solved_share(chosen, first)
    rows: list[Row] = [{"recipe": "source", "bytes": size(source), "solved": solved}]
    for (name, checkpoint), theirs, divergence in zip(
        made.items(), others, found, strict=True
    ):
        rows.append(
            {
                "recipe": name,
                "bytes": size(checkpoint),
                "solved": solved_share(chosen, theirs),
                "same": same_share(first, theirs),
                "kl": divergence.kl,
                "flips": divergence.flips,
            }
        )
    return rows


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


def solved_share(chosen: Sequence[Case], found: Outputs) -> float:
    """Return the share of tasks solved."""
    marks = [case.accepts(x) for case, x in zip(chosen, found, strict=True)]
    return sum(marks) / len(marks)


def same_share(before: Outputs, after: Outputs) -> float:
    """Return the share of equal outputs."""
    marks = [a == b for a, b in zip(before, after, strict=True)]
    return sum(marks) / len(marks)


if __name__ == "__main__":
    main()
