"""A loaded model from any thread: load, use, interrupt, close."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import (
    CheckpointError,
    ConfigError,
    GptOssError,
    PromptError,
)
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import byte_tokenizer, noisy, scripted, write_tokenizer
from tests.support.submit import Submission

GREEDY = SamplingParams(temperature=0, max_tokens=6)
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]  # longer than the window of the checkpoint
LONG = [n % 10 for n in range(80)]  # worth a snapshot though no message ends in it
PATIENCE = 60  # seconds, for work that takes none


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    with load(folder) as runtime:
        yield runtime


def elsewhere(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_a_loaded_runtime_says_what_it_is(runtime: Runtime) -> None:
    assert runtime.config.num_hidden_layers == 3
    assert runtime.tokenizer.decode(runtime.tokenizer.encode("hi")) == "hi"
    assert runtime.plan is not None
    assert runtime.plan.fits
    assert runtime.context == 131072
    assert runtime.stop_tokens == {  # the config's eos, 2, is text here
        runtime.tokenizer.special("<|return|>"): "stop",
        runtime.tokenizer.special("<|endoftext|>"): "stop",
        runtime.tokenizer.special("<|call|>"): "tool_calls",
    }


def test_logits_are_evaluated_float32_rows(runtime: Runtime) -> None:
    logits = runtime.logits(IDS)

    assert (logits.shape, logits.dtype) == ((len(IDS), 301), mx.float32)
    assert np.isfinite(np.array(logits)).all()


def test_every_way_of_feeding_gives_the_same_logits(runtime: Runtime) -> None:
    whole = np.array(runtime.logits(IDS))
    cache = runtime.new_cache()

    rows = [runtime.logits(part, cache=cache) for part in (IDS[:4], IDS[4:5], IDS[5:])]

    # float32 sums in another order, on logits of size about 4
    np.testing.assert_allclose(np.concatenate(rows), whole, atol=5e-4)


def test_logits_are_the_same_from_every_thread(runtime: Runtime) -> None:
    here = np.array(runtime.logits(IDS))
    cache = elsewhere(runtime.new_cache)

    elsewhere(lambda: runtime.logits(IDS[:7], cache=cache))
    there = elsewhere(lambda: np.array(runtime.logits(IDS[7:], cache=cache)))

    np.testing.assert_allclose(there, here[7:], atol=5e-4)


def test_generate_gives_steps_and_statistics(runtime: Runtime) -> None:
    stream = runtime.generate(IDS, GREEDY)

    steps = list(stream)

    assert steps[0].token == int(np.array(runtime.logits(IDS))[-1].argmax())
    assert [step.finish_reason for step in steps] == [None] * 5 + ["length"]
    assert (stream.stats.completion_tokens, stream.stats.finish_reason) == (6, "length")
    assert stream.computed_ids == (*IDS, *(step.token for step in steps[:-1]))


def test_answers_interleave_without_touching_each_other(runtime: Runtime) -> None:
    alone = [list(runtime.generate(ids, GREEDY)) for ids in (IDS, IDS[::-1])]

    one, two = (runtime.generate(ids, GREEDY) for ids in (IDS, IDS[::-1]))
    pairs = [(step, next(two)) for step in one]

    for steps, expected in zip(zip(*pairs, strict=True), alone, strict=True):
        assert [step.token for step in steps] == [step.token for step in expected]
        # float32 sums in another order, as in any batch
        assert [step.logprob for step in steps] == pytest.approx(
            [step.logprob for step in expected], abs=5e-4
        )


def test_a_cache_continues_a_generation(runtime: Runtime) -> None:
    whole = [step.token for step in runtime.generate(IDS, GREEDY)]
    cache = runtime.new_cache()
    runtime.logits(IDS[:-2], cache=cache)

    stream = runtime.generate(IDS[-2:], GREEDY, cache=cache)

    assert [step.token for step in stream] == whole
    assert stream.stats.cached_tokens == len(IDS) - 2


def test_what_was_read_is_reused_and_counted(runtime: Runtime) -> None:
    whole = [step.token for step in runtime.generate(LONG, GREEDY)]

    streams = [runtime.generate(LONG, GREEDY, reuse=True) for _ in range(2)]
    answers = [[step.token for step in stream] for stream in streams]

    assert answers == [whole, whole]
    assert streams[0].computed_ids[: len(LONG)] == tuple(LONG)
    stats = [(s.stats.prompt_tokens, s.stats.cached_tokens) for s in streams]
    assert stats == [(len(LONG), 0), (len(LONG), len(LONG) - 1)]
    assert runtime.cache_statistics.cached_tokens == len(LONG) - 1


def test_reading_ahead_spares_the_prompt(runtime: Runtime) -> None:
    work = runtime.prepare(LONG)
    assert work is not None
    work.result(PATIENCE)

    stream = runtime.generate([*LONG, 7], GREEDY, reuse=True)
    list(stream)

    assert stream.stats.cached_tokens == len(LONG)


def test_reading_ahead_is_only_done_where_it_may_and_fits() -> None:
    with Runtime(noisy(), context=4) as runtime:
        assert runtime.prepare([1, 2, 3, 4]) is None
    with Runtime(noisy(), cache=CacheOptions(idle=False)) as runtime:
        assert runtime.prepare([1]) is None


def test_a_prompt_too_long_to_reuse_is_refused_at_once() -> None:
    refused = pytest.raises(PromptError, match="the context holds 4")
    with Runtime(noisy(), context=4) as runtime, refused:
        runtime.generate([1, 2, 3, 4], reuse=True)


def test_an_answer_that_is_stopped_keeps_what_was_computed() -> None:
    with Runtime(noisy()) as runtime:
        unread = runtime.generate(IDS, reuse=True)
        unread.close()
        stopped = runtime.generate(IDS, reuse=True)
        next(stopped)
        stopped.close()
        computed = stopped.computed_ids  # a few steps more than were read
        again = runtime.generate([*computed, 1], reuse=True)
        next(again)
        again.close()

    assert (stopped.stats.completion_tokens, unread.stats.prompt_tokens) == (1, 0)
    assert again.stats.cached_tokens == len(computed) > len(IDS)


def test_prompts_on_disk_are_known_to_the_next_runtime(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, num_hidden_layers=2)
    write_tokenizer(folder)
    options = CacheOptions(disk="5MB", folder=tmp_path / "prompts")
    ids = [*LONG * 20, byte_tokenizer().special("<|end|>")]
    cached: list[int] = []
    for _ in range(2):
        with load(folder, cache=options) as runtime:
            stream = runtime.generate([*ids, 5], GREEDY, reuse=True)
            list(stream)
            cached.append(stream.stats.cached_tokens)
            work = runtime.prepare(ids)
            assert work is not None
            work.result(PATIENCE)

    assert cached == [0, len(ids)]


@pytest.mark.parametrize("idle", [False, True])
def test_what_idle_time_did_not_write_is_written_at_the_end(
    tmp_path: Path, idle: bool
) -> None:
    folder = write_checkpoint(tmp_path, num_hidden_layers=2)
    write_tokenizer(folder)
    options = CacheOptions(disk="5MB", folder=tmp_path / "prompts", idle=idle)
    ids = [*LONG * 20, byte_tokenizer().special("<|end|>")]
    cached: list[int] = []
    for _ in range(2):
        with load(folder, cache=options) as runtime:
            stream = runtime.generate([*ids, 5], GREEDY, reuse=True)
            list(stream)
            cached.append(stream.stats.cached_tokens)
            runtime.prepare(ids)  # nobody waits for it

    assert cached == [0, len(ids)]


def test_a_short_prompt_is_not_worth_a_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, num_hidden_layers=2)
    write_tokenizer(folder)
    options = CacheOptions(disk="5MB", folder=tmp_path / "prompts")
    with load(folder, cache=options) as runtime:
        ids = [*LONG[:40], runtime.tokenizer.special("<|end|>")]
        list(runtime.generate([*ids, 5], GREEDY, reuse=True))
        runtime.prepare(ids)

    assert list(options.root.rglob("*.safetensors")) == []


def test_a_prompt_folder_that_cannot_be_made_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_checkpoint(tmp_path / "model", num_hidden_layers=2)
    write_tokenizer(folder)
    (tmp_path / "file").write_text("in the way")
    options = CacheOptions(disk="1MB", folder=tmp_path / "file" / "prompts")
    with load(folder, cache=options) as runtime:
        first, second = (
            runtime.generate([*LONG, 5], GREEDY, reuse=True) for _ in range(2)
        )
        assert [s.token for s in first] == [s.token for s in second]
        assert second.stats.cached_tokens > 0

    [record] = caplog.records
    assert "prompts are not saved to disk" in record.message
    assert str(tmp_path / "file") in record.message


def test_ids_outside_the_vocabulary_are_refused(runtime: Runtime) -> None:
    with pytest.raises(PromptError, match="token id 301 is outside the vocabulary"):
        runtime.logits([1, 301])
    with pytest.raises(PromptError, match="token id -1 is outside"):
        runtime.generate([-1])
    with pytest.raises(PromptError, match="prompt is empty"):
        runtime.logits([])


def test_closing_gives_the_model_back(folder: Path) -> None:
    with load(folder) as runtime:
        model = weakref.ref(runtime.model)
        stream = runtime.generate(IDS, GREEDY)
        next(stream)

    gc.collect()
    assert (model(), list(stream), runtime.closed) == (None, [], True)
    assert stream.stats.completion_tokens == 1
    for use in (lambda: runtime.logits(IDS), lambda: runtime.model):
        with pytest.raises(GptOssError, match="is closed: load it again"):
            use()
    runtime.close()


def test_an_iteration_that_was_scheduled_before_the_end_does_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with load(folder) as runtime:
        list(runtime.generate(IDS, GREEDY))  # memory is reserved, to be given back

        def submit_and_close() -> Submission:
            asked = Submission(runtime, IDS, GREEDY)
            runtime.close()
            return asked

        asked = runtime.run(submit_and_close)
        thread = runtime._thread._thread
        thread.submit(lambda: None).result(PATIENCE)  # after what was scheduled

    assert (asked.wait(), asked.ends, caplog.messages) == ([], [(None, None)], [])


def test_leaving_an_answer_early_cancels_it() -> None:
    with Runtime(noisy()) as runtime:
        with runtime.generate(IDS) as stream:
            next(stream)

        assert stream.stats.finish_reason == "cancelled"
        assert list(stream) == []


def test_a_prompt_can_be_cancelled_from_another_thread() -> None:
    model = noisy()
    asked = threading.Event()

    with Runtime(model) as runtime:
        stream = runtime.generate(
            [1] * 2000, progress=lambda *_: asked.set(), cancelled=asked.is_set
        )
        steps = list(stream)

    assert (steps, len(model.feeds), stream.stats.finish_reason) == ([], 1, "cancelled")


def test_any_object_with_the_methods_of_a_model_will_do() -> None:
    with Runtime(scripted([104, 105, 258], prompt=3), tokenizer=byte_tokenizer()) as r:
        steps = list(r.generate([1, 2, 3], SamplingParams(temperature=0)))

    assert [step.token for step in steps] == [104, 105, 258]
    assert steps[-1].finish_reason == "stop"


def test_what_a_bare_runtime_lacks_is_named() -> None:
    with Runtime(noisy()) as runtime:
        with pytest.raises(CheckpointError, match="without a tokenizer"):
            _ = runtime.tokenizer
        with pytest.raises(ConfigError, match="without a config"):
            _ = runtime.config


def test_run_works_in_the_owner_thread() -> None:
    with Runtime(noisy()) as runtime:
        owner = runtime.run(threading.get_ident)

        assert owner != threading.get_ident()
        assert runtime.run(lambda: runtime.run(threading.get_ident)) == owner
