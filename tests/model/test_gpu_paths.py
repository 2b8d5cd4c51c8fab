"""The code paths of a GPU on MLX's CPU backend, against the float64 oracle.

`forced_gpu_paths` makes every `use_gpu_paths()` in the package true: fused attention,
MLX's rope, rows sorted by expert, the compiled SwiGLU, quantized products without
dequantizing, streamed prefill in sorted groups, zeroed buffers, and the engine's
release of freed memory. All of them run on a CPU. Two things do not:

- Metal's kernels. The CPU backend runs its own implementation of the same operations,
  so these tests check how they are called, not how Metal computes them.
- Calls that only Metal has: wired memory and adopted file pages. They ask `on_gpu()`,
  and stay off here.
"""

import shutil
import threading
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint.mapping import choose_page_sharing
from mlx_gptoss.diagnostics.bench.primitives import count_primitives
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler.forward_pass import CLEAR_CACHE_EVERY
from mlx_gptoss.model.device import (
    choose_dtype,
    forced_gpu_paths,
    on_gpu,
    use_gpu_paths,
)
from mlx_gptoss.model.experts.resident import SORT_MIN_ROWS
from tests.support import oracle
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.fakes import noisy
from tests.support.generate import generate
from tests.support.oracle_cases import CASES, TOLERANCE, case, feed
from tests.support.streaming import SMALL, streamed, write
from tests.support.submit import Submission

LENGTHS = (1, 9, 40)  # of sequences in one batch: within the window, and far past it
STEPS = 3
SINGLE_TOKENS = 30  # more than the small windows


@pytest.fixture(autouse=True)
def gpu_paths() -> Iterator[None]:
    """Force the paths; without a C++ compiler run compiled functions as they are."""
    can_compile = on_gpu() or shutil.which("g++") is not None
    if not can_compile:
        mx.disable_compile()
    try:
        with forced_gpu_paths():
            yield
    finally:
        if not can_compile:
            mx.enable_compile()


@pytest.mark.parametrize("name", CASES)
def test_one_pass_gives_the_oracles_logits(name: str) -> None:
    ids, expected, model = case(name)

    rows = np.array(model(mx.array([ids]))[0])

    assert np.abs(rows - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_chunks_give_the_oracles_logits(name: str) -> None:
    ids, expected, model = case(name)

    rows = feed(model, ids, [7, 1, 1, 160, 3, 1, 2, 500])

    assert np.abs(rows - expected).max() < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_token_by_token_gives_the_oracles_logits(name: str) -> None:
    ids, expected, model = case(name)
    prompt = max(1, len(ids) - SINGLE_TOKENS)

    rows = feed(model, ids, chain([prompt], repeat(1)))

    assert np.abs(rows - expected).max() < TOLERANCE


def test_a_batch_gives_each_sequence_the_oracles_logits() -> None:
    config = hf_config(sliding_window=9)
    tensors = random_tensors(config, seed=3)
    model = build(config, tensors)
    rng = np.random.default_rng(4)
    sequences = [rng.integers(0, 90, length + STEPS).tolist() for length in LENGTHS]
    pool = model.make_pool()
    caches = [pool.make_cache() for _ in LENGTHS]
    for ids, kv_cache in zip(sequences, caches, strict=True):
        mx.eval(model.hidden(mx.array([ids[:-STEPS]]), kv_cache, last=True))

    steps = []
    for step in range(STEPS, 0, -1):
        tokens = mx.array([[ids[-step] for ids in sequences]])  # (1, B)
        steps.append(np.array(model.logits(model.hidden(tokens, caches))[0]))

    found = np.stack(steps, axis=1)  # (B, STEPS, V)
    expected = [oracle.logits(tensors, config, ids)[-STEPS:] for ids in sequences]
    assert np.abs(found - np.stack(expected)).max() < TOLERANCE


def test_streamed_prefill_in_sorted_groups_gives_the_oracles_logits(
    tmp_path: Path,
) -> None:
    ids = np.random.default_rng(5).integers(0, 90, 130).tolist()
    checkpoint = write(tmp_path)
    config = hf_config(**SMALL)
    slots = 4
    rows_per_group = len(ids) * config["num_experts_per_tok"] * (slots // 2) / 9
    assert rows_per_group > SORT_MIN_ROWS

    with streamed(checkpoint, slots) as loaded:
        rows = feed(loaded.model, ids, [120, 1, 1, 8])

    expected = oracle.logits(random_tensors(config, seed=11), config, ids)
    assert np.abs(rows - expected).max() < TOLERANCE


def test_the_engine_gives_the_same_tokens_alone_and_in_a_batch() -> None:
    prompts = [[3, 1], [4, 1]]
    params = SamplingParams(
        seed=7, max_tokens=CLEAR_CACHE_EVERY + 2
    )  # frees memory once
    alone = [step.token for step in generate(noisy(), prompts[0], params)]

    with Runtime(noisy(), cache=CacheOptions(idle=False)) as runtime:
        asked = [Submission(runtime, ids, params) for ids in prompts]
        batched = [one.tokens for one in asked]

    assert batched[0] == alone
    assert [len(tokens) for tokens in batched] == [CLEAR_CACHE_EVERY + 2] * 2


def test_forcing_replaces_the_plain_graph() -> None:
    ids, _, model = case("window shorter than the prompt")
    assert len(ids) * 3 >= SORT_MIN_ROWS

    counts = count_primitives(model(mx.array([ids])))

    assert counts["ArgSort"] == 2 * len(model.model.layers)  # sort, and sort back
    assert counts["Cos"] == len(model.model.layers)  # rope by MLX, in every layer


def test_every_thread_takes_the_forced_paths_until_the_block_ends() -> None:
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(use_gpu_paths()))

    thread.start()
    thread.join()
    with forced_gpu_paths():
        pass

    assert (seen, use_gpu_paths()) == ([True], True)


@pytest.mark.skipif(on_gpu(), reason="is about machines without a GPU")
def test_what_needs_a_real_gpu_stays_off() -> None:
    assert choose_page_sharing() is None
    assert choose_dtype(None) == mx.float32
