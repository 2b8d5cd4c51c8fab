"""Counts of operations of a decode step, and times of steps in lockstep."""

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.bench_decode import operations_table
from mlx_gptoss.diagnostics.bench.engines import OwnEngine
from mlx_gptoss.diagnostics.bench.lockstep import LockstepRows, require_steps
from mlx_gptoss.diagnostics.bench.operations import (
    OperationsBench,
    StepCounts,
    bench_operations,
    random_prompts,
)
from mlx_gptoss.diagnostics.bench.primitives import (
    EvaluationCounter,
    count_operations,
    typical_step,
)
from mlx_gptoss.diagnostics.bench.random_checkpoint import write_random
from mlx_gptoss.diagnostics.bench.steps import bench_steps
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import GptOssError

FLOAT32 = LoadOptions(dtype="float32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "tiny", 100_000)


def bench(*words: str) -> Result:
    return CliRunner().invoke(cli, ["bench", "decode", "-m", "demo", *words])


def test_all_that_is_evaluated_counts_once() -> None:
    a, b = mx.ones((3, 5)), mx.ones((5, 2))
    mx.eval(a, b)
    evaluate = mx.eval

    with EvaluationCounter() as counter:
        product = a @ b
        mx.async_eval({"product": product})
        mx.eval([mx.abs(product).T, product])
        found = counter.take()
        mx.eval(product)

        assert counter.take() == {}
    assert found == {"Matmul": 1, "Abs": 1, "Transpose": 1}
    assert count_operations(found) == 2
    assert mx.eval is evaluate


def test_a_step_in_which_a_cache_grows_is_not_typical() -> None:
    usual = {"Matmul": 3, "Reshape": 9}

    assert typical_step([{"Matmul": 3, "Full": 2}, usual, {"Matmul": 3}]) == usual


def test_a_batch_is_one_forward_pass(tiny: Path) -> None:
    engine = OwnEngine(tiny, FLOAT32)
    prompts = random_prompts(3, 5, 256)

    for found in (engine.primitives(prompts[0]), engine.batch_primitives(prompts)):
        assert found["GatherQMM"] == 4  # two of each layer
        assert found["ArgReduce"] == 1  # all rows at once


def test_rows_decode_in_lockstep(tiny: Path) -> None:
    params = [SamplingParams(max_tokens=6, temperature=0)] * 3
    with load(tiny, dtype="float32") as runtime:
        rows = LockstepRows(runtime, random_prompts(3, 90, 256))
        observed, counts = rows.run(
            params, lambda: runtime.batch_statistics.completion_tokens
        )

    assert counts == [6, 6, 6]
    steps = [b - a for a, b in pairwise(observed)]
    assert steps == [3, 3, 3]


def test_rows_that_never_decode_together_are_named() -> None:
    with pytest.raises(GptOssError, match="5 rows never decoded together"):
        require_steps([], 5)


def test_steps_are_timed_with_and_without_guides() -> None:
    demo = resolve("demo")

    for guided in (False, True):
        found = bench_steps(
            demo, LoadOptions(), batch=2, depth=8, tokens=5, rounds=1, guided=guided
        ).as_json()
        assert [step["rows"] for step in found["steps"]] == [1, 2]
        assert min(found["ms_per_step_1"], found["ms_per_step_2"]) > 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--operations", "--guided"), "`--guided` is timed"),
        (("--operations", "--depth", "3", "--depth", "4"), "take one `--depth`"),
        (("--operations", "--experts", "streamed"), "drop `--experts streamed`"),
        (("--batch", "2", "--against", "mlx-lm"), "times our steps alone"),
        (("--batch", "2", "--tokens", "2"), "measure nothing"),
        (("--operations", "--depth", "200000"), "cannot be counted"),
    ],
)
def test_options_that_contradict_are_refused(
    words: tuple[str, ...], reason: str
) -> None:
    done = bench(*words)

    assert done.exit_code in (1, 2)
    assert reason in done.stderr.replace("\n", " ")


def test_a_peer_that_failed_is_shown_and_does_not_count() -> None:
    ours = StepCounts("mlx_gptoss 0.1.0", "float32", {"Matmul": 3, "Slice": 2})
    found = OperationsBench(
        "m", 4, 64, {"mlx_gptoss": ours, "mlx-lm": StepCounts(failure="no luck")}
    )

    assert operations_table(found).splitlines() == [
        "            operations  views    dtype  version",
        "mlx_gptoss           3      2  float32    0.1.0",
        "mlx-lm: no luck",
        "one decode step of 4 rows behind 64 tokens; m",
    ]
    assert found.as_json()["mlx_gptoss"]["operations"] == 3
    assert found.as_json()["mlx-lm"] == {"failure": "no luck"}


@pytest.mark.soak
def test_both_engines_are_counted_in_processes_of_their_own(tiny: Path) -> None:
    pytest.importorskip("mlx_lm")

    found = bench_operations(tiny, LoadOptions(), batch=3, depth=5).as_json()

    assert list(found) == ["mlx_gptoss", "mlx-lm", "mlx-lm as shipped"]
    assert found["mlx_gptoss"]["dtype"] == found["mlx-lm"]["dtype"] == "float32"
    assert found["mlx-lm as shipped"]["dtype"] == "bfloat16"
    assert found["mlx-lm"]["primitives"]["GatherQMM"] == 6
    assert found["mlx-lm"]["primitives"]["ArgReduce"] == 1  # all rows at once
    assert all(each["operations"] > 50 for each in found.values())
