"""What recipes do to answers: the demo model's held-out tasks, by every recipe.

    python -m examples.recipe_accuracy --work made --count 24

Converts the demo by every recipe into the folder `--work` (what is there is kept) and
has the source and every conversion do the same tasks, greedily. Prints a Markdown
table: tasks done right, outputs that are the source's to the letter, and what KL and
flips are on the bundled Harmony conversations.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from examples.demo_model.cases import Case, Output, cases
from examples.demo_model.evaluate import outputs
from examples.real_language_model.quality import convert_all, measure_all, size
from mlx_gptoss import load
from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.errors import GptOssError
from mlx_gptoss_convert.measure.divergence import Divergence
from mlx_gptoss_convert.measure.kl import choose_texts

HEADER = """\
| | size | tasks right | outputs as the source's | KL, mean | top token another |
|---|---:|---:|---:|---:|---:|"""
Outputs = Sequence[Output | None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure answers by recipe.")
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--work", type=Path, required=True, help="a folder, kept")
    parser.add_argument("--count", type=int, default=24, help="tasks of each kind")
    given = parser.parse_args()
    try:
        source = open_checkpoint(resolve(given.model))
        made = convert_all(source, given.work)
        chosen = cases(given.count)
        print(f"{len(chosen)} tasks, {given.count} of each kind", flush=True)
        answers = [run(folder, chosen) for folder in folders(source, made)]
        found = measure_all(source, made, choose_texts(source, None))
    except GptOssError as error:
        parser.exit(1, f"{error}\n")
    print(table(source, made, chosen, answers, found))


def folders(source: Checkpoint, made: dict[str, Checkpoint]) -> list[Path]:
    return [source.folder, *(checkpoint.folder for checkpoint in made.values())]


def run(folder: Path, chosen: Sequence[Case]) -> Outputs:
    with load(folder) as runtime:
        found = outputs(runtime, chosen)
    print(f"{folder.name}: {right(chosen, found):.1%} right", flush=True)
    return found


def table(
    source: Checkpoint,
    made: dict[str, Checkpoint],
    chosen: Sequence[Case],
    answers: Sequence[Outputs],
    found: Sequence[Divergence],
) -> str:
    first, *others = answers
    lines = [HEADER, f"| source | {size(source)} | {right(chosen, first):.1%} | | | |"]
    for (name, checkpoint), theirs, divergence in zip(
        made.items(), others, found, strict=True
    ):
        lines.append(
            f"| `{name}` | {size(checkpoint)} | {right(chosen, theirs):.1%} | "
            f"{same(first, theirs):.1%} | {divergence.kl:.5f} | "
            f"{divergence.flips:.1%} |"
        )
    return "\n".join(lines)


def right(chosen: Sequence[Case], found: Outputs) -> float:
    """Return the share of tasks done right."""
    marks = [case.accepts(x) for case, x in zip(chosen, found, strict=True)]
    return sum(marks) / len(marks)


def same(before: Outputs, after: Outputs) -> float:
    """Return the share of outputs that did not change."""
    marks = [a == b for a, b in zip(before, after, strict=True)]
    return sum(marks) / len(marks)


if __name__ == "__main__":
    main()
