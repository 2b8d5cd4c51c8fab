"""Many streams for a long time: nothing lost, doubled or crossed, nothing left behind.

Each stream is checked against its answer alone. By hand, for five minutes:

    pytest -m soak tests/engine/test_batching_load.py
"""

import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence

import mlx.core as mx
import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.outputs import Step
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from tests.support.fakes import token_ids
from tests.support.submit import Submission

TIE = 1e-3  # of logprobs: between two tokens so close either is right
CANCELLED = 0.25  # of all requests
SLACK = 32 * 2**20  # bytes that caches of MLX and of Python may differ by
PATIENCE = 600  # seconds: a request waits for many others, on whatever machine
KEPT = 8 * 2**20  # bytes of the prompt cache
QUESTIONS = (
    "What is 12 + 30?",
    "What is the weather in Oslo?",
    "Say hello.",
    "Count to five.",
    "Who are you?",
    "What is 7 + 8? Then say why, and how you know it.",
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    options = BatchOptions(max_running=16, max_waiting=64)
    cache = CacheOptions(idle=False, memory=KEPT)
    with load("demo", dtype="float32", batch=options, cache=cache) as runtime:
        yield runtime


@pytest.mark.parametrize(
    ("streams", "seconds"),
    [(8, 2), pytest.param(64, 300, marks=pytest.mark.soak)],
    ids=["8 streams, 2 s", "64 streams, 300 s"],
)
def test_streams_keep_to_their_answers(
    runtime: Runtime, streams: int, seconds: float
) -> None:
    answers = [answer_alone(runtime, n) for n in range(24)]
    until = time.monotonic() + seconds
    readers = [Reader(runtime, answers, n, until) for n in range(streams)]
    threads = threading.active_count()
    held = Held()
    for reader in readers:
        reader.start()
    time.sleep(seconds / 4)  # by then all that grows has grown
    held.measure()
    for reader in readers:
        reader.join(seconds + PATIENCE)
    assert not any(reader.is_alive() for reader in readers)
    runtime.run(lambda: None)
    held.measure()

    ends = sum((reader.ends for reader in readers), Counter())
    print(f"\n{streams} streams, {seconds} s: {dict(ends)}; {held}")
    print(runtime.batch_statistics)
    wrong = [reader.wrong for reader in readers if reader.wrong]
    assert wrong == [], wrong
    assert ends["whole"] >= streams / 4
    assert ends["cancelled"] > 0
    done = runtime.batch_statistics
    assert (done.running, done.waiting, done.failed, done.refused) == (0, 0, 0, 0)
    assert threading.active_count() <= threads
    assert held.grown < SLACK + KEPT
    tickets = [ticket for reader in readers for ticket in reader.tickets]
    readers.clear()
    reader = None
    gc.collect()
    assert [ticket for ticket in tickets if ticket() is not None] == []


def answer_alone(runtime: Runtime, n: int) -> tuple[list[int], int, list[Step]]:
    """The prompt of request n, how many tokens it asks for, and its answer alone."""
    question = f"{QUESTIONS[n % len(QUESTIONS)]} {'Please. ' * (n * 7 % 40)}"
    text = f"<|start|>user<|message|>{question}<|end|><|start|>assistant"
    ids = token_ids(text, runtime.tokenizer)
    wanted = 3 + n * 5 % 50
    return ids, wanted, list(runtime.generate(ids, params(wanted)))


def params(wanted: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=wanted, top_logprobs=2)


class Reader(threading.Thread):
    """Asks one request after the other, and leaves some of them early."""

    def __init__(
        self,
        runtime: Runtime,
        answers: Sequence[tuple[list[int], int, list[Step]]],
        seed: int,
        until: float,
    ) -> None:
        super().__init__()
        self._runtime, self._answers, self._until = runtime, answers, until
        self._random = random.Random(seed)
        self.wrong: list[str] = []
        self.ends: Counter[str] = Counter()
        self.tickets: list[weakref.ref[object]] = []

    def run(self) -> None:
        while time.monotonic() < self._until and not self.wrong:
            ids, wanted, alone = self._random.choice(self._answers)
            leaves = self._random.random() < CANCELLED
            asked = Submission(self._runtime, ids, params(wanted))
            self.tickets.append(weakref.ref(asked.request))
            if leaves:
                asked.ended.wait(self._random.random() * 0.5)
                asked.request.cancel()
            try:
                steps = asked.wait(PATIENCE)
            except Exception as error:
                self.wrong.append(repr(error))
                return
            [(stats, _)] = asked.ends  # none if it was cancelled before it began
            whole = stats is not None and stats.finish_reason != "cancelled"
            self.ends["whole" if whole else "cancelled"] += 1
            self._compare(steps, alone, whole=whole)

    def _compare(self, steps: list[Step], alone: list[Step], *, whole: bool) -> None:
        if whole and len(steps) != len(alone) and not tied(alone):
            self.wrong.append(f"{len(steps)} steps and not {len(alone)}")
        for place, (step, other) in enumerate(zip(steps, alone, strict=False)):
            if step.token != other.token:
                if not tied([other]):
                    self.wrong.append(f"{step} and not {other} at {place}")
                self.ends["ties"] += 1
                return


def tied(steps: Sequence[Step]) -> bool:
    """Whether two tokens were as good as each other at any of these steps."""
    gaps = [s.top_logprobs[0][1] - s.top_logprobs[1][1] for s in steps]
    return any(gap < TIE for gap in gaps)


class Held:
    """What MLX holds, as it was measured."""

    def __init__(self) -> None:
        self._bytes: list[int] = []

    def measure(self) -> None:
        gc.collect()
        self._bytes.append(mx.get_active_memory())

    @property
    def grown(self) -> int:
        return self._bytes[-1] - self._bytes[0]

    def __str__(self) -> str:
        return "memory " + " -> ".join(f"{n / 1e6:.1f} MB" for n in self._bytes)
