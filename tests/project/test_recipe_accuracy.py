"""The example that measures what recipes do to the demo model's answers."""

from dataclasses import replace
from pathlib import Path

from examples.demo_model.cases import Output, cases
from examples.real_language_model.quality import convert_all
from examples.recipe_accuracy import (
    result_rows,
    run,
    same_share,
    solved_share,
    table,
)
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.measure.divergence import Divergence

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
DIVERGENCE = Divergence(9, 0.25, 0.5, 0.125, 0.9, 3, 4)


def test_a_lossless_conversion_answers_as_its_source(tmp_path: Path) -> None:
    chosen = cases(1)[:1]
    source = open_checkpoint(DEMO)
    made = convert_all(source, tmp_path / "made")
    before = run(source.folder, chosen)
    assert same_share(before, run(made["lossless"].folder, chosen)) == 1
    others = [before] * (len(made) - 1)
    answers = [before, [None] * len(chosen), *others]
    rows = result_rows(source, made, chosen, answers, [DIVERGENCE] * len(made))
    lines = table(rows).splitlines()
    assert lines[3].startswith("| `lossless` | ")
    assert lines[3].endswith(" MB | 0.0% | 0.0% | 0.25000 | 12.5% |")
    assert len(lines) == 3 + len(made)


def test_shares_count_what_is_right_and_what_is_unchanged() -> None:
    case = cases(1)[0]
    good = Output("", case.tool, case.text)
    other = replace(good, text=good.text + "!")
    assert solved_share([case, case], [good, other]) == 0.5
    assert same_share([good, other], [good, good]) == 0.5
