"""What every recipe costs a real language model: KL, flips, perplexity, as a table.

    python -m examples.real_language_model.quality smol --work made

Converts the checkpoint by every recipe into the folder `--work` (what is there is
kept), then runs all of them beside the source, layer by layer. Prints a Markdown table.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

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
from mlx_gptoss_convert.read.source import TensorReader
from mlx_gptoss_convert.write.conversion import convert

TEXT = Path(__file__).parent / "persuasion.txt"
MEASURED: dict[str, Recipe] = {
    **RECIPES,
    "q8 --expert-bits 3": with_experts(RECIPES["q8"], bits=3),
}
HEADER = """\
| | size | KL, mean | 99 % below | top token another | top 5 kept | perplexity |
|---|---:|---:|---:|---:|---:|---:|"""
SOURCE_ROW = "| source | {size} | | | | | {perplexity_before:.2f} |"
ROW = (
    "| `{name}` | {size} | {kl:.4f} | {kl_99:.3f} | {flips:.1%} | {top5_overlap:.1%} "
    "| {perplexity_after:.2f} |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what recipes cost.")
    parser.add_argument("checkpoint", type=Path, help="what `build` made")
    parser.add_argument("--work", type=Path, required=True, help="a folder, kept")
    parser.add_argument("--text", type=Path, default=TEXT)
    given = parser.parse_args()

    def progress(done: int, total: int, what: str) -> None:
        print(f"{done / total:.0%} {what}", flush=True)

    try:
        source = open_checkpoint(given.checkpoint)
        made = convert_all(source, given.work)
        passages = choose_texts(source, given.text)
        found = measure_all(source, made, passages, progress=progress)
    except GptOssError as error:
        parser.exit(1, f"{error}\n")
    print(table(source, made, found))


def convert_all(source: Checkpoint, work: Path) -> dict[str, Checkpoint]:
    """Convert by every recipe, where that was not done yet."""
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
    passages: Sequence[EvaluationText],
    *,
    progress: Progress | None = None,
) -> list[Divergence]:
    """Run the source once, and beside it every conversion; in the order of `made`."""
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
        return diverge(teacher, students, passages, progress=progress)


def table(
    source: Checkpoint, made: dict[str, Checkpoint], found: Sequence[Divergence]
) -> str:
    return "\n".join([HEADER, *rows(source, made, found)])


def rows(
    source: Checkpoint, made: dict[str, Checkpoint], found: Sequence[Divergence]
) -> Iterator[str]:
    yield SOURCE_ROW.format(size=size(source), **found[0].as_dict())
    for (name, checkpoint), divergence in zip(made.items(), found, strict=True):
        yield ROW.format(name=name, size=size(checkpoint), **divergence.as_dict())


def size(checkpoint: Checkpoint) -> str:
    return format_bytes(sum(path.stat().st_size for path in checkpoint.files))


if __name__ == "__main__":
    main()
