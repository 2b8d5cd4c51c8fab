"""Time several pieces of work in turn, and tell how much their times differ.

All pieces are timed in each round, so that a slow moment of the machine meets all of
them, and a piece counts with the median of its rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Clock = Callable[[], float]

LEAST_SECONDS = 4e-3  # of a round of one piece; shorter work is repeated
LONG_SECONDS = 0.1  # of one run; longer work runs once more after its first run
MOST_SECONDS = 0.2  # of one run; no longer piece of the same kind is tried


@dataclass(frozen=True)
class ProbeScale:
    """How much is timed: less is quicker and means less.

    largest: hidden size of the largest layers, by default that of the published models.
    rounds: repeats of every measurement.
    model_rounds: runs of each small model, of whose times differences are taken.
    prompt, answer: tokens of the small models' runs.
    matrix_rows: of the matrix read from memory, by default larger than any cache.
    """

    largest: int = 2880
    rounds: int = 5
    model_rounds: int = 9
    prompt: int = 256
    answer: int = 24
    matrix_rows: int = 16384


@dataclass
class TimedPiece:
    """Work, and the seconds of one run in each round."""

    run: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0  # seconds of the run that warms up

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The slowest round by the fastest, without a quarter of them at either end.

        A single slow round of five does not change the median.
        """
        rising, cut = sorted(self.seconds), len(self.seconds) // 4
        return rising[-1 - cut] / max(rising[cut], 1e-9)


def warm_up(piece: TimedPiece, clock: Clock = time.perf_counter) -> float:
    """Run a piece once; return its seconds."""
    started = clock()
    piece.run()
    piece.first = clock() - started
    return piece.first


def time_rounds(
    pieces: Iterable[TimedPiece],
    *,
    rounds: int,
    clock: Clock = time.perf_counter,
) -> None:
    """Time every piece once in each round."""
    pieces = list(pieces)
    for turn in range(rounds):
        for piece in pieces:
            if turn and piece.first > LONG_SECONDS:
                continue
            started, runs = clock(), 0
            while not runs or clock() - started < LEAST_SECONDS:
                piece.run()
                runs += 1
            piece.seconds.append((clock() - started) / runs)


def median_spread(pieces: Iterable[TimedPiece]) -> float:
    """Return the median of the pieces' spreads: 1 on an idle machine."""
    repeated = [x.spread for x in pieces if len(x.seconds) > 1]
    return statistics.median(repeated or [1.0])
