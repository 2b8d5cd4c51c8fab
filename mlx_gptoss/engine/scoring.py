"""Score given continuations of a prompt: the log-probability of each of their tokens.

    scores = await score_continuations(runtime, ids, [[417], [285, 7]])
    sum(scores[1])                      # log p(285 | ids) + log p(7 | ids, 285)

They are decoded like answers, but for a guide that allows only the given token: in a
batch with other requests, and the prompt is read once, or found in the prompt cache.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.rows import Row
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams


class ForcedTokens:
    """A guide that allows the given tokens, one after another."""

    needs_last_token = False
    pending_mask: Future[object] | None = None
    finish_reason: str | None = None
    finish_details: tuple[str, ...] = ()

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._next = 0

    def mask(self, size: int) -> np.ndarray:
        allowed = np.zeros(size, dtype=bool)
        allowed[self._tokens[min(self._next, len(self._tokens) - 1)]] = True
        return allowed

    def advance(self, state: Row | None) -> None:
        self._next += 1

    def accept_token(self, token: int) -> bool:
        return False


async def score_continuations(
    runtime: Runtime,
    ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    *,
    adapter: str | None = None,
) -> list[list[float]]:
    """Return the log-probabilities of the tokens of each continuation, none empty.

    They are natural logarithms, under the model's unmodified logits. Raises BusyError
    if the queue is full, and what `Runtime.submit` raises.
    """
    loop, group = asyncio.get_running_loop(), object()
    running, ended = [], list[asyncio.Future[list[float]]]()
    try:
        for tokens in continuations:
            found, future = list[float](), loop.create_future()
            ended.append(future)
            running.append(
                await asyncio.to_thread(
                    runtime.submit,
                    ids,
                    SamplingParams(max_tokens=len(tokens), temperature=0),
                    guide=ForcedTokens(tokens),
                    stop_tokens={},
                    on_step=_collector(found),
                    on_end=_ender(loop, future, found),
                    shared=True,
                    group=group,
                    adapter=adapter,
                )
            )
        return list(await asyncio.gather(*ended))
    finally:
        for request in running:
            request.cancel()
        for future in ended:
            future.cancel()


def _collector(found: list[float]):
    def collect(step: Step) -> None:
        found.append(step.logprob)

    return collect


def _ender(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[list[float]]",
    found: list[float],
):
    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(found)
        else:
            future.set_exception(error)

    def end(stats: Statistics | None, error: BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, error)

    return end
