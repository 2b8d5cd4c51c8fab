"""Progress of reading a prompt: how much, at what rate, and how long it will take.

    meter = PromptMeter(len(ids), print)
    stream = meter.source = runtime.generate(ids, progress=meter)

prints a PromptProgress now, and one after each chunk of the prefill. Knows numbers of
tokens and a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from mlx_gptoss.engine.outputs import Statistics

MINUTE = 60  # seconds; also minutes of an hour


@dataclass(frozen=True)
class PromptProgress:
    """How much of a prompt has been read.

    total: tokens of the prompt.
    cached: tokens found in the prompt cache, which are not read again.
    processed: tokens done so far, the cached ones included.
    seconds: from the start of prefill to this report.
    time: when this was reported, in seconds of `time.perf_counter`.
    """

    total: int
    cached: int = 0
    processed: int = 0
    seconds: float = 0.0
    time: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the whole prompt has been read."""
        return self.processed >= self.total

    @property
    def tokens_per_second(self) -> float | None:
        """The speed so far, of the tokens that were not cached; None if unknown."""
        read = self.processed - self.cached
        return read / self.seconds if read > 0 and self.seconds > 0 else None

    def seconds_left(self, now: float | None = None) -> float | None:
        """Estimate the seconds to the end of the prompt; None if the speed is unknown.

        `now` is a later time than that of the report, on the same clock.
        """
        rate = self.tokens_per_second
        if rate is None:
            return None
        since = 0.0 if now is None else now - self.time
        return max((self.total - self.processed) / rate - since, 0.0)

    def describe(self, now: float | None = None) -> str:
        """Say `2,048 of 6,100 tokens, 410 tok/s, 10 s left`, as far as it is known.

        Once the estimate has run out, it is not said.
        """
        rate, left = self.tokens_per_second, self.seconds_left(now)
        if rate is None:
            return f"{self.total:,} tokens"
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        text = f"{self.processed:,} of {self.total:,} tokens, {speed} tok/s"
        return f"{text}, {format_seconds(left)} left" if left else text


OnPromptProgress = Callable[[PromptProgress], object]


class HasStatistics(Protocol):
    """A generation: a `Stream` or a `Request`."""

    @property
    def stats(self) -> Statistics | None: ...


def format_seconds(seconds: float) -> str:
    """Format a length of time: `10 s`, `2 min 5 s`, `1 h 10 min`."""
    minutes, rest = divmod(round(seconds), MINUTE)
    if not minutes:
        return f"{rest} s"
    if minutes < MINUTE:
        return f"{minutes} min {rest} s"
    return f"{minutes // MINUTE} h {minutes % MINUTE} min"


class PromptMeter:
    """Reports how the prompt of one generation is read.

    An instance is the `progress` of `Runtime.generate`, or the `on_progress` of
    `submit`; `source` is what that returned. `report` is called at once, and then after
    each chunk, in the engine thread; with None, nothing is reported.
    """

    def __init__(
        self,
        total: int,
        report: OnPromptProgress | None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.source: HasStatistics | None = None
        self._total = total
        self._report = report or (lambda progress: None)
        self._clock = clock
        self._report(PromptProgress(total, time=clock()))

    def __call__(self, done: int, total: int) -> None:
        """Report that all but `total - done` tokens of the prompt are read."""
        stats = self.source.stats if self.source is not None else None
        if stats is None:
            return
        self._report(
            PromptProgress(
                self._total,
                cached=stats.cached_tokens,
                processed=self._total - (total - done),
                seconds=stats.prompt_seconds,
                time=self._clock(),
            )
        )
