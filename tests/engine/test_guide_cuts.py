"""Text that a guide cuts short: reasoning over its budget, and repetition."""

from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pytest

from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.loops import ALLOWED
from mlx_gptoss.harmony.constrain.tool_constraints import function_constraints
from mlx_gptoss.harmony.messages import text_tool
from tests.support.fakes import SURE, FakeModel, token_ids
from tests.support.guided import (
    ANSWER,
    GUIDES,
    NOTE,
    PROMPT,
    ROWS,
    TARGETS,
    THINK,
    TOKENIZER,
    generate_text,
    model_that_prefers,
)


def test_a_reasoning_budget_closes_the_reasoning_and_the_answer_follows() -> None:
    endless = "<|channel|>analysis<|message|>" + "Hm. " * 40

    text, stats = generate_text(
        model_that_prefers(endless, then="Yes.<|return|>"),
        Constraints(max_reasoning_tokens=10),
    )

    thought = "<|channel|>analysis<|message|>Hm. Hm. Hm<|end|><|start|>assistant"
    assert text.startswith(thought + "<|channel|>")
    assert "analysis" not in text.removeprefix(thought)
    assert stats.finish_details == ("reasoning_budget",)


def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    text, stats = generate_text(
        model_that_prefers(THINK + ANSWER), Constraints(max_reasoning_tokens=100)
    )

    assert (text, stats.finish_details) == (THINK + ANSWER, ())


def test_a_budget_of_nothing_means_no_reasoning() -> None:
    text, _ = generate_text(
        model_that_prefers(THINK + ANSWER), Constraints(max_reasoning_tokens=0), []
    )

    assert "analysis" not in text


def repeating_model(header: str, text: str) -> FakeModel:
    """A model that generates `header` and then prefers to repeat `text` forever."""
    begun, rest = token_ids(header, TOKENIZER), token_ids(text, TOKENIZER)

    def logits_of(ids: list[int]) -> np.ndarray:
        at = len(ids) - len(PROMPT)
        wish = begun[at] if at < len(begun) else rest[at % len(rest)]
        return np.where(np.arange(ROWS) == wish, SURE, np.arange(ROWS) / ROWS)

    return FakeModel(logits_of)  # pyright: ignore[reportArgumentType]


LONG = SamplingParams(temperature=0, max_tokens=2300)


def test_a_loop_in_the_reasoning_is_left_for_the_answer() -> None:
    model = repeating_model("<|channel|>analysis<|message|>", "Let me see. ")

    text, stats = generate_text(model, targets=[], params=LONG)

    assert "<|end|><|start|>assistant<|channel|>final<|message|>" in text
    assert stats.finish_details[0] == "analysis_loop"


def test_a_loop_in_the_answer_ends_the_turn() -> None:
    model = repeating_model("<|channel|>final<|message|>", "la, ")

    text, stats = generate_text(model, params=LONG)
    free, unguarded = generate_text(model, Constraints(loop_guard=False), params=LONG)

    assert (stats.finish_reason, stats.finish_details) == ("length", ("final_loop",))
    assert (unguarded.finish_reason, unguarded.finish_details) == ("length", ())
    assert free.startswith(text) and free != text


def guide_after_repeating(
    header: str, text: str, constraints: Constraints, most: int = 6000
) -> tuple[Guide, int]:
    """A guide that accepted `header`, and then `text` repeatedly until it cuts it.

    Also how many tokens of the text it accepted, which are `most` if it never does.
    """
    guide = GUIDES.create(constraints, [*TARGETS, *function_constraints([PATCH, NOTE])])
    assert guide is not None
    guide.mask(ROWS)
    for token in token_ids(header, TOKENIZER):
        guide.accept_token(token)
    count = 0
    for token in islice(cycle(token_ids(text, TOKENIZER)), most):
        guide.accept_token(token)
        count += 1
        if guide.finish_details:
            break
    return guide, count


PATCH = text_tool("patch")


OF_TEXT = AnswerFormat.json_schema({"type": "object"})


BOUND = {
    "a patch": ("commentary to=functions.patch", "-old\n+new\n", Constraints()),
    "free arguments": (
        "commentary to=functions.get_weather",
        '{"city": 1} ',
        Constraints(enforce="headers"),
    ),
    "a bound answer": ("final", "x", Constraints(response_format=OF_TEXT)),
    "arguments": ("commentary to=functions.note", "la ", Constraints()),
}


@pytest.mark.parametrize("what", BOUND)
def test_a_cycle_in_what_programs_read_ends_the_answer(what: str) -> None:
    header, text, constraints = BOUND[what]
    header = f"<|channel|>{header}<|message|>"
    begun = '{"a":"' if what in ("arguments", "a bound answer") else ""

    guide, count = guide_after_repeating(header + begun, text, constraints)

    loop = "final_loop" if what == "a bound answer" else "call_loop"
    assert (guide.finish_reason, guide.finish_details) == ("length", (loop,))
    unguarded = replace(constraints, loop_guard=False)
    free, _ = guide_after_repeating(header + begun, text, unguarded, most=count + 1)
    assert (free.finish_reason, free.finish_details) == (None, ())


def test_the_same_call_again_and_again_ends_the_answer() -> None:
    """A text of its own is short; all of them together are a cycle."""
    call = "<|channel|>commentary to=functions.patch<|message|>-x+y-z<|end|>"
    guide, _ = guide_after_repeating(
        "", call + "<|start|>assistant", Constraints(), most=200_000
    )

    assert (guide.finish_reason, guide.finish_details) == ("length", ("call_loop",))
    assert ALLOWED / 6 <= guide.call_count < ALLOWED / 6 + 60


def test_a_loop_in_the_arguments_ends_the_generation_there() -> None:
    header = "<|channel|>commentary to=functions.get_weather<|message|>"
    free = Constraints(enforce="headers")
    params = SamplingParams(temperature=0, max_tokens=ALLOWED + 2000)

    text, stats = generate_text(
        repeating_model(header, '{"city": "Oslo"} '), free, params=params
    )

    assert text.startswith(header) and "<|end|>" not in text
    assert (stats.finish_reason, stats.finish_details) == ("length", ("call_loop",))
    assert ALLOWED < stats.completion_tokens < ALLOWED + 400
