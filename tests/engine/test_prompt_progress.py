"""Progress of reading a prompt: counts, speed, and the time left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.engine.prompt_progress import (
    PromptMeter,
    PromptProgress,
    format_seconds,
)
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from tests.support.fakes import noisy

PARAMS = SamplingParams(max_tokens=1, temperature=0)


@given(
    st.integers(0, 10_000), st.integers(1, 10_000), st.integers(0, 10_000), st.data()
)
def test_speed_and_time_left_are_of_the_tokens_that_were_read(
    cached: int, read: int, left: int, data: st.DataObject
) -> None:
    rate = data.draw(st.floats(0.1, 1e5))
    total = cached + read + left
    progress = PromptProgress(total, cached, cached + read, seconds=read / rate)

    assert progress.tokens_per_second == pytest.approx(rate)
    assert progress.seconds_left() == pytest.approx(left / rate)
    assert progress.finished == (left == 0)


def test_time_left_counts_down_between_two_reports() -> None:
    progress = PromptProgress(1100, 100, 600, seconds=5.0, time=70.0)  # 100 tok/s

    assert progress.seconds_left(72.0) == pytest.approx(3.0)
    assert progress.seconds_left(99.0) == 0.0
    assert progress.describe(99.0) == "600 of 1,100 tokens, 100 tok/s"
    assert progress.describe(72.0) == "600 of 1,100 tokens, 100 tok/s, 3 s left"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (PromptProgress(6100), "6,100 tokens"),
        (PromptProgress(6100, 5000, 5000, 0.1), "6,100 tokens"),
        (
            PromptProgress(6100, 0, 2048, 5.0),
            "2,048 of 6,100 tokens, 410 tok/s, 10 s left",
        ),
        (
            PromptProgress(9000, 0, 512, 512 / 3.0),
            "512 of 9,000 tokens, 3.0 tok/s, 47 min 9 s left",
        ),
    ],
)
def test_progress_is_said_as_far_as_it_is_known(
    progress: PromptProgress, text: str
) -> None:
    assert progress.describe() == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (7260, "2 h 1 min")],
)
def test_a_length_of_time_is_written_in_two_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_generation_reports_its_start_and_each_chunk() -> None:
    reports: list[PromptProgress] = []
    ids = [1 + n % 7 for n in range(1300)]

    def generate(prompt: list[int]) -> None:
        meter = PromptMeter(len(prompt), reports.append)
        meter.source = runtime.generate(prompt, PARAMS, reuse=True, progress=meter)
        list(meter.source)

    with Runtime(noisy()) as runtime:
        generate(ids[:700])
        generate(ids)  # most of 700 are cached

    counts = [(r.total, r.cached, r.processed) for r in reports]
    assert counts[0] == (700, 0, 0)
    assert counts[1:3] == [(700, 0, 512), (700, 0, 700)]
    assert counts[3] == (1300, 0, 0)
    cached = reports[-1].cached
    assert cached > 512
    assert counts[4:] == [(1300, cached, cached + 512), (1300, cached, 1300)]
    assert all(r.tokens_per_second for r in reports if r.processed)
    assert all(r.seconds <= r.time - reports[0].time for r in reports)
