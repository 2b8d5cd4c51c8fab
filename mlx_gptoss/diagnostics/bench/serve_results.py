"""Results of `bench serve`: figures of a round, medians of rounds, ratios.

Knows times and tokens of streams, no server.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from statistics import mean, median
from typing import Any

from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.serve_load import RoundTimings
from mlx_gptoss.diagnostics.bench.streams import StreamTiming

PERCENTILE = 0.99


@dataclass(frozen=True)
class TurnLevel:
    """Medians over the conversations of one turn; tokens None if the server is mute."""

    turn: int
    first_token_s: float
    prompt_tokens: float
    read_tokens: float | None  # of the prompt, not in the cache


@dataclass(frozen=True)
class StreamLevel:
    """Medians over the rounds of one server at one number of streams.

    tokens_per_second: of all streams, over the time in which any request is in work.
    first_token_s, last_first_token_s: of all first turns, the median and the slowest.
    gap_s, gap_p99_s, longest_gap_s: time between the tokens of an answer: the median,
        the 99th percentile and the longest; None if no answer came in two parts.
    tokens: of an answer.
    beside_first_token_s: of the long prompts sent meanwhile; None without any.
    beside_pace: tokens per second of a stream while those are read, as a share of the
        same otherwise; None without any, or if a stream has too few tokens to tell.
    """

    streams: int
    tokens_per_second: float
    first_token_s: float
    last_first_token_s: float
    gap_s: float | None = None
    gap_p99_s: float | None = None
    longest_gap_s: float | None = None
    tokens: float | None = None
    beside_first_token_s: float | None = None
    beside_pace: float | None = None
    turns: tuple[TurnLevel, ...] = ()


@dataclass(frozen=True)
class ServerResult:
    """Results of one server; `failure` is the reason if it was not measured."""

    name: str
    levels: tuple[StreamLevel, ...] = ()
    failure: str | None = None
    model: str | None = None  # that was asked for by name
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServeRatio:
    """Ours compared with another server; above 1 ours is faster."""

    streams: int
    throughput: float
    first_token: float
    against: str = ""
    gap: float | None = None
    longest_gap: float | None = None


@dataclass(frozen=True)
class ServeBench:
    """Results of all servers, ours first."""

    model: str
    machine: str
    load_average: float
    dtype: str
    prompt_tokens: int
    tokens: int
    rounds: int
    sides: tuple[ServerResult, ...]
    prompts: str = "raw"
    turns: int = 1

    @property
    def ratios(self) -> tuple[ServeRatio, ...]:
        ours, *others = self.sides
        return tuple(
            ServeRatio(
                mine.streams,
                mine.tokens_per_second / theirs.tokens_per_second,
                theirs.first_token_s / mine.first_token_s,
                other.name,
                _ratio(theirs.gap_s, mine.gap_s),
                _ratio(theirs.longest_gap_s, mine.longest_gap_s),
            )
            for other in others
            if not other.failure
            for mine, theirs in zip(ours.levels, other.levels, strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratios": [asdict(ratio) for ratio in self.ratios]}


def summarize_round(found: RoundTimings, tokens: int | None = None) -> StreamLevel:
    """Summarize one round.

    Raises EngineFailure if `tokens` is given and an answer has another number.
    """
    answers = [answer for talk in found.conversations for answer in talk]
    if tokens is not None:
        short = [x.completion_tokens for x in answers if x.completion_tokens != tokens]
        if short:
            raise EngineFailure(
                f"an answer has {short[0]} tokens and not {tokens}: nothing to compare"
            )
    firsts = [talk[0].first - talk[0].asked for talk in found.conversations]
    gaps = sorted(b - a for x in answers for a, b in pairwise(x.arrivals))
    said = sum(x.completion_tokens for x in answers)
    return StreamLevel(
        len(found.conversations),
        said / busy_seconds(answers),
        median(firsts),
        max(firsts),
        median(gaps) if gaps else None,
        gaps[math.ceil(PERCENTILE * len(gaps)) - 1] if gaps else None,
        gaps[-1] if gaps else None,
        median(x.completion_tokens for x in answers),
        median(x.first - x.asked for x in found.beside) if found.beside else None,
        pace_beside(answers, found.beside),
        tuple(
            _turn(n + 1, turn)
            for n, turn in enumerate(zip(*found.conversations, strict=True))
        ),
    )


def pace_beside(
    answers: Sequence[StreamTiming], beside: Sequence[StreamTiming]
) -> float | None:
    """Return the pace of streams while long prompts are read, relative to otherwise.

    The median of the streams that have two gaps between tokens in either time.
    """
    if not beside:
        return None
    start, end = min(x.asked for x in beside), max(x.first for x in beside)
    shares = []
    for answer in answers:
        gaps = list(pairwise(answer.arrivals))
        within = [b - a for a, b in gaps if start <= a < end]
        outside = [b - a for a, b in gaps if b <= start or a >= end]
        if min(len(within), len(outside)) > 1 and sum(within):
            shares.append(mean(outside) / mean(within))
    return median(shares) if shares else None


def busy_seconds(answers: Sequence[StreamTiming]) -> float:
    """Return the time in which at least one request was in work."""
    total, until = 0.0, -math.inf
    for asked, ended in sorted((x.asked, x.ended) for x in answers):
        total += max(0.0, ended - max(asked, until))
        until = max(until, ended)
    return total


def take_medians(levels: Sequence[StreamLevel]) -> StreamLevel:
    """Return the median of each figure over the rounds."""
    turns = zip(*(level.turns for level in levels), strict=True)
    return replace(
        levels[0],
        turns=tuple(replace(turn[0], **_medians(turn)) for turn in turns),
        **_medians(levels),
    )


def _medians(rounds: Sequence[StreamLevel] | Sequence[TurnLevel]) -> dict[str, Any]:
    """Return the median of each number; None where no round has it."""
    found: dict[str, Any] = {}
    for field in fields(rounds[0]):
        values = [getattr(each, field.name) for each in rounds]
        if not isinstance(values[0], tuple):
            known = [value for value in values if value is not None]
            equal = len(set(values)) == 1  # a whole number stays one
            found[field.name] = values[0] if equal else median(known)
    return found


def _turn(turn: int, answers: Sequence[StreamTiming]) -> TurnLevel:
    read = [x.read_tokens for x in answers if x.read_tokens is not None]
    return TurnLevel(
        turn,
        median(x.first - x.asked for x in answers),
        median(x.prompt_tokens for x in answers),
        median(read) if read else None,
    )


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None
