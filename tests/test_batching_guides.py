"""Guided answers in a batch: each keeps its grammar, beside others that are free."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mlx_gptoss import AnswerFormat, Constraints
from mlx_gptoss.errors import SchemaError
from mlx_gptoss.opening import load
from mlx_gptoss.prompt_cache import CacheOptions
from mlx_gptoss.runtime import Runtime
from mlx_gptoss.sampling import SamplingParams
from mlx_gptoss.steps import Step
from tests.asking import Asked
from tests.fakes import token_ids

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
        list(runtime.generate(ids, GREEDY, guide=runtime.guides.guide(how)))
        for ids, how in zip(prompts, WAYS, strict=True)
    ]

    release = threading.Event()
    runtime._owner.post(release.wait)
    asked = [
        Asked(runtime, ids, GREEDY, guide=runtime.guides.guide(how))
        for ids, how in zip(prompts, WAYS, strict=True)
    ]
    release.set()

    for one, expected in zip(asked, alone, strict=True):
        same_up_to_a_tie(one, expected)
    assert max(runtime.batch_statistics.batch_sizes) == len(WAYS)


def same_up_to_a_tie(asked: Asked, alone: list[Step]) -> None:
    for step, other in zip(asked.answer(), alone, strict=False):
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

        waits, pending, finish_reason, details = False, None, None, ()
        count = 0

        def masked(self, logits: object) -> object:
            return logits

        def drew(self, token: object) -> None:
            self.count += 1
            if self.count == 3:
                raise SchemaError("a grammar leaves no token to go on with")

        def read(self, token: int) -> bool:
            return False

    ids = prompt(runtime, 5)
    alone = list(runtime.generate(ids, GREEDY))
    failing_guide: Any = Failing()
    failing = Asked(runtime, ids, GREEDY, guide=failing_guide)
    other = Asked(runtime, ids, GREEDY)

    with pytest.raises(SchemaError, match="leaves no token"):
        failing.answer()
    same_up_to_a_tie(other, alone)
