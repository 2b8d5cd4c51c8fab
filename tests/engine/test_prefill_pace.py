"""Answers keep their share of pace while prompts are read, on a clock that is counted.

The model of costs: a pass of n answers takes `step * n` seconds, and a chunk takes an
overhead and a time per token on top of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.engine.scheduler.prefill_pace import PASS_SECONDS, PrefillPace
from mlx_gptoss.errors import ConfigError
from tests.support.fakes import FakeCache, FakeModel, noisy
from tests.support.submit import Submission

CHUNK = 512
ROUNDING = 1e-9


@dataclass
class Machine:
    """Runs passes of a prompt beside answers; `passes` are (prompt tokens, seconds)."""

    step: float
    rate: float
    overhead: float = 0.0
    fairness: float = 0.25
    noise: Random | None = None
    passes: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pace = PrefillPace(CHUNK, self.fairness)

    def read_alone(self, tokens: int) -> None:
        """Read a prompt beside which nothing decodes."""
        while tokens:
            size = min(tokens, self.pace.next_chunk(reading=1, decoding=0))
            self._pass(0, size)
            tokens -= size
        self.passes.clear()

    def decode(self, answers: int, passes: int = 4) -> None:
        for _ in range(passes):
            self._pass(answers, 0)
        self.passes.clear()

    def read(self, tokens: int, *, answers: int = 1, prompts: int = 1) -> None:
        """Read prompts of `tokens` together, beside answers."""
        while tokens:
            size = self.pace.next_chunk(reading=prompts, decoding=answers)
            size = min(tokens, size)
            self._pass(answers, size)
            tokens -= size

    def share(self, answers: int = 1) -> float:
        """The pace of an answer since the last call of `decode`, of that alone."""
        spent = sum(seconds for _, seconds in self.passes)
        return len(self.passes) * self.step * answers / spent

    @property
    def chunks(self) -> list[int]:
        return [tokens for tokens, _ in self.passes if tokens]

    @property
    def speed(self) -> float:
        """Prompt tokens per second."""
        return sum(self.chunks) / sum(seconds for _, seconds in self.passes)

    def _pass(self, answers: int, tokens: int) -> None:
        seconds = answers * self.step
        if tokens:
            seconds += self.overhead + self.rate * tokens
        if self.noise is not None:
            seconds *= self.noise.uniform(0.8, 1.25)
        self.passes.append((tokens, seconds))
        self.pace.record(decoding=answers, prompt_tokens=tokens, seconds=seconds)


@settings(max_examples=40, deadline=None)
@given(
    step=st.floats(0.01, 1),
    rate=st.floats(1e-5, 0.01),
    overhead=st.floats(0, 5),
    fairness=st.floats(0.05, 0.7),
    answers=st.integers(1, 16),
    prompts=st.integers(1, 16),
)
def test_an_answer_keeps_its_share(
    step: float,
    rate: float,
    overhead: float,
    fairness: float,
    answers: int,
    prompts: int,
) -> None:
    """Whatever passes cost, up to the last chunk, whose debt is paid afterwards."""
    machine = Machine(step, rate, overhead, fairness)
    machine.read_alone(700)
    machine.decode(answers)

    machine.read(2000, answers=answers, prompts=prompts)

    machine.passes.pop()
    machine.passes.append((0, answers * step))  # one pass of credit from before
    assert machine.share(answers) >= fairness - ROUNDING


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_times_that_differ_change_little(seed: int) -> None:
    machine = Machine(0.015, 0.002, noise=Random(seed))
    machine.read_alone(700)
    machine.decode(1, passes=16)

    machine.read(9500)

    assert 0.2 < machine.share() < 0.32


def test_a_long_prompt_beside_one_answer() -> None:
    """9,500 tokens at 2.2 ms each, beside an answer of 15 ms a token."""
    machine = Machine(0.015, 0.0022)
    machine.read_alone(200)
    machine.decode(1)

    machine.read(9500)

    assert machine.share() == pytest.approx(0.25, abs=0.01)
    assert machine.speed == pytest.approx(0.75 / 0.0022, rel=0.05)
    longest = max(seconds for _, seconds in machine.passes)
    assert longest < 1.3 * PASS_SECONDS


def test_a_chunk_with_an_overhead_is_not_too_small() -> None:
    """Experts are read once for a chunk, so small chunks would mostly read experts."""
    machine = Machine(0.5, 0.01, overhead=6.0)  # experts from a disk
    machine.read_alone(700)
    machine.decode(1)

    machine.read(9500)

    assert machine.chunks[-2] == CHUNK
    assert machine.share() > 0.24


def test_chunks_are_larger_while_more_prompts_wait() -> None:
    alone, many = Machine(0.012, 0.0007, 0.035), Machine(0.012, 0.0007, 0.035)
    for machine in (alone, many):
        machine.read_alone(1024 + 700)
        machine.decode(1)

    alone.read(9500)
    many.read(9500, prompts=8)

    assert max(alone.chunks) < 200
    assert max(many.chunks) == CHUNK
    assert many.speed > alone.speed
    assert min(alone.share(), many.share()) > 0.22


def test_without_fairness_prompts_are_read_in_full_chunks() -> None:
    machine = Machine(0.015, 0.002, fairness=0)
    machine.decode(1)

    machine.read(5000)

    assert len(machine.passes) == len(machine.chunks) == 10


def test_an_answer_that_was_never_alone_is_measured_first() -> None:
    machine = Machine(0.015, 0.002)
    machine.read_alone(CHUNK)

    machine.read(2000)

    assert [tokens for tokens, _ in machine.passes][:3] == [0, 0, 50]
    machine.passes.pop()
    assert machine.share() > 0.24


def test_a_pause_of_the_machine_stops_no_prompt() -> None:
    """One pass that took a minute is no reason to decode for three."""
    machine = Machine(0.015, 0.002)
    machine.read_alone(700)
    machine.decode(1)
    machine.read(1000)
    machine.pace.record(decoding=1, prompt_tokens=0, seconds=60)
    machine.pace.record(decoding=1, prompt_tokens=32, seconds=60)
    machine.passes.clear()

    machine.read(64)

    assert len(machine.passes) < 40


@pytest.mark.parametrize("fairness", [-0.1, 1, 2])
def test_a_share_is_a_part(fairness: float) -> None:
    with pytest.raises(
        ConfigError, match=r"`fairness` is .*expected 0 or more and less"
    ):
        BatchOptions(fairness=fairness)


class CountedModel(FakeModel):
    """A model whose passes take the time of a Machine, on a clock of its own."""

    def __init__(self, step: float, rate: float) -> None:
        super().__init__(noisy().logits_of)
        self.step, self.rate, self.now = step, rate, 0.0

    def hidden(
        self, ids: mx.array, cache: FakeCache | list[FakeCache], **options: Any
    ) -> mx.array:
        lengths = options.get("lengths") or [ids.shape[1]]
        self.now += sum(self.step if n == 1 else self.rate * n for n in lengths)
        return super().hidden(ids, cache, **options)


@pytest.fixture
def counted() -> Iterator[tuple[Runtime, CountedModel]]:
    model = CountedModel(step=0.015, rate=0.0022)
    with Runtime(model, cache=CacheOptions(idle=False)) as runtime:
        runtime._scheduler._lifecycle.batch._clock = lambda: model.now
        yield runtime, model


def test_a_running_answer_keeps_a_quarter_of_its_pace(
    counted: tuple[Runtime, CountedModel],
) -> None:
    runtime, model = counted
    told: list[float] = []
    began: list[float] = []

    def tell(_: object) -> None:
        told.append(model.now)
        if len(told) == 20:
            began.append(model.now)
            asked.append(
                Submission(
                    runtime,
                    [n % 10 for n in range(2000)],
                    SamplingParams(max_tokens=1),
                    on_step=lambda _: began.append(model.now),
                )
            )

    asked: list[Submission] = []
    running = Submission(runtime, [3, 1, 4], SamplingParams(seed=1), on_step=tell)
    while not asked:
        running.ended.wait(0.001)
    asked[0].wait()
    running.request.cancel()
    running.wait()

    start, end = began
    seconds = end - start
    alone = 1 / model.step
    while_read = sum(start < now <= end for now in told) / seconds
    assert while_read / alone > 0.24
    assert seconds < 2000 * model.rate / 0.7  # the prompt has the rest
