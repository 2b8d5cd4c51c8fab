"""Adapters of a running model: chosen by request, exchanged, never mixed."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import CheckpointError, ConfigError, MemoryBudgetError
from tests.support.adapters import ALL, STRONG, random_adapter, write_random_adapter
from tests.support.submit import Submission

TOKENS = 5
GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS)
RNG = random.Random(5)
PROMPT = RNG.choices(range(20, 220), k=70)
LONG = RNG.choices(range(20, 220), k=270)  # a beginning that running rows share
NAMES = (None, "one", "two")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapters `one` (all targets) and `two` (without experts)."""
    folder = tmp_path_factory.mktemp("adapters")
    with load("demo") as runtime:
        config = runtime.config
    write_random_adapter(folder / "one", config, 1, targets=ALL)
    write_random_adapter(
        folder / "two", config, 2, "mlx-lm", rank=5, targets=STRONG, size=2.0
    )
    return folder


@pytest.fixture(scope="module")
def runtime(adapters: Path) -> Iterator[Runtime]:
    given = [f"one={adapters / 'one'}", f"two={adapters / 'two'}"]
    with load("demo", adapters=given, cache=CacheOptions(idle=False)) as runtime:
        yield runtime


def alone(runtime: Runtime, prompt: list[int], adapter: str | None) -> list[int]:
    """The greedy tokens after a prompt, read with a cache of their own."""
    cache, ids, tokens = runtime.new_cache(), prompt, list[int]()
    for _ in range(TOKENS):
        logits = runtime.logits(ids, cache, adapter=adapter)[-1]
        ids = [int(np.argmax(np.array(logits)))]
        tokens += ids
    return tokens


@pytest.fixture(scope="module")
def expected(runtime: Runtime) -> dict[str | None, list[int]]:
    found = {name: alone(runtime, PROMPT, name) for name in NAMES}
    assert len({tuple(tokens) for tokens in found.values()}) == len(NAMES)
    return found


def test_named_adapters_wait_to_be_chosen(runtime: Runtime) -> None:
    assert list(runtime.adapters) == ["one", "two"]
    assert runtime.adapter is None


def test_an_adapter_without_a_name_is_active_from_the_start(
    adapters: Path, expected: dict[str | None, list[int]]
) -> None:
    with load("demo", adapters=[adapters / "one"]) as runtime:
        assert runtime.adapter == "one"
        for name in ("one", None, "one"):
            runtime.use_adapter(name)
            steps = runtime.generate(PROMPT, GREEDY, stop_tokens={})
            assert [step.token for step in steps] == expected[name]


def test_a_scale_multiplies_the_update(adapters: Path) -> None:
    given = [f"half={adapters / 'two'}:0.5", f"none={adapters / 'two'}:0"]
    with load("demo", adapters=given) as runtime:
        base, none, half = (
            np.array(runtime.logits(PROMPT, adapter=name))
            for name in (None, "none", "half")
        )
        digests = {adapter.digest for adapter in runtime.adapters.values()}
        a, b = (runtime.adapters[name] for name in ("half", "none"))

    path = "model.layers.0.self_attn.q_proj"
    np.testing.assert_array_equal(np.array(b.updates[path].b), 0)
    assert np.array(a.updates[path].b).any()
    np.testing.assert_allclose(none, base, atol=1e-5)
    assert np.abs(half - base).max() > 0.1
    assert len(digests) == 2


def test_requests_of_different_adapters_are_one_batch(
    runtime: Runtime, expected: dict[str | None, list[int]]
) -> None:
    before = runtime.batch_statistics.batch_sizes
    order = [*NAMES, *reversed(NAMES)]
    release = threading.Event()
    runtime._thread.post(release.wait)
    asked = [
        Submission(runtime, PROMPT, GREEDY, stop_tokens={}, adapter=name)
        for name in order
    ]
    release.set()

    assert [one.tokens for one in asked] == [expected[name] for name in order]
    after = runtime.batch_statistics.batch_sizes
    assert after.get(len(order), 0) > before.get(len(order), 0)


def test_a_stream_and_a_pinned_cache_take_an_adapter(
    runtime: Runtime, expected: dict[str | None, list[int]]
) -> None:
    for name in NAMES:
        cache = runtime.new_cache()
        steps = runtime.generate(
            PROMPT, GREEDY, stop_tokens={}, cache=cache, adapter=name
        )
        assert [step.token for step in steps] == expected[name]


def test_no_prompt_is_continued_with_another_adapter(
    runtime: Runtime, expected: dict[str | None, list[int]]
) -> None:
    runtime.clear_cache()
    for turn in range(2):
        for name in NAMES:
            asked = Submission(runtime, PROMPT, GREEDY, stop_tokens={}, adapter=name)
            assert asked.tokens == expected[name]
            if turn == 1:
                assert asked.stats.cached_tokens > 0
    runtime.clear_cache()
    for name in NAMES:  # the first of each knows nothing, whoever came before
        asked = Submission(runtime, PROMPT, GREEDY, stop_tokens={}, adapter=name)
        assert (asked.stats.cached_tokens, asked.tokens) == (0, expected[name])


def test_choices_share_a_beginning_with_their_own_adapter_only(
    runtime: Runtime,
) -> None:
    right = {name: alone(runtime, LONG, name) for name in NAMES}
    assert len({tuple(tokens) for tokens in right.values()}) == len(NAMES)
    runtime.clear_cache()
    release = threading.Event()
    runtime._thread.post(release.wait)
    asked = {
        (name, choice): Submission(
            runtime, LONG, GREEDY, stop_tokens={}, adapter=name, shared=True
        )
        for choice in range(3)
        for name in NAMES
    }
    release.set()

    for (name, _), one in asked.items():
        assert one.tokens == right[name]
    for name in NAMES:  # read once for the three choices, not once for all adapters
        cached = sorted(asked[name, choice].stats.cached_tokens for choice in range(3))
        assert cached == [0, len(LONG) - 1, len(LONG) - 1]


def test_a_prompt_does_not_wait_for_the_same_one_of_another_adapter(
    runtime: Runtime,
) -> None:
    order: list[str] = []
    runtime.clear_cache()
    release = threading.Event()
    runtime._thread.post(release.wait)
    asked = [
        Submission(
            runtime,
            PROMPT,
            GREEDY,
            stop_tokens={},
            adapter=name,
            on_progress=lambda done, total: order.append("read"),
            on_step=lambda step: order.append("step"),
        )
        for name in NAMES
    ]
    release.set()
    for one in asked:
        one.wait()

    assert order[: len(NAMES)] == ["read"] * len(NAMES)  # all in the first pass


def test_prompts_on_disk_belong_to_one_adapter(adapters: Path, tmp_path: Path) -> None:
    cache = CacheOptions(disk="1GB", folder=tmp_path)
    given = [f"one={adapters / 'one'}", f"two={adapters / 'two'}"]
    with load("demo", adapters=given, cache=cache) as runtime:
        known = [*LONG, runtime.tokenizer.specials["<|end|>"]]
        prompt = [*known, 7, 8]
        right = {name: alone(runtime, prompt, name) for name in NAMES}
        for name in (None, "one"):
            ahead = runtime.prepare(known, adapter=name)
            assert ahead is not None
            ahead.result(60)
    assert len({path.parent for path in tmp_path.glob("*/*")}) == 2  # a folder each

    renamed = [f"two={adapters / 'one'}", f"one={adapters / 'two'}"]
    with load("demo", adapters=renamed, cache=cache) as runtime:
        for name, meant in (("two", "one"), ("one", "two"), (None, None)):
            asked = Submission(runtime, prompt, GREEDY, stop_tokens={}, adapter=name)
            assert asked.tokens == right[meant]
            found = 0 if meant == "two" else len(known)
            assert asked.stats.cached_tokens == found


def test_idle_time_reads_ahead_with_the_adapter_of_the_prompt(adapters: Path) -> None:
    with load("demo", adapters=[f"one={adapters / 'one'}"]) as runtime:
        right = alone(runtime, [*PROMPT, 7], "one")
        ahead = runtime.prepare(PROMPT, adapter="one")
        assert ahead is not None
        ahead.result(60)
        longer = [*PROMPT, 7]
        plain = Submission(runtime, longer, GREEDY, stop_tokens={}, adapter=None)
        adapted = Submission(runtime, longer, GREEDY, stop_tokens={}, adapter="one")
        assert plain.stats.cached_tokens == 0
        assert adapted.stats.cached_tokens == len(PROMPT)
        assert adapted.tokens == right


def test_a_running_request_keeps_the_adapter_that_it_started_with() -> None:
    with load("demo", cache=CacheOptions(idle=False)) as runtime:
        first = random_adapter(runtime.config, 1, "x", targets=ALL)
        second = random_adapter(runtime.config, 2, "x", rank=6, targets=ALL)
        runtime.add_adapter(first)
        old = alone(runtime, PROMPT, "x")
        changed, go = threading.Event(), threading.Event()

        def wait(_: object) -> None:
            if not changed.is_set():
                go.set()

        running = Submission(
            runtime,
            PROMPT,
            SamplingParams(temperature=0, max_tokens=100),
            stop_tokens={},
            adapter="x",
            on_step=wait,
        )
        assert go.wait(60)
        runtime.add_adapter(second)
        new = Submission(runtime, PROMPT, GREEDY, stop_tokens={}, adapter="x").tokens
        runtime.remove_adapter("x")
        changed.set()
        assert not running.ended.is_set(), "it ended before the change"
        with pytest.raises(ConfigError, match="no adapter `x` is loaded"):
            runtime.generate(PROMPT, adapter="x")
        tokens = running.tokens

        runtime.add_adapter(second)
        assert (tokens[:TOKENS], new) == (old, alone(runtime, PROMPT, "x"))
        runtime.add_adapter(first)
        cache, ids = runtime.new_cache(), list(PROMPT)
        fed = [*PROMPT, *tokens[:-1]]
        logits = runtime.logits(fed, cache, adapter="x")[len(PROMPT) - 1 :]
        assert mx.argmax(logits, axis=-1).tolist() == tokens, ids


def test_an_unknown_adapter_is_named_with_those_there_are(runtime: Runtime) -> None:
    said = r"no adapter `three` is loaded: this model has `one`, `two`"
    with pytest.raises(ConfigError, match=said):
        runtime.use_adapter("three")
    with pytest.raises(ConfigError, match=said):
        runtime.logits(PROMPT, adapter="three")
    with pytest.raises(ConfigError, match=said):
        Submission(runtime, PROMPT, GREEDY, adapter="three")
    with pytest.raises(ConfigError, match=said):
        runtime.prepare(PROMPT, adapter="three")


def test_an_adapter_of_another_model_is_refused_before_weights_are_read(
    adapters: Path, folder: Path
) -> None:
    read: list[int] = []
    with pytest.raises(CheckpointError, match=r"another|no matrix"):
        load(
            folder,
            adapters=[adapters / "one"],
            progress=lambda done, _: read.append(done),
        )
    assert read == []


def test_an_adapter_that_does_not_fit_is_refused_beside_a_running_model() -> None:
    with load("demo", memory="200MB") as runtime:
        assert runtime.plan is not None
        before = runtime.plan.total_bytes
        large = random_adapter(runtime.config, 1, "large", rank=2000, targets=ALL)
        with pytest.raises(MemoryBudgetError, match="the adapter `large` does not fit"):
            runtime.add_adapter(large)
        assert (list(runtime.adapters), runtime.plan.total_bytes) == ([], before)


def test_the_plan_follows_what_is_loaded() -> None:
    with load("demo") as runtime:
        assert runtime.plan is not None
        assert runtime.plan.adapter_bytes == 0
        limit = runtime.cache_size.limit
        runtime.add_adapter(random_adapter(runtime.config, 1, "x"))
        held = runtime.plan.adapter_bytes
        assert held > 0
        assert runtime.cache_size.limit == pytest.approx(limit - held / 2, abs=2)
        runtime.remove_adapter("x")
        assert runtime.plan.adapter_bytes == 0
