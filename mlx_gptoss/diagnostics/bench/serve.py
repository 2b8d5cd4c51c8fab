"""Throughput of our server with concurrent streams, beside mlx-lm's server.

Both serve the same folder in their own processes, with the same dtype and BLAS, and
take turns answering the same raw completions from the same client: greedy, with fresh
prompts and a fixed number of tokens (stop tokens are biased away on both sides).
Throughput counts the tokens of all streams from the first request to the last token;
first tokens are timed from the request, with all streams in progress.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.decode import SHARE_OF_MEMORY
from mlx_gptoss.diagnostics.bench.engines import DTYPES, MLX_LM, default_dtype
from mlx_gptoss.diagnostics.bench.our_server import NAME, OurServer
from mlx_gptoss.diagnostics.bench.stock_client import StockServer
from mlx_gptoss.diagnostics.bench.streams import (
    ServerAddress,
    StreamTiming,
    time_concurrent_streams,
)
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.outputs import stop_reasons
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import device_budget

DEFAULT_STREAMS = (1, 4, 16)
DEFAULT_PROMPT, DEFAULT_TOKENS, DEFAULT_ROUNDS = 64, 64, 3
WARM_UP_TOKENS = 4
EXCLUDED_BIAS = -100.0  # a bias
WORDS = (
    "the river was wide and slow that year so they went along its bank until night "
    "fell over hills of which nobody knew a name or had ever drawn any map"
)


@dataclass(frozen=True)
class StreamLevel:
    """Medians over the rounds of one server at one number of streams."""

    streams: int
    tokens_per_second: float
    first_token_s: float  # median over the streams
    last_first_token_s: float  # the slowest stream


@dataclass(frozen=True)
class ServerResult:
    """Results of one server; `failure` is the reason if it was not measured."""

    name: str
    levels: tuple[StreamLevel, ...] = ()
    failure: str | None = None


@dataclass(frozen=True)
class ServeRatio:
    """Our result divided by the peer's; above 1 ours is faster."""

    streams: int
    throughput: float
    first_token: float


@dataclass(frozen=True)
class ServeBench:
    """Results of both servers, ours first."""

    model: str
    machine: str
    load_average: float
    dtype: str
    prompt_tokens: int
    tokens: int
    rounds: int
    sides: tuple[ServerResult, ...]

    @property
    def ratios(self) -> tuple[ServeRatio, ...]:
        if len(self.sides) == 1 or self.sides[1].failure:
            return ()
        return tuple(
            ServeRatio(
                ours.streams,
                ours.tokens_per_second / theirs.tokens_per_second,
                theirs.first_token_s / ours.first_token_s,
            )
            for ours, theirs in zip(
                self.sides[0].levels, self.sides[1].levels, strict=True
            )
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratios": [asdict(ratio) for ratio in self.ratios]}


def bench_serve(
    model: Path,
    *,
    against: str | None = None,
    dtype: str | None = None,
    streams: Sequence[int] = DEFAULT_STREAMS,
    prompt_tokens: int = DEFAULT_PROMPT,
    tokens: int = DEFAULT_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    progress: ReportProgress = ignore_progress,
) -> ServeBench:
    """Measure our server on the model in a folder, and mlx-lm's beside it.

    If memory allows, both run at once and take turns. Raises GptOssError if ours cannot
    be measured; a failure of the peer is recorded in the result.
    """
    if against not in (None, MLX_LM):
        raise GptOssError(f"cannot compare with `{against}`: only `{MLX_LM}` is known")
    checkpoint = open_checkpoint(model)
    folder = checkpoint.folder.absolute()
    tokenizer = Tokenizer.open(folder)
    compute = dtype or default_dtype()
    load = CompletionLoad(
        tokenizer,
        list(stop_reasons(tokenizer, checkpoint.config.eos_token_ids)),
        streams=tuple(streams or DEFAULT_STREAMS),
        prompt_tokens=prompt_tokens,
        tokens=tokens,
    )
    starts: dict[str, StartServer] = {NAME: lambda: start_own(folder, compute)}
    if against is not None:
        starts[against] = lambda: start_peer(folder, compute)
    weights = sum(checkpoint.loaded_bytes_by_part(DTYPES[compute].size).values())
    together = 2 * weights < device_budget().total * SHARE_OF_MEMORY
    load_average = os.getloadavg()[0]
    sides = _measure(starts, load, rounds, together=together, progress=progress)
    if sides[0].failure:
        raise EngineFailure(sides[0].failure)
    return ServeBench(
        str(model),
        describe_machine(),
        load_average,
        compute,
        prompt_tokens,
        tokens,
        rounds,
        tuple(sides),
    )


@dataclass(frozen=True)
class CompletionLoad:
    """The requests of a round: the same for every server."""

    tokenizer: Tokenizer
    ends: Sequence[int]
    streams: tuple[int, ...]
    prompt_tokens: int
    tokens: int

    def bodies(self, streams: int, seed: int) -> list[dict[str, Any]]:
        """Build requests whose prompts share no prefix."""
        rng = random.Random(f"{streams} {seed}")
        return [
            {
                "prompt": self._prompt(rng),
                "max_tokens": self.tokens,
                "temperature": 0,
                "logit_bias": dict.fromkeys(map(str, self.ends), EXCLUDED_BIAS),
            }
            for _ in range(streams)
        ]

    def _prompt(self, rng: random.Random) -> str:
        """Return words of at least `prompt_tokens` tokens, and few more."""
        words = [f"{rng.randrange(10**6)}"]
        while len(self.tokenizer.encode(" ".join(words))) < self.prompt_tokens:
            words.append(rng.choice(WORDS.split()))
        return " ".join(words)


StartServer = Callable[[], Any]  # a context manager that yields a ServerAddress


@contextmanager
def start_own(folder: Path, dtype: str) -> Iterator[ServerAddress]:
    with OurServer(folder, dtype) as server:
        yield server.address


@contextmanager
def start_peer(folder: Path, dtype: str) -> Iterator[ServerAddress]:
    with StockServer(folder, dtype) as server:
        yield server.address


def _measure(
    starts: dict[str, StartServer],
    load: CompletionLoad,
    rounds: int,
    *,
    together: bool,
    progress: ReportProgress,
) -> list[ServerResult]:
    """Measure the servers in turns, or one after the other if memory is short."""
    groups = [list(starts)] if together else [[name] for name in starts]
    found: dict[str, ServerResult] = {}
    for group in groups:
        with ExitStack() as stack:
            found |= _rounds(
                {name: starts[name] for name in group}, load, rounds, stack, progress
            )
    return [found[name] for name in starts]


def _rounds(
    starts: dict[str, StartServer],
    load: CompletionLoad,
    rounds: int,
    stack: ExitStack,
    progress: ReportProgress,
) -> dict[str, ServerResult]:
    addresses: dict[str, ServerAddress] = {}
    found = {name: ServerResult(name) for name in starts}
    timed: dict[tuple[str, int], list[StreamLevel]] = {}
    warm_up = replace(load, tokens=WARM_UP_TOKENS)

    def attempt(name: str, work: Callable[[], None]) -> None:
        """Run `work`; drop a server that fails."""
        try:
            work()
        except EngineFailure as error:
            found[name] = ServerResult(name, failure=str(error))
            addresses.pop(name, None)

    def start(name: str) -> None:
        progress(f"starting {name}")
        addresses[name] = stack.enter_context(starts[name]())
        time_concurrent_streams(addresses[name], warm_up.bodies(max(load.streams), -1))

    def time(name: str, streams: int, n: int) -> None:
        progress(f"round {n + 1}: {name}, {streams} streams")
        answers = time_concurrent_streams(addresses[name], load.bodies(streams, n))
        timed.setdefault((name, streams), []).append(
            summarize_round(answers, load.tokens)
        )

    for name in starts:
        attempt(name, lambda name=name: start(name))
    for n in range(rounds):
        for streams in load.streams:
            # The order alternates between rounds.
            for name in list(addresses)[:: 1 if n % 2 == 0 else -1]:
                attempt(name, lambda a=name, b=streams, c=n: time(a, b, c))
    for name in addresses:
        levels = [take_medians(timed[name, streams]) for streams in load.streams]
        found[name] = ServerResult(name, tuple(levels))
    return found


def summarize_round(answers: Sequence[StreamTiming], tokens: int) -> StreamLevel:
    """Summarize one round. Raises EngineFailure if a completion is too short."""
    short = [x.completion_tokens for x in answers if x.completion_tokens != tokens]
    if short:
        raise EngineFailure(
            f"an answer has {short[0]} tokens and not {tokens}: nothing to compare"
        )
    seconds = max(x.ended for x in answers) - min(x.asked for x in answers)
    firsts = [x.first - x.asked for x in answers]
    return StreamLevel(
        len(answers), len(answers) * tokens / seconds, median(firsts), max(firsts)
    )


def take_medians(levels: Sequence[StreamLevel]) -> StreamLevel:
    """Return the median of each figure over the rounds."""
    return StreamLevel(
        levels[0].streams,
        median(x.tokens_per_second for x in levels),
        median(x.first_token_s for x in levels),
        median(x.last_first_token_s for x in levels),
    )
