"""Benchmarks at tiny sizes: the form of their reports, not their speed."""

import json
from contextlib import ExitStack
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.decode import bench_decode
from mlx_gptoss.diagnostics.bench.decode_results import (
    Column,
    DecodeBench,
    DecodePoint,
    DecodeRatio,
)
from mlx_gptoss.diagnostics.bench.engine_process import EngineProcess
from mlx_gptoss.diagnostics.bench.measured_engine import (
    Condition,
    MeasuredEngine,
    random_prompt,
)
from mlx_gptoss.diagnostics.bench.primitives import count_primitives
from mlx_gptoss.diagnostics.bench.random_checkpoint import random_config, write_random
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import CheckpointError, GptOssError
from tests.support.checkpoints import write_checkpoint

TINY = 100_000  # bytes: two layers

FLOAT32 = LoadOptions(dtype="float32")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("models") / "tiny", TINY)


@pytest.mark.parametrize("size", [TINY, 10**6, 2 * 10**8, 10**9])
def test_a_random_config_reaches_the_size_with_both_kinds_of_layer(size: int) -> None:
    config = random_config(size)
    assert len(config["layer_types"]) == config["num_hidden_layers"] >= 2
    assert set(config["layer_types"]) == {"sliding_attention", "full_attention"}


def test_a_random_checkpoint_opens_and_is_at_least_as_large(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "random", 10**6)
    checkpoint = open_checkpoint(folder, strict=True)
    assert 10**6 <= sum(checkpoint.bytes_by_part.values()) < 1.2e6
    assert checkpoint.layout.name == "hf"


def test_the_same_seed_writes_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    again = write_random(tmp_path / "again", TINY, seed=0)
    other = write_random(tmp_path / "other", TINY, seed=1)
    weights = (tiny / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == weights
    assert (other / "model.safetensors").read_bytes() != weights


def test_large_random_checkpoints_are_sharded(tmp_path: Path) -> None:
    folder = write_random(tmp_path / "shards", TINY, shard_bytes=50_000)
    assert len(open_checkpoint(folder).files) > 1


def test_an_existing_folder_is_refused(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        write_random(tiny, TINY)


def test_a_random_checkpoint_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="make room"):
        write_random(tmp_path / "huge", TINY, free_disk=lambda _: TINY)
    assert not list(tmp_path.iterdir())


def test_primitives_are_counted_by_name_and_nothing_is_run() -> None:
    a, b = mx.ones((3, 5)), mx.ones((5, 2))
    mx.eval(a, b)
    assert count_primitives(mx.abs(a @ b), mx.abs(a)) == {"Abs": 2, "Matmul": 1}


def test_every_engine_reads_the_same_prompt() -> None:
    assert random_prompt(7, 300) == random_prompt(9, 300)[:7]
    assert max(random_prompt(500, 30)) < 30


def point(depth: int, prefill: float, decode: float) -> DecodePoint:
    return DecodePoint(depth, prefill, decode, first_token_s=depth / prefill, rounds=3)


def test_ratios_are_ours_to_the_peers_at_the_depths_of_both() -> None:
    found = DecodeBench(
        model="m",
        machine="a machine",
        load_average=0.0,
        tokens=8,
        columns=(
            Column("ours", points=[point(32, 30.0, 8.0), point(64, 40.0, 6.0)]),
            Column("peer", points=[point(32, 10.0, 16.0)]),
            Column("peer as shipped", points=[point(32, 1.0, 1.0)]),
        ),
    )
    assert found.ratios == (DecodeRatio(32, prefill=3.0, decode=0.5),)


def test_a_column_that_would_repeat_another_is_known(tiny: Path) -> None:
    condition = Condition("mlx-lm", "mlx-lm", FLOAT32, (4,), 1)
    one, two = (
        MeasuredEngine(condition, tiny, 256),
        MeasuredEngine(condition, tiny, 256),
    )
    one.column.dtype, two.column.dtype = "float32", "bfloat16"
    assert not one.same_measurement_as(two)
    two.column.dtype = "float32"
    assert one.same_measurement_as(two)


@pytest.fixture(scope="module")
def compared(tiny: Path) -> DecodeBench:
    return bench_decode(
        tiny, LoadOptions(), against="mlx-lm", depths=(3, 6), tokens=3, rounds=2
    )


def test_ours_and_mlx_lm_run_under_the_same_conditions(compared: DecodeBench) -> None:
    ours, peer, shipped = compared.columns
    assert [ours.failure, peer.failure, shipped.failure] == [None, None, None]
    assert (ours.dtype, ours.blas) == (peer.dtype, peer.blas)
    assert ours.package.startswith("mlx_gptoss ")
    assert peer.package == shipped.package
    assert shipped.dtype == "bfloat16"  # as the checkpoint has it


@pytest.mark.parametrize("experts", ["streamed", "hybrid"])
def test_streamed_experts_are_measured_too(tiny: Path, experts: str) -> None:
    found = bench_decode(
        tiny, LoadOptions(experts=experts), depths=(3,), tokens=3, rounds=1
    )
    (column,) = found.columns
    assert column.experts.startswith(experts)
    assert 0 < column.hit_rate < 1  # what is asked for first is read


def test_rounds_and_depths_are_what_was_asked_for(compared: DecodeBench) -> None:
    measured = [[(p.depth, p.rounds) for p in c.points] for c in compared.columns]
    assert measured == [[(3, 2), (6, 2)], [(3, 2), (6, 2)], [(3, 1)]]


def test_all_figures_are_there_and_fit_in_json(compared: DecodeBench) -> None:
    found = json.loads(json.dumps(compared.as_json()))
    for column in found["columns"]:
        assert min(column["load_s"], *column["points"][0].values()) > 0
        assert 0 < column["peak_memory"] < column["peak_rss"]
        assert column["primitives_per_token"] == sum(column["primitives"].values())
        assert column["primitives"]["GatherQMM"] in (4, 6)  # ours, mlx-lm's: 2 layers
    assert [ratio["depth"] for ratio in found["ratios"]] == [3, 6]


def test_a_folder_mlx_lm_cannot_load_is_said_in_one_line(tmp_path: Path) -> None:
    # One sliding layer: stock mlx-lm looks for a full one.
    folder = write_checkpoint(tmp_path / "one", num_hidden_layers=1)
    found = bench_decode(
        folder, LoadOptions(), against="mlx-lm", depths=(3,), tokens=2, rounds=1
    )
    failure = found.columns[1].failure or ""
    assert failure.startswith("mlx-lm: ")
    assert "\n" not in failure
    assert found.ratios == ()


def test_without_room_for_both_every_turn_has_its_own_process(tiny: Path) -> None:
    condition = Condition("ours", "mlx_gptoss", FLOAT32, (3,), 1)
    subject = MeasuredEngine(condition, tiny, 256)
    with ExitStack() as stack:
        subject.start(stack, keep=False)
        subject.run_round(tokens=2)
    assert [(p.depth, p.rounds) for p in subject.result().points] == [(3, 1)]


def test_a_folder_ours_cannot_load_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineFailure, match=r"^mlx_gptoss: CheckpointError: .+$"):
        EngineProcess("mlx_gptoss", tmp_path, FLOAT32)


@pytest.mark.parametrize(
    ("options", "measured", "message"),
    [
        (LoadOptions(), {"against": "llama.cpp"}, "llama.cpp"),
        (LoadOptions(), {"depths": (0,)}, "depth 0"),
        (LoadOptions(), {"depths": (200_000,)}, "choose depths from 1 to"),
        (LoadOptions(), {"tokens": 1}, "at least 2"),
        (LoadOptions(), {"rounds": 0}, "measure nothing"),
        (LoadOptions(memory="1kB"), {}, "needs"),
        (LoadOptions(context=10**7), {}, "more than the"),
        (
            LoadOptions(context=8),
            {"tokens": 4, "depths": (5,)},
            "choose depths from 1 to 4",
        ),
    ],
)
def test_wrong_options_are_named(
    tiny: Path, options: LoadOptions, measured: dict, message: str
) -> None:
    with pytest.raises(GptOssError, match=message):
        bench_decode(tiny, options, **measured)


def test_the_command_prints_a_table_and_keeps_notes_off_stdout(tiny: Path) -> None:
    arguments = ["bench", "decode", "-m", str(tiny), "--tokens", "2", "--rounds", "1"]
    done = CliRunner().invoke(cli, [*arguments, "--depth", "4"])
    assert done.exit_code == 0, done.stderr
    assert "prefill 4" in done.stdout
    assert "primitives/token" in done.stdout
    assert "hit rate" not in done.stdout
    done = CliRunner().invoke(
        cli, [*arguments, "--depth", "4", "--experts", "streamed"]
    )
    assert done.exit_code == 0, done.stderr
    assert "4 of 4 in slots" in done.stdout and "hit rate" in done.stdout
    assert "primitives/token" not in done.stdout
    assert "round 1 of 1" in done.stderr


def test_the_command_makes_a_random_model(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    arguments = ["bench", "make-random", str(folder), "--size", "100kB"]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout.strip()) == (0, str(folder))
    assert open_checkpoint(folder).config.num_hidden_layers == 2
