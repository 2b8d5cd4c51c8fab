"""Guided answers in a batch: each keeps its grammar, beside others that are free."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from mlx_gptoss import AnswerFormat, Constraints
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.outputs import UNENFORCED, Step
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.schema.compile import WHOLE_SCHEMA
from mlx_gptoss.harmony.constrain.worker import WorkerGrammars, client
from mlx_gptoss.harmony.constrain.worker.supervisor import Supervisor
from tests.support.fakes import token_ids
from tests.support.submit import Submission

GREEDY = SamplingParams(temperature=0, max_tokens=60, top_logprobs=2)
TIE = 1e-3  # of logprobs: between two tokens so close either is right
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}
WAYS = (
    Constraints(response_format=AnswerFormat.json_schema(COLOUR)),
    Constraints(max_reasoning_tokens=5),
    Constraints(response_format=AnswerFormat.json_schema(NUMBERS)),
    Constraints(enforce="off"),
    Constraints(),
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with load("demo", dtype="float32", cache=CacheOptions(idle=False)) as runtime:
        yield runtime


def prompt(runtime: Runtime, number: int) -> list[int]:
    text = f"<|start|>user<|message|>What is {number} + 12?<|end|><|start|>assistant"
    return token_ids(text, runtime.tokenizer)


def test_every_guide_keeps_to_its_own_answer(runtime: Runtime) -> None:
    prompts = [prompt(runtime, 10 + 7 * n) for n in range(len(WAYS))]
    alone = [
        list(runtime.generate(ids, GREEDY, guide=runtime.guides.create(how)))
        for ids, how in zip(prompts, WAYS, strict=True)
    ]

    release = threading.Event()
    runtime._thread.post(release.wait)
    asked = [
        Submission(runtime, ids, GREEDY, guide=runtime.guides.create(how))
        for ids, how in zip(prompts, WAYS, strict=True)
    ]
    release.set()

    for one, expected in zip(asked, alone, strict=True):
        same_up_to_a_tie(one, expected)
    assert max(runtime.batch_statistics.batch_sizes) == len(WAYS)


def same_up_to_a_tie(asked: Submission, alone: list[Step]) -> None:
    for step, other in zip(asked.wait(), alone, strict=False):
        if step.token != other.token:
            (_, best), (_, next_best) = other.top_logprobs
            assert best - next_best < TIE, f"{step} and not {other}"
            return
        assert step.logprob == pytest.approx(other.logprob, abs=5e-4)
        assert step.finish_reason == other.finish_reason
    assert len(asked.steps) == len(alone)


def test_a_guide_that_fails_ends_its_answer_only(runtime: Runtime) -> None:
    class Failing:
        """Free for three tokens; then a grammar that leaves none."""

        needs_last_token, pending_mask = False, None
        finish_reason, finish_details = None, ()
        count = 0

        def mask(self, size: int) -> None: ...

        def advance(self, state: object) -> None:
            self.count += 1
            if self.count == 3:
                raise SchemaError("a grammar allows no next token")

        def accept_token(self, token: int) -> bool:
            return False

    ids = prompt(runtime, 5)
    alone = list(runtime.generate(ids, GREEDY))
    failing_guide: Any = Failing()
    failing = Submission(runtime, ids, GREEDY, guide=failing_guide)
    other = Submission(runtime, ids, GREEDY)

    with pytest.raises(SchemaError, match="allows no next token"):
        failing.wait()
    same_up_to_a_tie(other, alone)


class Slow:
    """Free; but for the third token it waits for something."""

    needs_last_token, finish_reason, finish_details = True, None, ()

    def __init__(self) -> None:
        self.count = 0
        self.found: Future[object] = Future()

    @property
    def pending_mask(self) -> "Future[object] | None":
        return self.found if self.count == 2 else None

    def mask(self, size: int) -> None:
        assert self.pending_mask is None or self.found.done(), (
            "the owner would have waited"
        )

    def advance(self, state: object) -> None: ...

    def accept_token(self, token: int) -> bool:
        self.count += 1
        return True


def test_an_answer_that_waits_for_its_mask_holds_up_no_other(runtime: Runtime) -> None:
    ids = prompt(runtime, 5)
    alone = list(runtime.generate(ids, GREEDY))
    guide: Any = Slow()
    waiting = Submission(runtime, ids, GREEDY, guide=guide)
    other = Submission(runtime, ids, GREEDY)

    same_up_to_a_tie(other, alone)
    assert len(waiting.steps) == 2 and not waiting.ended.is_set()
    guide.found.set_result(None)
    same_up_to_a_tie(waiting, alone)


def test_an_answer_may_be_paused_while_it_waits_for_its_mask(runtime: Runtime) -> None:
    params = SamplingParams(temperature=1, seed=5, max_tokens=30)
    ids = prompt(runtime, 5)
    alone = [step.token for step in runtime.generate(ids, params)]
    guide: Any = Slow()
    waiting = Submission(runtime, ids, params, guide=guide)
    while len(waiting.steps) < 2:
        runtime.run(lambda: None)
    engine = runtime._scheduler
    assert engine is not None
    runtime.run(engine._lifecycle.preempt, waiting.request._sequence)
    guide.found.set_result(None)
    engine.wake()

    waiting.wait()
    assert waiting.tokens == alone


def test_nothing_turns_while_all_wait_for_their_masks(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    guides: list[Any] = [Slow(), Slow()]
    waiting = [
        Submission(runtime, prompt(runtime, 5), GREEDY, guide=one) for one in guides
    ]
    while any(len(one.steps) < 2 for one in waiting):
        runtime.run(lambda: None)
    engine, rounds = runtime._scheduler, []
    round_of = engine._run_iteration
    monkeypatch.setattr(
        engine, "_run_iteration", lambda: rounds.append(1) or round_of()
    )
    for _ in range(50):  # the owner is free for other work
        runtime.run(lambda: None)

    assert len(rounds) < 9
    waiting[0].request.cancel()
    assert len(waiting[0].wait()) == 2
    guides[1].found.set_result(None)
    waiting[1].wait()


LONG = {"type": "array", "items": {"const": "aye"}, "minItems": 9, "maxItems": 9}


@pytest.mark.parametrize("strict", (False, True))
def test_a_grammar_that_hangs_its_process_ends_or_frees_its_answer_only(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    supervisor = Supervisor()
    own = WorkerGrammars(runtime.tokenizer, supervisor)
    monkeypatch.setattr(runtime.guides, "grammars", own)
    bound = AnswerFormat.json_schema(LONG, strict=strict)
    how = Constraints(response_format=bound, max_reasoning_tokens=0)
    lost_guide, other_guide = (runtime.guides.create(how) for _ in range(2))
    assert lost_guide is not None

    hung: list[object] = []

    def hang(step: Step) -> None:
        if lost_guide.state.kind == "grammar" and not hung and supervisor.pid:
            monkeypatch.setattr(client, "MASK_SECONDS", 0.2)
            os.kill(supervisor.pid, signal.SIGSTOP)
            lost_guide._matcher = own.matcher(lost_guide._compiled[None])
            hung.append(lost_guide._matcher.start_mask())
            monkeypatch.setattr(client, "MASK_SECONDS", 60)

    lost = Submission(
        runtime, prompt(runtime, 5), GREEDY, on_step=hang, guide=lost_guide
    )
    other = Submission(runtime, prompt(runtime, 6), GREEDY, guide=other_guide)

    if strict:
        with pytest.raises(SchemaError, match="can no longer be enforced"):
            lost.wait()
    else:
        lost.wait()
        [(stats, _)] = lost.ends
        assert stats is not None and UNENFORCED in stats.finish_details
        assert lost_guide.unenforced == {None: (WHOLE_SCHEMA,)}
    said = runtime.tokenizer.decode(other.tokens)
    assert said.replace(" ", "").count('"aye"') >= 3
    own.close()
