"""`generate(cache=...)`: the caller's own cache holds just what was read."""

from collections.abc import Iterator

import pytest

from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from tests.support.fakes import noisy

GREEDY = SamplingParams(temperature=0)
IDS = [3, 1, 4, 1, 5]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(noisy()) as runtime:
        yield runtime


def test_a_cache_holds_the_prompt_and_the_steps_that_were_read(
    runtime: Runtime,
) -> None:
    cache = runtime.new_cache()
    stream = runtime.generate(IDS, GREEDY, cache=cache)
    unread = cache.offset
    steps = [next(stream) for _ in range(4)]
    runtime.run(lambda: None)  # nothing is computed ahead of the reader

    stream.close()

    assert (unread, cache.offset) == (0, 9)
    assert stream.computed_ids == (*IDS, *(step.token for step in steps))


def test_a_closed_stream_gives_its_cache_back(runtime: Runtime) -> None:
    cache = runtime.new_cache()
    stream = runtime.generate(IDS, GREEDY, cache=cache)
    said = [next(stream).token for _ in range(2)]
    stream.close()

    rest = runtime.generate([9], GREEDY, cache=cache)
    token = next(rest).token

    alone = runtime.generate([*IDS, *said, 9], GREEDY)
    assert token == next(alone).token
    assert rest.stats.cached_tokens == len(IDS) + 2


def test_a_stream_that_is_never_read_leaves_its_cache_alone(runtime: Runtime) -> None:
    cache = runtime.new_cache()
    with runtime.generate(IDS, GREEDY, cache=cache):
        runtime.run(lambda: None)

    assert cache.offset == 0


def test_an_answer_to_its_end_leaves_the_last_token_out(runtime: Runtime) -> None:
    cache = runtime.new_cache()
    params = SamplingParams(temperature=0, max_tokens=3)

    steps = list(runtime.generate(IDS, params, cache=cache))

    assert (len(steps), cache.offset) == (3, len(IDS) + 2)
