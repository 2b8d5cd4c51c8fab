"""Progress of reading a prompt: how much, at what rate, and how long it will take.

    progress = report_progress(print, len(ids), lambda: stream.stats)
    stream = runtime.generate(ids, progress=progress)

prints a PromptProgress now, and one after each chunk of the prefill. Knows numbers of
tokens and a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from mlx_gptoss.engine.interfaces import OnProgress
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
        """Say `2,048 of 6,100 tokens, 410 tok/s, 10 s left`, as far as it is known."""
        rate, left = self.tokens_per_second, self.seconds_left(now)
        if rate is None or left is None:
            return f"{self.total:,} tokens"
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        return (
            f"{self.processed:,} of {self.total:,} tokens, {speed} tok/s, "
            f"{format_seconds(left)} left"
        )


def format_seconds(seconds: float) -> str:
    """Format a length of time: `10 s`, `2 min 5 s`, `1 h 10 min`."""
    minutes, rest = divmod(round(seconds), MINUTE)
    if not minutes:
        return f"{rest} s"
    if minutes < MINUTE:
        return f"{minutes} min {rest} s"
    return f"{minutes // MINUTE} h {minutes % MINUTE} min"


def report_progress(
    report: Callable[[PromptProgress], object],
    total: int,
    stats: Callable[[], Statistics | None],
    *,
    clock: Callable[[], float] = perf_counter,
) -> OnProgress:
    """Report that a prompt of `total` tokens will be read; return a callback.

    The callback is for `Runtime.generate` or `submit`, and reports each chunk. `stats`
    returns the statistics of that generation, None before it started.
    """
    report(PromptProgress(total, time=clock()))

    def on_progress(done: int, of: int) -> None:
        if (found := stats()) is not None:
            report(
                PromptProgress(
                    total,
                    cached=found.cached_tokens,
                    processed=total - (of - done),
                    seconds=found.prompt_seconds,
                    time=clock(),
                )
            )

    return on_progress
