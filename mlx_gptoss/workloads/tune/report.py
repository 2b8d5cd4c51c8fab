"""Compare a model with and without the adapter of a run, on its validation documents.

    with load(record.model, adapters=[f"tuned={folder}"]) as runtime:
        report = make_report(runtime, documents, batches, adapter="tuned")

Losses are those of the learned tokens. Answers are sampled at temperature 0 without
constraints, each behind the prompt of a document's first call, or of its last turn.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.workloads.tune.batches import TrainingBatches
from mlx_gptoss.workloads.tune.call_checks import AnswerCalls, judge_calls, read_calls
from mlx_gptoss.workloads.tune.document_index import TrainingDocuments
from mlx_gptoss.workloads.tune.loss import batch_loss, learned_tokens

ONLY_ADAPTER = [1]  # the slot of an adapter that is loaded alone
NO_ADAPTER = [0]
ROOM = 2  # most tokens of an answer: so many times those of the expected one


@dataclass(frozen=True)
class LossPair:
    """Loss per learned token before and after."""

    before: float
    after: float

    def as_json(self) -> dict[str, Any]:
        """Return losses and perplexities as JSON values."""
        return {
            name: {"loss": loss, "perplexity": perplexity(loss)}
            for name, loss in asdict(self).items()
        }


@dataclass(frozen=True)
class AnswerPair:
    """One turn of a document: as expected, and as answered before and after."""

    where: str
    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class CallCounts:
    """Of `expected` answers with calls: those with valid calls, and with the same."""

    expected: int
    valid_before: int
    valid_after: int
    same_before: int
    same_after: int


@dataclass(frozen=True)
class TuneReport:
    """Losses, calls, and answers side by side."""

    documents: int
    learned_tokens: int
    loss: LossPair
    calls: CallCounts
    answers: tuple[AnswerPair, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "documents": self.documents,
            "learned_tokens": self.learned_tokens,
            **self.loss.as_json(),
            "calls": asdict(self.calls),
            "answers": [asdict(answer) for answer in self.answers],
        }


def make_report(
    runtime: Runtime,
    documents: TrainingDocuments,
    batches: TrainingBatches,
    *,
    adapter: str,
    answers: int = 20,
    max_tokens: int = 512,
) -> TuneReport:
    """Measure both models; `answers` documents are answered, spread evenly.

    `adapter` must be the only one that is loaded.
    """
    loss = LossPair(
        *(_loss(runtime, batches, slot) for slot in (NO_ADAPTER, ONLY_ADAPTER))
    )
    pairs, judged = [], []
    for number in spread(len(documents), answers):
        document = documents[number]
        turns = learned_turns(document.ids, document.learned)
        prompt, expected = choose_turn(runtime.tokenizer, turns)
        params = SamplingParams(
            max_tokens=min(max_tokens, ROOM * len(expected) + 1), temperature=0
        )
        found = [
            [step.token for step in runtime.generate(prompt, params, adapter=name)]
            for name in (None, adapter)
        ]
        texts = [runtime.tokenizer.decode(ids) for ids in (prompt, expected, *found)]
        pairs.append(AnswerPair(document.where, *texts))
        judged.append(_judge(runtime.tokenizer, documents, number, expected, found))
    return TuneReport(
        documents=len(documents),
        learned_tokens=int(documents.learned.sum(dtype=np.int64)),
        loss=loss,
        calls=_count([each for each in judged if each is not None]),
        answers=tuple(pairs),
    )


def perplexity(loss: float) -> float:
    """Return e to the loss, infinite where a float ends."""
    return math.exp(loss) if loss < math.log(np.finfo(float).max) else math.inf


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` numbers below `count`, evenly spread."""
    chosen = min(count, most)
    return [number * count // chosen for number in range(chosen)]


def learned_turns(
    ids: np.ndarray, learned: np.ndarray
) -> list[tuple[list[int], list[int]]]:
    """Return what is learned of a document, run by run: the prompt, and the answer."""
    places = np.flatnonzero(learned)
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [(ids[: run[0]].tolist(), ids[run].tolist()) for run in runs]


def choose_turn(
    tokenizer: Tokenizer, turns: Sequence[tuple[list[int], list[int]]]
) -> tuple[list[int], list[int]]:
    """Return the first turn with a call, else the last turn."""
    calling = (turn for turn in turns if read_calls(tokenizer, turn[1]).calls)
    return next(calling, turns[-1])


def _loss(runtime: Runtime, batches: TrainingBatches, slot: Sequence[int]) -> float:
    def one(packed: Any) -> float:
        return float(batch_loss(runtime.model, packed, adapters=slot).item())  # pyright: ignore

    total = learned = 0.0
    for index in range(batches.count()):
        packed = batches.batch(0, index).packed()
        total += runtime.run(one, packed)
        learned += learned_tokens(packed)
    return total / learned


def _judge(
    tokenizer: Tokenizer,
    documents: TrainingDocuments,
    number: int,
    expected: list[int],
    found: Sequence[list[int]],
) -> tuple[AnswerCalls, AnswerCalls] | None:
    """Judge the calls of two answers; None if none is expected."""
    wanted = read_calls(tokenizer, expected)
    if not wanted.calls:
        return None
    tools = documents.tools(number)
    before, after = (judge_calls(tokenizer, ids, tools, wanted) for ids in found)
    return before, after


def _count(judged: Sequence[tuple[AnswerCalls, AnswerCalls]]) -> CallCounts:
    return CallCounts(
        expected=len(judged),
        valid_before=sum(before.valid for before, _ in judged),
        valid_after=sum(after.valid for _, after in judged),
        same_before=sum(before.same for before, _ in judged),
        same_after=sum(after.same for _, after in judged),
    )
