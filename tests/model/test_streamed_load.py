"""`load` with streamed experts: plans, statistics, prompts, closing."""

import json
import queue
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub.local_models import DEMO_FOLDER
from mlx_gptoss.cli import cli
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import MLX_CACHE_BYTES_STREAMED, plan_checkpoint
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import CheckpointError, ConfigError, MemoryBudgetError
from mlx_gptoss.memory import Budget, Plan
from mlx_gptoss.memory.wired import wired_bytes
from mlx_gptoss.model.device import on_gpu
from mlx_gptoss.model.experts.trace import RoutingTrace, save_trace
from tests.support.streaming import write

IDS = list(range(3, 40))
GREEDY = SamplingParams(max_tokens=6, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("streamed")).folder


@pytest.mark.skipif(on_gpu(), reason="kernels of a GPU round differently")
@pytest.mark.parametrize("experts", ["streamed", "hybrid"])
def test_what_is_asked_for_is_loaded_and_exact(folder: Path, experts: str) -> None:
    with load(folder, experts="resident") as plain:
        expected = plain.logits(IDS)
        tokens = [step.token for step in plain.generate(IDS, GREEDY)]
        assert plain.stats is None
    with load(folder, experts=experts) as runtime:
        assert runtime.plan is not None and runtime.plan.mode == experts
        assert mx.array_equal(runtime.logits(IDS), expected)
        assert [step.token for step in runtime.generate(IDS, GREEDY)] == tokens
        stats = runtime.stats
        assert stats is not None
        assert stats.total.misses > 0
        assert stats.resident_layers == 3 - len(runtime.plan.slots)
    with load(folder, experts=experts) as again:
        before = again.stats
        again.logits(IDS)
        assert again.stats is not None and before is not None
        assert (again.stats - before).total == again.stats.total


def answers_at_once(experts: str) -> list[list[int]]:
    """Generate for three prompts at once; return their tokens."""
    prompts = ["What is 417 + 285?", "My name is Maria.", "Write a poem, please,"]
    tokens: list[list[int]] = [[] for _ in prompts]
    ended: queue.Queue[BaseException | None] = queue.Queue()
    params = SamplingParams(max_tokens=20, temperature=0)
    with load("demo", experts=experts) as runtime:
        for n, prompt in enumerate(prompts):
            runtime.submit(
                runtime.tokenizer.encode(prompt),
                params,
                on_step=lambda step, n=n: tokens[n].append(step.token),
                on_end=lambda stats, error: ended.put(error),
            )
        assert [ended.get(timeout=60) for _ in prompts] == [None] * len(prompts)
        assert runtime.stats is None or runtime.stats.total.misses > 0
    return tokens


@pytest.mark.skipif(on_gpu(), reason="kernels of a GPU round differently")
def test_answers_decoded_together_are_those_of_resident_experts() -> None:
    assert answers_at_once("streamed") == answers_at_once("resident")


def test_dense_experts_stay_resident_or_are_refused(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "dense")
    with load(checkpoint.folder) as runtime:
        assert runtime.plan is not None and runtime.plan.mode == "resident"
    with pytest.raises(ConfigError, match="are not quantized"):
        load(checkpoint.folder, experts="streamed")


def test_files_that_vanish_before_the_first_token_are_named(tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    with load(checkpoint.folder, experts="streamed") as runtime:
        checkpoint.files[0].unlink()
        with pytest.raises(CheckpointError, match="it changed while the model was"):
            runtime.logits(IDS)


def test_a_budget_too_small_is_refused_before_reading(folder: Path) -> None:
    reports: list[int] = []
    with pytest.raises(MemoryBudgetError, match="room for 0 experts a layer"):
        load(folder, memory="1MB", progress=lambda done, total: reports.append(done))
    assert reports == []


def test_mlx_keeps_little_freed_memory_beside_pools(folder: Path) -> None:
    before = mx.set_cache_limit(10**9)
    try:
        with load(folder, experts="streamed") as runtime:
            assert runtime.run(
                lambda: mx.set_cache_limit(MLX_CACHE_BYTES_STREAMED)
            ) == (MLX_CACHE_BYTES_STREAMED)
        assert mx.set_cache_limit(before) == 10**9  # as it was
    finally:
        mx.set_cache_limit(before)


def plan_of(folder: Path) -> Plan:
    budget = Budget(10**9, 10**9, "a test", metal=True)
    options = LoadOptions(dtype="bfloat16")
    return plan_checkpoint(open_checkpoint(folder), options, budget=budget)


def test_wiring_is_the_models_size_and_never_above_what_is_recommended(
    folder: Path,
) -> None:
    plan = plan_of(folder)
    assert wired_bytes("off", plan, 10**9) == 0
    assert plan.total_bytes < wired_bytes("auto", plan, 10**9) < 10**9
    assert wired_bytes("auto", plan, 10**6) == 10**6
    assert wired_bytes("2GB", plan, 10**9) == 10**9
    assert wired_bytes("5MB", plan, 10**9) == 5 * 10**6


def recorded(path: Path, layers: int = 3) -> Path:
    """Write a trace whose first layer always uses the same experts."""
    draw = np.random.default_rng(3)
    wild = [[draw.permutation(9)[:3] for _ in range(layers)] for _ in range(50)]
    routing = np.array(wild, np.int16)
    routing[:, 0] = [0, 1, 2]
    return save_trace(RoutingTrace(routing, np.ones(50, np.int32), 9, "it"), path)


def test_a_recorded_run_places_the_experts(folder: Path, tmp_path: Path) -> None:
    """Layers that miss most are resident; without a trace, the first ones."""
    path = recorded(tmp_path / "routing.trace")
    placed = []
    for trace in (None, str(path)):
        with load(folder, experts="hybrid", trace=trace) as runtime:
            assert runtime.plan is not None
            placed.append(set(runtime.plan.slots))
    assert placed == [{2}, {0}]


def test_a_trace_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    path = recorded(tmp_path / "routing.trace", layers=4)
    message = "recorded with 4 layers of 9 experts, 3 a token, this model has 3 layers"
    with pytest.raises(ConfigError, match=message):
        load(folder, experts="hybrid", trace=path)


def demo_layers() -> int:
    return json.loads((DEMO_FOLDER / "config.json").read_text())["num_hidden_layers"]


def test_stats_name_hits_bytes_and_times_of_every_layer() -> None:
    """As a user requests them; on the demo, which has a tokenizer."""
    command = ["generate", "17+4=", "-m", "demo", "--raw", "--experts", "streamed"]
    command += ["--max-tokens", "4", "--temperature", "0"]
    result = CliRunner().invoke(cli, [*command, "--stats"])
    assert result.exit_code == 0, result.output
    assert re.search(
        r"experts: \d+\.\d% hits, .* read; I/O \d+ ms, sync", result.stderr
    )
    assert re.search(r"^  layer 0: \d+ slots, ", result.stderr, re.MULTILINE)
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)
    experts = found["experts"]
    assert set(experts["layers"]) == {str(n) for n in range(demo_layers())}
    assert experts["bytes_read"] > 0 and experts["resident_layers"] == 0
