"""Measure how much of a conversation is prefilled again at each turn.

All sides get the prompts of one script (`turn_script`). Ours also generates the
scripted replies, token by token through `Runtime.generate`, as a Chat would. mlx-lm's
server generates one token: it could not reuse its reply in the next prompt. Ours is
measured twice: back to back, and with enough idle time after each answer to prefill
the history. If memory allows, all sides run each request before the next one, so that
a busy machine slows all alike. The first token is timed from the call; for mlx-lm that
includes HTTP on the loopback.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, median_low
from typing import Any

import mlx.core as mx

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.decode import SHARE_OF_MEMORY
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, dtype_name
from mlx_gptoss.diagnostics.bench.restart import Restart, bench_restart
from mlx_gptoss.diagnostics.bench.stock_client import StockServer
from mlx_gptoss.diagnostics.bench.turn_script import (
    ConversationScript,
    Lengths,
    ScriptedRequest,
)
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.interfaces import LanguageModel
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import load_planned, plan_checkpoint
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.messages import user
from mlx_gptoss.memory import device_budget, require_fit

DEFAULT_TURNS = 10
FORCED_LOGIT = 1e4  # larger than any real logit
GREEDY = SamplingParams(temperature=0)
PEER = MLX_LM
FIRST_TURN = "1"

MeasureRequest = Callable[[ScriptedRequest], "RequestTiming"]
OpenSide = Callable[[], AbstractContextManager[MeasureRequest]]


@dataclass(frozen=True)
class RequestTiming:
    """Prompt tokens prefilled, and seconds to the first token."""

    read: int
    first_token_s: float


@dataclass(frozen=True)
class TurnResult:
    """Results of one request; `new` and `answer` are as in `ScriptedRequest`."""

    name: str
    prompt: int
    new: int
    answer: int
    back_to_back: RequestTiming
    after_idle: RequestTiming
    peer: RequestTiming | None = None


@dataclass(frozen=True)
class TurnsBench:
    """Medians over the rounds; `failure` is the reason if the peer was not measured."""

    model: str
    machine: str
    load_average: float
    dtype: str
    turns: tuple[TurnResult, ...]
    restart: Restart | None = None
    peer: str | None = None
    failure: str | None = None
    rounds: int = 1

    @property
    def first_token_ratios(self) -> tuple[float, ...]:
        """Our time to the first token divided by the peer's, back to back.

        Of each request from the second turn to the last; below 1 ours is faster.
        """
        return tuple(
            turn.back_to_back.first_token_s / turn.peer.first_token_s
            for turn in self.turns
            if turn.peer and turn.name[0].isdigit() and turn.name != FIRST_TURN
        )

    @property
    def worst_back_to_back(self) -> float:
        """The largest ratio of prefilled tokens to those of answer and new messages."""
        return max(t.back_to_back.read / (t.answer + t.new) for t in self.turns)

    @property
    def worst_after_idle(self) -> float:
        """The same ratio for new messages only, after idle time."""
        return max(t.after_idle.read / t.new for t in self.turns)

    def as_json(self) -> dict[str, Any]:
        ratios = self.first_token_ratios
        return asdict(self) | {
            "median_first_token_ratio": median(ratios) if ratios else None,
            "worst_first_token_ratio": max(ratios, default=None),
            "worst_back_to_back": self.worst_back_to_back,
            "worst_after_idle": self.worst_after_idle,
        }


def bench_turns(
    model: Path,
    options: LoadOptions,
    *,
    against: str | None = None,
    turns: int = DEFAULT_TURNS,
    lengths: Lengths | None = None,
    restart_tokens: int = 0,
    rounds: int = 1,
    progress: ReportProgress = ignore_progress,
) -> TurnsBench:
    """Measure a conversation with the model in a folder, and with mlx-lm's server.

    Every one of the `rounds` begins with empty caches. `restart_tokens` also times a
    prompt of that length, at most the context of `options`, after a restart, with
    prefill and from disk. Raises GptOssError if ours cannot be measured; a failure of
    the peer is recorded in the result.
    """
    if against not in (None, MLX_LM):
        raise GptOssError(f"cannot compare with `{against}`: only `{MLX_LM}` is known")
    checkpoint = open_checkpoint(model, strict=options.strict)
    tokenizer = Tokenizer.open(checkpoint.folder)
    tokenizer.require_harmony()
    compute = options.compute_dtype
    script = ConversationScript(tokenizer, turns=turns, lengths=lengths)
    requests = list(script.requests())
    load_average = os.getloadavg()[0]

    progress("loading mlx_gptoss")
    plan = plan_checkpoint(checkpoint, options)
    require_fit(plan, checkpoint.config, str(model))
    loaded, storage = load_planned(checkpoint, plan, dtype=compute)
    own = partial(_open_own, loaded, tokenizer, options.context)
    sides: list[OpenSide] = [partial(own, idle=False), partial(own, idle=True)]
    failure = restart = None
    if against is not None:
        folder = checkpoint.folder.absolute()
        sides.append(partial(_open_peer, folder, dtype_name(compute)))
    weights = sum(checkpoint.loaded_bytes_by_part(compute.size).values())
    together = 2 * weights < device_budget().total * SHARE_OF_MEMORY
    measured: list[list[list[RequestTiming]]] = []  # by round, request and side
    with ExitStack() as stack:
        if storage is not None:
            stack.callback(storage.close)
        for n in range(rounds):
            progress(f"round {n + 1} of {rounds}")
            try:
                found = _measure(sides, requests, together=together, progress=progress)
            except EngineFailure as error:
                failure = str(error)
                sides = sides[:2]
                found = _measure(sides, requests, together=together, progress=progress)
                measured = [[timings[:2] for timings in each] for each in measured]
            measured.append(found)
        if restart_tokens:
            restart_tokens = min(restart_tokens, (options.context or sys.maxsize) - 1)
            progress(f"a restart with {restart_tokens} tokens")
            prompt = (requests[0].prompt * restart_tokens)[:restart_tokens]
            restart = bench_restart(loaded, checkpoint, compute, prompt)
    return TurnsBench(
        str(model),
        describe_machine(),
        load_average,
        dtype_name(compute),
        merge_rounds(requests, measured),
        restart,
        peer=PEER if against and failure is None else None,
        failure=failure,
        rounds=rounds,
    )


def merge_rounds(
    requests: Sequence[ScriptedRequest],
    rounds: Sequence[Sequence[Sequence[RequestTiming]]],
) -> tuple[TurnResult, ...]:
    """Return the medians of each request over the rounds, on two or three sides.

    `rounds` has the timings by round, request and side.
    """
    return tuple(
        TurnResult(
            request.name,
            len(request.prompt),
            request.new,
            request.answer,
            *(
                RequestTiming(
                    median_low(timing.read for timing in side),
                    median(timing.first_token_s for timing in side),
                )
                for side in zip(*timings, strict=True)
            ),
        )
        for request, *timings in zip(requests, *rounds, strict=True)
    )


def _measure(
    sides: list["OpenSide"],
    requests: list[ScriptedRequest],
    *,
    together: bool,
    progress: ReportProgress,
) -> list[list[RequestTiming]]:
    """Run each request on all sides, or all requests on one side after the other."""
    found: list[list[RequestTiming]] = [[] for _ in requests]
    groups = [sides] if together else [[side] for side in sides]
    for group in groups:
        with ExitStack() as stack:
            progress("starting")
            measures = [stack.enter_context(side()) for side in group]
            for request, measured in zip(requests, found, strict=True):
                progress(f"turn {request.name}")
                measured += [measure(request) for measure in measures]
    return found


class ScriptedModel:
    """A model that computes its logits, then forces the scripted reply."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._reply: Sequence[int] = ()
        self._position = 0
        self.make_cache = model.make_cache
        self.make_pool = model.make_pool
        self.hidden = model.hidden

    def set_reply(self, ids: Sequence[int]) -> None:
        self._reply, self._position = ids, 0

    def logits(
        self, hidden: mx.array, *, adapters: Sequence[int] | None = None
    ) -> mx.array:
        logits = self._model.logits(hidden, adapters=adapters)
        token = self._reply[min(self._position, len(self._reply) - 1)]
        self._position += 1
        return mx.where(mx.arange(logits.shape[-1]) == token, FORCED_LOGIT, logits)


@contextmanager
def _open_own(
    model: LanguageModel, tokenizer: Tokenizer, context: int | None, *, idle: bool
) -> Iterator[MeasureRequest]:
    """Open our side; with `idle`, prefill the known history before each request."""
    saying = ScriptedModel(model)
    cache = CacheOptions(idle=idle)
    with Runtime(saying, tokenizer=tokenizer, context=context, cache=cache) as runtime:

        def measure(request: ScriptedRequest) -> RequestTiming:
            if idle and request.before:
                ahead = runtime.prepare(request.before)
                assert ahead is not None
                ahead.result()
            saying.set_reply(request.reply)
            start = time.perf_counter()
            stream = runtime.generate(request.prompt, GREEDY, reuse=True)
            next(stream)
            seconds = time.perf_counter() - start
            for _ in stream:
                pass
            stats = stream.stats
            return RequestTiming(stats.prompt_tokens - stats.cached_tokens, seconds)

        saying.set_reply([0])  # warms up on an unrelated prompt
        list(runtime.generate([0, 0, 0], replace(GREEDY, max_tokens=2)))
        yield measure


@contextmanager
def _open_peer(folder: Path, dtype: str) -> Iterator[MeasureRequest]:
    """Open mlx-lm's server. Raises EngineFailure if it gets another prompt."""
    with StockServer(folder, dtype) as server:

        def measure(request: ScriptedRequest) -> RequestTiming:
            first = server.time_first_token(request.messages)
            if first.prompt_tokens != len(request.prompt):
                raise EngineFailure(
                    f"{PEER} read {first.prompt_tokens} tokens where the prompt "
                    f"of turn `{request.name}` has {len(request.prompt)}"
                )
            read = first.prompt_tokens - first.cached_tokens
            return RequestTiming(read, first.first_token_s)

        server.time_first_token((user("good day"),))  # loads and warms up
        yield measure
