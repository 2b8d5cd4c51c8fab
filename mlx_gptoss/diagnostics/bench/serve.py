"""Throughput and latency of our server with concurrent streams, beside other servers.

Ours and mlx-lm's serve the same folder in their own processes, with the same dtype and
BLAS; a server at a URL runs already, whatever it is. All take turns answering the same
prompts from the same client, greedily. Raw completions of ours and mlx-lm's have a
fixed number of tokens (stop tokens are biased away); a server at a URL may stop
earlier, and rates count the tokens it says.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.decode import SHARE_OF_MEMORY
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, dtype_name
from mlx_gptoss.diagnostics.bench.our_server import NAME, OurServer
from mlx_gptoss.diagnostics.bench.serve_load import ServeLoad, run_round
from mlx_gptoss.diagnostics.bench.serve_results import (
    ServeBench,
    ServerResult,
    StreamLevel,
    summarize_round,
    take_medians,
)
from mlx_gptoss.diagnostics.bench.stock_client import StockServer
from mlx_gptoss.diagnostics.bench.streams import ServerAddress, find_model
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.outputs import stop_reasons
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import device_budget

DEFAULT_STREAMS = (1, 4, 16)
DEFAULT_PROMPT, DEFAULT_TOKENS, DEFAULT_ROUNDS = 64, 64, 3
WARM_UP_TOKENS = 4
RAW_PROMPTS, CHAT_PROMPTS = "raw", "chat"
STALL_TIMEOUT_S = 600.0  # without a byte from a server at a URL
UNCOUNTED = "says no usage: each event is counted as a token"
OVERTAKEN = "some short streams ended before the long prompts were read"

StartServer = Callable[[], AbstractContextManager[ServerAddress]]


@dataclass
class Side:
    """One server while it is measured; only a `strict` one has to say all tokens."""

    name: str
    start: StartServer
    strict: bool = True
    address: ServerAddress | None = None
    failure: str | None = None
    notes: set[str] = field(default_factory=set)
    levels: dict[int, list[StreamLevel]] = field(default_factory=dict)

    def run(self, load: ServeLoad, streams: int, seed: int) -> None:
        """Run one round."""
        assert self.address is not None
        found = run_round(self.address, load, streams, seed, strict=self.strict)
        fixed = self.strict and not load.chat
        level = summarize_round(found, load.tokens if fixed else None)
        self.levels.setdefault(streams, []).append(level)
        answers = [answer for talk in found.conversations for answer in talk]
        if not all(answer.counted for answer in answers):
            self.notes.add(UNCOUNTED)
        if found.beside:
            read = max(answer.first for answer in found.beside)
            if min(answer.ended for answer in answers) < read:
                self.notes.add(OVERTAKEN)

    def result(self) -> ServerResult:
        """Return the medians, or the failure."""
        if self.failure is not None:
            return ServerResult(self.name, failure=self.failure)
        return ServerResult(
            self.name,
            tuple(map(take_medians, self.levels.values())),
            model=self.address.model if self.address else None,
            notes=tuple(sorted(self.notes)),
        )


def bench_serve(
    model: Path,
    options: LoadOptions,
    *,
    against: str | Sequence[str] | None = None,
    against_model: str | None = None,
    against_key: str | None = None,
    streams: Sequence[int] = DEFAULT_STREAMS,
    prompt_tokens: int = DEFAULT_PROMPT,
    tokens: int = DEFAULT_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    prompts: str = RAW_PROMPTS,
    turns: int = 1,
    think_time: float = 0.0,
    tail: int = 0,
    prefilled: bool = False,
    beside: int = 0,
    beside_tokens: int = 0,
    fairness: float | None = None,
    stall_timeout: float = STALL_TIMEOUT_S,
    progress: ReportProgress = ignore_progress,
) -> ServeBench:
    """Measure our server on the model in a folder, and other servers beside it.

    against: "mlx-lm", started on the same folder if memory allows both at once, else
        one after the other; or the URL of a running server. Several are possible.
    against_model, against_key: the model's name and the API key for servers at a URL.
    streams: numbers of conversations at once.
    prompts: "raw" or "chat".
    turns, think_time: requests of a conversation, and seconds between them.
    tail, prefilled, beside, beside_tokens: see `ServeLoad`.
    fairness: of our server; None is its default.
    stall_timeout: seconds without a byte after which a server at a URL has failed.

    Raises GptOssError if ours cannot be measured; a failure of another is in the
    result.
    """
    peers = [against] if isinstance(against, str) else list(against or ())
    _check(peers, prompts=prompts, tail=tail, prompt_tokens=prompt_tokens)
    checkpoint = open_checkpoint(model, strict=options.strict)
    folder = checkpoint.folder.absolute()
    tokenizer = Tokenizer.open(folder)
    dtype = dtype_name(options.compute_dtype)
    options = replace(options, dtype=dtype)
    load = ServeLoad(
        tokenizer,
        list(stop_reasons(tokenizer, checkpoint.config.eos_token_ids)),
        prompt_tokens,
        tokens,
        chat=prompts == CHAT_PROMPTS,
        turns=turns,
        think_s=think_time,
        tail=tail,
        prefilled=prefilled,
        beside=beside,
        beside_tokens=beside_tokens,
    )
    sides = [Side(NAME, lambda: start_own(folder, options, fairness))]
    for peer in peers:
        if peer == MLX_LM:
            sides.append(Side(peer, lambda: start_peer(folder, dtype)))
        else:
            address = ServerAddress(
                peer, peer, against_key, against_model, timeout=stall_timeout
            )
            sides.append(Side(peer, lambda at=address: find_server(at), strict=False))
    weights = sum(checkpoint.loaded_bytes_by_part(options.compute_dtype.size).values())
    loaded = 1 + peers.count(MLX_LM)
    together = loaded * weights < device_budget().total * SHARE_OF_MEMORY
    load_average = os.getloadavg()[0]
    # A server at a URL has its memory already.
    for group in [sides] if together else [[side] for side in sides]:
        _measure(group, load, tuple(streams or DEFAULT_STREAMS), rounds, progress)
    if sides[0].failure:
        raise EngineFailure(sides[0].failure)
    return ServeBench(
        str(model),
        describe_machine(),
        load_average,
        dtype,
        prompt_tokens,
        tokens,
        rounds,
        tuple(side.result() for side in sides),
        prompts,
        turns,
    )


@contextmanager
def start_own(
    folder: Path, options: LoadOptions, fairness: float | None
) -> Iterator[ServerAddress]:
    more = () if fairness is None else ("--fairness", str(fairness))
    with OurServer(folder, options, more) as server:
        yield server.address


@contextmanager
def start_peer(folder: Path, dtype: str) -> Iterator[ServerAddress]:
    with StockServer(folder, dtype) as server:
        yield server.address


@contextmanager
def find_server(address: ServerAddress) -> Iterator[ServerAddress]:
    """Find the model of a running server. Raises EngineFailure."""
    if address.model is None:
        address = replace(address, model=find_model(address))
    yield address


def _measure(
    sides: Sequence[Side],
    load: ServeLoad,
    streams: tuple[int, ...],
    rounds: int,
    progress: ReportProgress,
) -> None:
    """Measure servers in turns; drop one that fails."""
    warm_up = replace(load, tokens=WARM_UP_TOKENS, turns=1, beside=0, prefilled=False)
    with ExitStack() as stack:

        def start(side: Side) -> None:
            progress(f"starting {side.name}")
            side.address = stack.enter_context(side.start())
            side.run(warm_up, max(streams), -1)
            side.levels.clear()

        def attempt(side: Side, work: Callable[[], None]) -> None:
            try:
                work()
            except EngineFailure as error:
                side.failure = str(error)

        for side in sides:
            attempt(side, lambda side=side: start(side))
        for n in range(rounds):
            for level in streams:
                # The order alternates between rounds.
                for side in sides if n % 2 == 0 else reversed(sides):
                    if side.failure is None:
                        progress(f"round {n + 1}: {side.name}, {level} streams")
                        attempt(side, lambda a=side, b=level, c=n: a.run(load, b, c))


def _check(peers: list[str], *, prompts: str, tail: int, prompt_tokens: int) -> None:
    for peer in peers:
        parts = urlsplit(peer)
        if peer != MLX_LM and not (
            parts.scheme in ("http", "https") and parts.hostname
        ):
            raise GptOssError(
                f"cannot compare with `{peer}`: give `{MLX_LM}`, or the URL of a "
                "running server such as http://127.0.0.1:1234/v1"
            )
    if prompts not in (RAW_PROMPTS, CHAT_PROMPTS):
        raise GptOssError(f"prompts are `{RAW_PROMPTS}` or `{CHAT_PROMPTS}`")
    if tail >= prompt_tokens:
        raise GptOssError(
            f"a tail of {tail} tokens leaves nothing of a prompt of {prompt_tokens}: "
            "choose a shorter one"
        )
