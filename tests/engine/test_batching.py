"""Many answers at once: each as it would be alone, and none in the way of another."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import BusyError, ModelError, PromptError
from mlx_gptoss.memory import PREFILL_CHUNK
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import byte_tokenizer, noisy, scripted, write_tokenizer
from tests.support.submit import PATIENCE, Submission

GREEDY = SamplingParams(temperature=0, max_tokens=12)
IDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), seed=1)
    write_tokenizer(folder)
    with load(folder) as runtime:
        yield runtime


@pytest.fixture
def fake() -> Iterator[Runtime]:
    with Runtime(noisy(), cache=CacheOptions(idle=False)) as runtime:
        yield runtime


def test_answers_at_once_are_those_that_come_alone(runtime: Runtime) -> None:
    prompts = [[(7 * n + k) % 200 for k in range(5 + 9 * n)] for n in range(6)]
    params = [
        SamplingParams(temperature=n % 2, seed=n, max_tokens=8 + n, top_logprobs=n % 3)
        for n in range(6)
    ]
    alone = [
        [step.token for step in runtime.generate(ids, how)]
        for ids, how in zip(prompts, params, strict=True)
    ]

    asked = [
        Submission(runtime, ids, how) for ids, how in zip(prompts, params, strict=True)
    ]

    assert [one.tokens for one in asked] == alone


def test_the_stop_token_is_the_last_step() -> None:
    model = scripted([104, 105, 258], prompt=3)
    with Runtime(model, tokenizer=byte_tokenizer()) as runtime:
        asked = Submission(runtime, [1, 2, 3], SamplingParams(temperature=0))

        assert asked.tokens == [104, 105, 258]
    assert asked.steps[-1].finish_reason == "stop"
    assert (asked.stats.completion_tokens, asked.stats.finish_reason) == (3, "stop")


def test_requests_share_the_prompt_cache(fake: Runtime) -> None:
    prompt = [n % 10 for n in range(80)]
    first = Submission(fake, prompt, GREEDY)
    first.wait()

    second = Submission(fake, prompt, GREEDY)

    assert second.tokens == first.tokens
    assert (first.stats.cached_tokens, second.stats.cached_tokens) == (0, 79)


def test_cancelling_ends_within_one_step(fake: Runtime) -> None:
    asked = Submission(fake, IDS, on_step=lambda step: asked.request.cancel())

    assert len(asked.wait()) == 1
    assert asked.stats.finish_reason == "cancelled"
    assert asked.request.state == "ended"
    asked.request.cancel()


def test_what_waits_can_be_cancelled(fake: Runtime) -> None:
    release = threading.Event()
    fake._thread.post(release.wait)
    asked = Submission(fake, IDS)

    assert (asked.request.state, asked.request.position) == ("queued", 1)
    asked.request.cancel()
    release.set()

    assert asked.wait() == []
    assert asked.ends == [(None, None)]
    assert (asked.request.state, asked.request.position) == ("ended", 0)


def test_more_than_may_wait_are_refused_with_a_time_to_try_again() -> None:
    options = BatchOptions(max_running=1, max_waiting=2)
    release = threading.Event()
    with Runtime(noisy(), batch=options) as runtime:
        runtime._thread.post(release.wait)
        waiting = [Submission(runtime, IDS, GREEDY) for _ in range(3)]  # one can begin
        with pytest.raises(BusyError, match="2 wait already: try again") as refused:
            Submission(runtime, IDS, GREEDY)
        release.set()
        answers = [one.tokens for one in waiting]

        assert refused.value.retry_after > 0
        assert answers[0] == answers[1]
        assert runtime.batch_statistics.refused == 1


def test_what_can_begin_at_once_is_never_refused() -> None:
    """Neither on an idle runtime, nor where another has just ended, or was left."""
    with Runtime(noisy(), batch=BatchOptions(max_running=2, max_waiting=0)) as runtime:
        endless = Submission(runtime, IDS)
        for n in range(20):
            assert len(Submission(runtime, [*IDS, n], GREEDY).tokens) == 12
        while not endless.steps:
            endless.ended.wait(0.001)
        left = Submission(runtime, [7])
        with pytest.raises(BusyError, match="as fit, and 0 wait already"):
            Submission(runtime, [8], GREEDY)
        left.request.cancel()

        assert len(Submission(runtime, [8], GREEDY).tokens) == 12
        assert (runtime.batch_statistics.refused, endless.ends) == (1, [])


def test_one_that_is_asked_for_at_the_end_of_another_begins() -> None:
    """The place of an answer is free when its end is told."""
    with Runtime(noisy(), batch=BatchOptions(max_running=1, max_waiting=0)) as runtime:
        next_ones: list[Submission] = []

        class Follower(Submission):
            def _end(self, stats: Any, error: Any) -> None:
                next_ones.append(Submission(runtime, [9], GREEDY))
                super()._end(stats, error)

        Follower(runtime, IDS, GREEDY).wait()
        assert len(next_ones[0].tokens) == 12


def test_the_answers_of_one_request_are_taken_together() -> None:
    options = BatchOptions(max_running=2, max_waiting=1)
    release = threading.Event()
    with Runtime(noisy(), batch=options) as runtime:
        runtime._thread.post(release.wait)
        mine, yours = object(), object()
        many = [Submission(runtime, IDS, GREEDY, group=mine) for _ in range(9)]
        others = [Submission(runtime, [n], GREEDY, group=yours) for n in range(3)]
        with pytest.raises(BusyError, match="1 wait already"):
            Submission(runtime, [5], GREEDY)
        more = Submission(runtime, IDS, GREEDY, group=yours)
        release.set()

        assert {len(one.tokens) for one in (*many, *others, more)} == {12}


def test_what_cannot_be_served_is_refused_at_once() -> None:
    with Runtime(noisy(), context=4) as runtime:
        with pytest.raises(PromptError, match="the context holds 4"):
            Submission(runtime, [1, 2, 3, 4])
        with pytest.raises(PromptError, match="prompt is empty"):
            Submission(runtime, [])


def test_an_error_of_one_callback_ends_that_answer_only(fake: Runtime) -> None:
    def fail(step: object) -> None:
        raise ValueError("no room in the client")

    alone = [step.token for step in fake.generate(IDS, GREEDY)]
    failing = Submission(fake, IDS, GREEDY, on_step=fail)
    other = Submission(fake, IDS, GREEDY)

    with pytest.raises(ValueError, match="no room"):
        failing.wait()
    assert other.tokens == alone


def test_closing_ends_all(fake: Runtime) -> None:
    running = Submission(fake, IDS)
    while not running.steps:
        running.ended.wait(0.001)

    fake.close()

    assert running.ended.wait(PATIENCE)
    assert running.stats.finish_reason == "cancelled"


def test_an_error_of_the_model_ends_all_and_the_next_is_served() -> None:
    model = noisy()
    logits_of, broken = model.logits_of, threading.Event()

    def logits_or_fail(ids: list[int]) -> Sequence[float]:
        if broken.is_set():
            raise RuntimeError("device lost")
        return logits_of(ids)

    model.logits_of = logits_or_fail
    with Runtime(model, cache=CacheOptions(idle=False)) as runtime:
        alone = [step.token for step in runtime.generate(IDS, GREEDY)]
        both = [Submission(runtime, [*IDS, n]) for n in range(2)]
        both[1]._on_step = lambda step: broken.set()
        for one in both:
            with pytest.raises(ModelError, match="failed while it decoded: device"):
                one.wait()
        broken.clear()
        runtime.clear_cache()

        assert Submission(runtime, IDS, GREEDY).tokens == alone
        assert runtime.batch_statistics.failed == 2


def test_decoding_goes_on_while_a_long_prompt_is_read() -> None:
    """Between two steps of an answer lies one chunk of another's prompt at most."""
    model = noisy()
    with Runtime(model, cache=CacheOptions(idle=False)) as runtime:
        first = Submission(runtime, IDS, SamplingParams(seed=1))  # goes on for ever
        while not first.steps:
            first.ended.wait(0.001)
        long = Submission(runtime, [n % 10 for n in range(600)], GREEDY)
        long.wait()
        first.request.cancel()
        first.wait()

    sizes = [len(feed) for feed in model.feeds]
    chunks = [n for n, size in enumerate(sizes) if size > len(IDS)]
    assert sum(sizes[n] for n in chunks) == 600
    assert len(chunks) > 1
    assert all(sizes[n + 1] == 1 for n in chunks)
    assert len(long.steps) == 12


def test_answers_to_one_prompt_share_its_reading(fake: Runtime) -> None:
    """However short: all but the last token, which each reads for its own cache."""
    model = fake.model
    release = threading.Event()
    fake._thread.post(release.wait)
    asked = [
        Submission(fake, IDS, SamplingParams(seed=n, max_tokens=4), shared=True)
        for n in range(4)
    ]
    release.set()
    answers = [one.tokens for one in asked]

    assert [one.stats.cached_tokens for one in asked] == [0, 4, 4, 4]
    assert [feed for feed in model.feeds if len(feed) > 1] == [IDS]
    alone = [
        [s.token for s in fake.generate(IDS, SamplingParams(seed=n, max_tokens=4))]
        for n in range(4)
    ]
    assert answers == alone


def test_a_prompt_that_is_being_read_is_waited_for(fake: Runtime) -> None:
    """Two long prompts that begin alike are not both read from the start."""
    release = threading.Event()
    fake._thread.post(release.wait)
    prompt = [n % 10 for n in range(1500)]
    first = Submission(fake, [*prompt, 1], GREEDY)
    second = Submission(fake, [*prompt, 1, 2], GREEDY)
    short = Submission(fake, [7, 7, 7], GREEDY)
    release.set()
    for one in (first, second, short):
        one.wait()

    assert (first.stats.cached_tokens, second.stats.cached_tokens) == (0, 1501)
    assert short.stats.time_to_first_token < second.stats.time_to_first_token


def tokens_read(runtime: Runtime) -> int:
    return sum(len(feed) for feed in runtime.model.feeds if len(feed) > 1)


def test_prompts_that_part_in_a_message_read_their_beginning_once(
    fake: Runtime,
) -> None:
    """Where they part nothing ends: a snapshot is taken there for the second."""
    start = [n % 10 for n in range(900)]
    release = threading.Event()
    fake._thread.post(release.wait)
    asked = [
        Submission(fake, [*start, 20 + n, *range(100)], GREEDY, stop_tokens={})
        for n in range(3)
    ]
    release.set()
    for one in asked:
        one.wait()

    assert [one.stats.cached_tokens for one in asked] == [0, 900, 900]
    assert tokens_read(fake) == 900 + 3 * 101


def test_a_beginning_that_was_cancelled_midway_is_not_read_again() -> None:
    model = noisy()
    with Runtime(model, cache=CacheOptions(idle=False)) as runtime:
        start = [n % 10 for n in range(1300)]
        first: list[Submission] = []

        def cancel(done: int, total: int) -> None:
            first[0].request.cancel()

        def submit_both() -> Submission:
            first.append(Submission(runtime, [*start, 1], GREEDY, on_progress=cancel))
            return Submission(runtime, [*start, 2], GREEDY)

        second = runtime.run(submit_both)
        first[0].wait()
        second.wait()

        assert 0 < second.stats.cached_tokens < len(start)
        assert tokens_read(runtime) == len(start) + 1


def test_a_beginning_is_read_once_though_its_first_reader_waits_for_a_place() -> None:
    options = BatchOptions(max_running=2)
    with Runtime(noisy(), cache=CacheOptions(idle=False), batch=options) as runtime:
        start = [n % 10 for n in range(600)]

        def submit_all() -> list[Submission]:
            busy = Submission(runtime, [*range(50), 7, 7], GREEDY)
            return [
                busy,
                *(Submission(runtime, [*start, n], GREEDY) for n in range(3)),
            ]

        asked = runtime.run(submit_all)
        for one in asked:
            one.wait()

        assert tokens_read(runtime) == 52 + len(start) + 1  # single tokens left out


def test_short_prompts_share_a_pass(fake: Runtime) -> None:
    """And the tokens of answers ride along with chunks of prompts."""
    passes: list[int] = []
    model = fake.model
    hidden = model.hidden

    def counted(ids: Any, cache: Any, **options: Any) -> Any:
        passes.append(ids.shape[1])
        return hidden(ids, cache, **options)

    model.hidden = counted
    params = SamplingParams(temperature=0, max_tokens=2)

    def submit_all() -> list[Submission]:
        return [Submission(fake, [n, *IDS], params) for n in range(4)]

    asked = fake.run(submit_all)
    for one in asked:
        one.wait()

    assert passes == [4 * 6, 4]


def test_a_first_token_does_not_wait_for_prompts_of_others() -> None:
    """Even where prompts are read first."""
    model, told = noisy(), []
    batch = BatchOptions(fairness=0)

    def step(_: object) -> None:
        told.append(sum(len(feed) for feed in model.feeds))

    with Runtime(model, cache=CacheOptions(idle=False), batch=batch) as runtime:

        def submit_both() -> list[Submission]:
            short = Submission(runtime, IDS, GREEDY, on_step=step)
            return [short, Submission(runtime, [n % 10 for n in range(2000)], GREEDY)]

        for one in runtime.run(submit_both):
            one.wait()

    chunk = PREFILL_CHUNK
    assert told[0] == chunk + 1  # one pass of prompts, and its own step
    assert told[1] == told[0] + chunk + (1 + chunk)  # it rides with a chunk


def begun(runtime: Runtime, prompts: list[list[int]]) -> list[int]:
    """Submit prompts at once, with another answer going on; return who began when."""
    began: list[int] = []
    busy = Submission(runtime, IDS, SamplingParams(seed=1))  # goes on for ever
    while not busy.steps:
        busy.ended.wait(0.001)

    def submit_all() -> list[Submission]:
        return [
            Submission(runtime, ids, GREEDY, on_step=lambda _, n=n: began.append(n))
            for n, ids in enumerate(prompts)
        ]

    for one in runtime.run(submit_all):
        one.wait()
    busy.request.cancel()
    busy.wait()
    return list(dict.fromkeys(began))


def test_equal_prompts_are_read_one_after_another(fake: Runtime) -> None:
    """Though passes of 128 tokens cut them."""
    short = [[n, *([n % 3] * 64)] for n in range(6)]
    long = [[n, *([n % 3] * 300)] for n in range(4)]

    assert begun(fake, short) == list(range(6))
    assert begun(fake, long) == list(range(4))


def test_a_prompt_with_little_to_read_passes_long_ones(fake: Runtime) -> None:
    """What the prompt cache holds does not count."""
    known = [5, *([n % 10 for n in range(900)])]
    Submission(fake, known, GREEDY).wait()
    long = [[n, *([n % 3] * 2000)] for n in range(2)]

    began = begun(fake, [*long, [*known, 7, 8, 9], [8, 8, 8, 8]])
    assert sorted(began[:2]) == [2, 3]


def test_short_prompts_do_not_stop_a_long_one(fake: Runtime) -> None:
    model, ends = fake.model, []
    shorts = iter(range(1000))

    def follow(_: object = None) -> None:
        """Ask again as soon as the answer before has begun."""
        if not ends:
            Submission(fake, [next(shorts) % 10] * 100, GREEDY, on_step=again())

    def again() -> Callable[[object], None]:
        first = iter([True])
        return lambda _: follow() if next(first, False) else None

    def submit_all() -> Submission:
        for _ in range(3):
            follow()
        return Submission(
            fake, [n % 7 for n in range(2000)], GREEDY, on_step=ends.append
        )

    fake.run(submit_all).wait()

    assert next(shorts) < 200
    assert sum(len(feed) for feed in model.feeds if len(feed) > 1) > 2000


def test_draining_lets_all_end_and_takes_no_more(fake: Runtime) -> None:
    asked = [Submission(fake, [*IDS, n], GREEDY) for n in range(3)]

    assert fake.drain(PATIENCE)

    assert [len(one.ends) for one in asked] == [1, 1, 1]
    assert all(one.stats.finish_reason == "length" for one in asked)
    with pytest.raises(BusyError, match="shutting down"):
        Submission(fake, IDS)


def test_draining_gives_up_in_time(fake: Runtime) -> None:
    endless = Submission(fake, IDS)

    assert not fake.drain(0.01)

    assert endless.ends == []
    fake.close()
    assert endless.stats.finish_reason == "cancelled"


def test_other_work_of_the_owner_keeps_its_place(fake: Runtime) -> None:
    """While answers go on for ever, others get their turn and their own tokens."""
    alone = [step.token for step in fake.generate(IDS, GREEDY)]
    endless = Submission(fake, [1, 2, 3])

    assert fake.run(lambda: 5) == 5
    assert [step.token for step in fake.generate(IDS, GREEDY)] == alone
    assert endless.ends == []


def test_figures_of_what_was_done(fake: Runtime) -> None:
    release = threading.Event()
    fake._thread.post(release.wait)
    asked = [Submission(fake, [*IDS, n], GREEDY) for n in range(2)]
    waiting = fake.batch_statistics
    release.set()
    for one in asked:
        one.wait()
    cancelled = Submission(fake, IDS, on_step=lambda step: cancelled.request.cancel())
    cancelled.wait()
    fake.run(lambda: None)
    done = fake.batch_statistics

    assert (waiting.waiting, waiting.running) == (2, 0)
    assert (done.waiting, done.running) == (0, 0)
    assert (done.requests, done.finished, done.cancelled, done.failed) == (3, 2, 1, 0)
    assert done.prompt_tokens == 6 + 6 + 5
    assert set(done.batch_sizes) == {1, 2}


def test_a_callback_may_close_everything(fake: Runtime) -> None:
    """It ends in the middle of a step; each of them ends once."""

    def close(step: object) -> None:
        fake.close()
        raise ValueError("and fail")

    release = threading.Event()
    fake._thread.post(release.wait)
    asked = [Submission(fake, [*IDS, n]) for n in range(3)]
    asked[1]._on_step = close
    release.set()

    for one in asked:
        assert one.ended.wait(PATIENCE)
    assert [len(one.ends) for one in asked] == [1, 1, 1]
    assert fake.batch_statistics.running == 0


def test_an_answer_begins_while_prompts_of_others_wait() -> None:
    """16 come at once: after one pass for 8 of them, those 8 have their tokens."""
    model = noisy()
    prompts = [[(n + k) % 200 for k in range(64)] for n in range(16)]
    with Runtime(model, cache=CacheOptions(idle=False)) as runtime:
        # In the owner thread, so that none is served before all are there.
        asked = runtime.run(
            lambda: [Submission(runtime, ids, GREEDY) for ids in prompts]
        )
        assert all(len(one.tokens) == 12 for one in asked)

    read = [len(feed) > 1 for feed in model.feeds]
    assert read.index(False) == 8
    assert sum(read) == 16
