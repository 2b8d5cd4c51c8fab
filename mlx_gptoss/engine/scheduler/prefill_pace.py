"""Prefill pace: how many prompt tokens the next pass reads, so that answers go on.

While prompts are read, every answer keeps a share of its pace, the fairness f. With d
seconds for a pass that only decodes, a pass may take d / f on average. What a pass that
also reads takes beyond that is a debt, and no prompt is read before passes that only
decode have paid it back. A credit is kept only up to what one such pass pays. Works on
measured times; knows nothing of sequences, models or clocks.
"""

import math
from collections import deque
from statistics import median

MIN_CHUNK = 32  # tokens
FIRST_CHUNK_DIVISOR = 4  # of a full chunk, while its cost is not known
PASS_SECONDS = 0.1  # that a pass with prompt tokens may take in any case
MAX_GROWTH = 2  # of a chunk over the one before: costs are estimates
MAX_OVERHEAD = 1 / 4  # of the time of a chunk; a smaller chunk reads no faster
OUTLIER = 4  # times the expected seconds; more is not the model's doing
KEPT_STEPS = 15  # measured passes, of which the median counts
KEPT_PASSES = 64  # after so many a measured pass is out of date
PROBES = 3  # passes that only decode, to measure them: of two, one is timed alone
DECAY = 0.8  # weight of a chunk's time relative to that of the next chunk
LEAST_SPREAD = 0.1  # of chunk sizes around their mean, to tell overhead from the rest


class PrefillPace:
    """Chooses prompt tokens by the times of the passes before. `chunk` is the most.

    `fairness` is the share of its pace that an answer keeps, 0 for none: then prompts
    are read in full chunks.
    """

    def __init__(self, chunk: int, fairness: float) -> None:
        self.smallest = min(MIN_CHUNK, chunk)
        self._chunk = chunk
        self._fairness = fairness
        self._steps = StepTimes()
        self._cost = ChunkCost()
        self._size = max(self.smallest, chunk // FIRST_CHUNK_DIVISOR)
        self._debt = 0.0  # seconds
        self._probes = 0  # since the last measured pass

    def next_chunk(self, *, reading: int, decoding: int) -> int:
        """Return the most prompt tokens of the next pass; 0 if it should only decode.

        `reading` is the number of prompts to read, `decoding` of answers in the pass.
        The more prompts wait for each answer, the larger a chunk may be, which reads
        faster: the debt, and so the pace of the answers, is the same.
        """
        if not decoding or not self._fairness:
            self._debt = 0.0
            return self._chunk
        if self._steps.outdated(decoding) and self._probes < PROBES:
            return 0
        if self._debt > 0:
            return 0
        step = self._steps.seconds(decoding)
        if step is not None and self._cost.known:
            usual = PASS_SECONDS * max(1, reading / decoding)
            wanted = self._cost.tokens(max(step / self._fairness, usual))
            most = min(wanted, MAX_GROWTH * self._size, self._chunk)
            self._size = max(int(most), self.smallest)
        return self._size

    def record(self, *, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """Note the time of a pass of `decoding` answers and `prompt_tokens`."""
        self._probes = 0 if prompt_tokens else self._probes + 1
        if prompt_tokens:
            self._record_chunk(decoding, prompt_tokens, seconds)
        elif decoding:
            self._pay(decoding, seconds)
        self._steps.record(0 if prompt_tokens else decoding, seconds)

    def _pay(self, decoding: int, seconds: float) -> None:
        step = self._steps.seconds(decoding)
        if step is None or not self._fairness:
            return
        allowed = step / self._fairness
        self._debt = max(self._debt - max(0.0, allowed - seconds), step - allowed)

    def _record_chunk(self, decoding: int, tokens: int, seconds: float) -> None:
        step = (self._steps.seconds(decoding) if decoding else None) or 0.0
        if self._cost.known:
            seconds = min(seconds, OUTLIER * (step + self._cost.seconds(tokens)))
        self._cost.record(tokens, max(0.0, seconds - step))
        if step and self._fairness:
            self._debt += seconds - step / self._fairness


class StepTimes:
    """Times of passes that only decode, by the number of their answers."""

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._recorded: dict[int, int] = {}  # in which pass the last of them was
        self._passes = 0
        self._before = 0  # answers of the pass before, if that only decoded

    def record(self, decoding: int, seconds: float) -> None:
        """Note the time of a pass; `decoding` is 0 if it did not only decode.

        A pass is waited for in the next one, so it counts behind one of its kind only.
        """
        self._passes += 1
        if decoding and decoding == self._before:
            times = self._times.setdefault(decoding, deque(maxlen=KEPT_STEPS))
            times.append(seconds)
            self._recorded[decoding] = self._passes
        self._before = decoding

    def outdated(self, decoding: int) -> bool:
        """Whether the time of a pass of so many answers should be measured."""
        last = self._recorded.get(decoding)
        return last is None or self._passes - last > KEPT_PASSES

    def seconds(self, decoding: int) -> float | None:
        """Return the time of a pass of so many answers, or of the nearest number."""
        if not self._times:
            return None
        nearest = min(self._times, key=lambda count: abs(count - decoding))
        return median(self._times[nearest])


class ChunkCost:
    """The seconds of a chunk: an overhead, such as reading every expert, and a rate.

    Both are fitted to the latest chunks, by least squares with decaying weights.
    """

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        """Whether a chunk was recorded."""
        return self._weight > 0

    def record(self, tokens: int, seconds: float) -> None:
        """Note the time of a chunk."""
        new = (1, tokens, seconds, tokens * tokens, tokens * seconds)
        old = (self._weight, self._x, self._y, self._xx, self._xy)
        self._weight, self._x, self._y, self._xx, self._xy = (
            DECAY * a + b for a, b in zip(old, new, strict=True)
        )

    def seconds(self, tokens: int) -> float:
        """Return the expected time of a chunk."""
        overhead, rate = self._fit()
        return overhead + rate * tokens

    def tokens(self, seconds: float) -> float:
        """Return the size of a chunk that takes so long, or is mostly no overhead.

        Infinite if tokens cost nothing.
        """
        overhead, rate = self._fit()
        if rate <= 0:
            return math.inf
        least = overhead * (1 / MAX_OVERHEAD - 1) / rate
        return max((seconds - overhead) / rate, least)

    def _fit(self) -> tuple[float, float]:
        """Return the overhead, and seconds per token; neither is negative."""
        x, y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - x * x
        rate = y / x
        if spread > (LEAST_SPREAD * x) ** 2:
            slope = (self._xy / self._weight - x * y) / spread
            rate = min(max(slope, 0.0), rate)
        return y - rate * x, rate
