"""A guide on a scripted model: what is kept out, when it waits, what it closes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.generate import generate
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError, SchemaError
from mlx_gptoss.harmony.built_in_tools import BROWSER, PYTHON
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.loops import ALLOWED
from mlx_gptoss.harmony.constrain.tool_constraints import (
    ToolConstraint,
    allowed_turn,
    built_in_constraints,
    function_constraints,
)
from mlx_gptoss.harmony.messages import ToolDescription, text_tool
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.fakes import SURE, FakeModel, byte_tokenizer, token_ids
from tests.support.strict_harmony import faults

TOKENIZER = byte_tokenizer()
GUIDES = GuideFactory(TOKENIZER)
ROWS = 300
PROMPT = [1, 2, 3]
GREEDY = SamplingParams(temperature=0, max_tokens=400)
WEATHER = ToolDescription(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)
TIME = ToolDescription("get_time")
TARGETS = function_constraints([WEATHER, TIME])
NOTE = ToolDescription(
    "note", parameters={"type": "object", "additionalProperties": True}
)
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
ANSWER = "<|channel|>final<|message|>Yes.<|return|>"
CALL = (
    '<|channel|>commentary to=functions.get_weather<|message|>{"city":"Oslo"}<|call|>'
)


def wishing(text: str, then: str = "x") -> FakeModel:
    """A model that wants to say `text` and then `then` again and again.

    A wish that is not granted stays; meanwhile it says the highest id that it may,
    which in content is what ends it.
    """
    script = token_ids(text, TOKENIZER)
    rest = token_ids(then, TOKENIZER)

    def logits_of(ids: list[int]) -> list[float]:
        said, at = ids[len(PROMPT) :], 0
        for token in said:
            at += at < len(script) and token == script[at]
        past = len(said) - len(script)
        wish = script[at] if at < len(script) else rest[past % len(rest)]
        return [SURE if token == wish else token / ROWS for token in range(ROWS)]

    return FakeModel(logits_of)


def said(
    model: FakeModel,
    constraints: Constraints | None = None,
    targets: Sequence[ToolConstraint] = TARGETS,
    params: SamplingParams = GREEDY,
) -> tuple[str, Statistics]:
    """What the model says under constraints, as text, and the statistics."""
    guide = GUIDES.create(constraints or Constraints(), targets)
    stream = generate(model, PROMPT, params, guide=guide)
    text = TOKENIZER.decode([step.token for step in stream])
    return text, stream.stats


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ANSWER, "stop"),
        (THINK + ANSWER, "stop"),
        (THINK + CALL, "tool_calls"),
        (THINK + CALL.replace("<|call|>", "<|end|><|start|>assistant") + CALL, None),
        (
            "<|channel|>commentary<|message|>First.<|end|><|start|>assistant" + CALL,
            None,
        ),
    ],
)
def test_what_is_well_formed_is_said_as_it_was_meant(
    text: str, reason: str | None
) -> None:
    found, stats = said(wishing(text))

    assert found == text
    assert stats.finish_reason == (reason or "tool_calls")
    assert stats.finish_details == ()


@pytest.mark.parametrize(
    "wish",
    [
        "<|channel|><|channel|>final<|message|>Yes.<|return|>",
        "<|channel|>final<|message|>Y<|start|>es.<|return|>",
        "<|channel|>analysis<|message|>Hm.<|return|><|end|><|start|>assistant" + ANSWER,
        "<|channel|>fin<|message|>al<|return|>",
        "<|channel|>commentary to=functions.get_whether<|message|>{}<|call|>",
        "<|channel|>analysis to=functions.get_weather code<|message|>{}<|call|>",
        "We must refuse.<|end|><|start|>assistant" + ANSWER,
        CALL.replace("<|call|>", "<|return|>"),
        THINK.removesuffix("<|start|>assistant") + ANSWER,
    ],
)
def test_what_is_malformed_cannot_be_said(wish: str) -> None:
    names = [WEATHER.name, TIME.name]
    assert faults(token_ids(wish, TOKENIZER), TOKENIZER, tools=names)
    guide = GUIDES.create(Constraints(), TARGETS)

    stream = generate(wishing(wish), PROMPT, GREEDY, guide=guide)
    ids = [step.token for step in stream]

    cut_off = stream.stats.finish_reason == "length"
    assert faults(ids, TOKENIZER, tools=names, cut_off=cut_off) == []


class Recorder(Guide):
    """A guide that writes down what is asked of it."""

    def __init__(self, guide: Guide) -> None:
        vars(self).update(vars(guide))
        self.log: list[str] = []

    def mask_logits(self, logits: mx.array) -> mx.array:
        self.log.append("draw")
        return super().mask_logits(logits)

    def accept_token(self, token: int) -> bool:
        again = super().accept_token(token)
        self.log.append("again" if again else "read")
        return again


def recorded(text: str, constraints: Constraints | None = None) -> str:
    """The order of draws and reads while `text` is said: d, r, and a (draw again)."""
    guide = GUIDES.create(constraints or Constraints(), TARGETS)
    assert guide is not None
    recorder = Recorder(guide)
    list(generate(wishing(text), PROMPT, GREEDY, guide=recorder))
    return "".join(entry[0] for entry in recorder.log)


def length(text: str) -> int:
    return len(token_ids(text, TOKENIZER))


def test_headers_and_free_text_are_drawn_a_step_ahead() -> None:
    """Each token is drawn before the one before it is read; only what was drawn behind
    the end of a message, as if that went on, is drawn again."""
    thought, rest = THINK.partition("<|end|>")[::2]
    first, second = length(thought + "<|end|>"), length(rest + ANSWER)

    log = recorded(THINK + ANSWER)

    assert log == "d" + "dr" * (first - 1) + "dad" + "dr" * (second - 1) + "da"


def test_only_arguments_are_waited_for() -> None:
    header, arguments = CALL.partition("<|message|>")[::2]

    log = recorded(CALL)

    # What was drawn behind `<|message|>` is drawn again; then each waits for the last.
    assert (
        log
        == "d" + "dr" * length(header) + "dad" + "ad" * (length(arguments) - 1) + "r"
    )


@contextmanager
def counting_syncs() -> Iterator[list[str]]:
    """Count how often Python waits for the device."""
    found: list[str] = []
    real_item, real_list, real_eval = mx.array.item, mx.array.tolist, mx.eval

    def item(self: mx.array) -> Any:
        found.append("item")
        return real_item(self)

    def tolist(self: mx.array) -> Any:
        found.append("tolist")
        return real_list(self)

    def evaluate(*arrays: Any) -> None:
        found.append("eval")
        real_eval(*arrays)

    mx.array.item, mx.array.tolist, mx.eval = item, tolist, evaluate
    try:
        yield found
    finally:
        mx.array.item, mx.array.tolist, mx.eval = real_item, real_list, real_eval


def test_a_guide_adds_no_wait_for_the_device() -> None:
    """A real model; each step waits for its token and its probability, as ever."""
    config = hf_config(vocab_size=ROWS)
    model = build(config, random_tensors(config, seed=3))
    params = SamplingParams(seed=1, max_tokens=30)

    def syncs(guide: Guide | None) -> list[int]:
        counts = []
        with counting_syncs() as found:
            for _ in generate(model, PROMPT, params, guide=guide):
                counts.append(len(found))
                found.clear()
        return counts

    free, guided = syncs(None), syncs(GUIDES.create(Constraints()))

    assert len(free) > 5 and len(guided) == 30
    assert set(free[1:]) == set(guided[1:]) == {2}
    assert free[0] == guided[0]


def test_arguments_follow_the_schema() -> None:
    text, stats = said(wishing(CALL.replace("Oslo", "Bonn")))

    assert text == CALL.replace("Oslo", "Rome")
    assert stats.finish_reason == "tool_calls"


def test_arguments_come_in_the_order_the_model_wants() -> None:
    turned = CALL.replace('{"city":"Oslo"}', '{"days": 3, "city": "Oslo"}')

    assert said(wishing(turned))[0] == turned


def test_arguments_may_be_left_free() -> None:
    wish = CALL.replace("Oslo", "Bonn")

    assert said(wishing(wish), Constraints(enforce="headers"))[0] == wish
    assert GUIDES.create(Constraints(enforce="off"), TARGETS) is None


def test_a_tool_without_arguments_gets_none() -> None:
    wish = '<|channel|>commentary to=functions.get_time<|message|>{"zone":1}<|call|>'

    text, _ = said(wishing(wish))

    assert text.endswith("<|message|>{}<|call|>")


def test_only_offered_tools_can_be_called() -> None:
    text, _ = said(wishing(CALL), targets=function_constraints([TIME]))

    assert "to=functions.get_weather" not in text


@pytest.mark.parametrize(
    ("choice", "tools", "final"),
    [
        ("auto", ["get_weather", "get_time"], True),
        ("none", [], True),
        ("required", ["get_weather", "get_time"], False),
        ("get_time", ["get_time"], False),
    ],
)
def test_a_choice_of_tools_decides_what_may_follow(
    choice: str, tools: list[str], final: bool
) -> None:
    constraints = Constraints(tool_choice=choice)
    turn = allowed_turn(constraints, TARGETS)

    assert [call.recipient for call in turn.calls] == [f"functions.{t}" for t in tools]
    assert ("final" in turn.channels) == final
    text, stats = said(wishing(ANSWER), constraints)
    assert (text == ANSWER) == final
    if not final:
        text, stats = said(wishing(THINK + CALL), constraints)
        assert stats.finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["required", "get_thyme"])
def test_a_choice_without_a_tool_is_refused(choice: str) -> None:
    targets = TARGETS if choice != "required" else []
    with pytest.raises(PromptError, match=rf"`tool_choice` is `{choice}`"):
        GUIDES.create(Constraints(tool_choice=choice), targets)


def test_parallel_calls_can_be_forbidden() -> None:
    two = CALL.replace("<|call|>", "<|end|><|start|>assistant") + CALL

    both, _ = said(wishing(two))
    one, stats = said(wishing(two), Constraints(parallel_tool_calls=False))

    assert both == two
    assert one == CALL.replace("<|call|>", "<|end|>")
    assert stats.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("answer", "begins"),
    [
        (AnswerFormat.json_object(), "{"),
        (
            AnswerFormat.json_schema(
                {
                    "type": "object",
                    "properties": {"sum": {"enum": [702]}},
                    "required": ["sum"],
                    "additionalProperties": False,
                }
            ),
            '{"sum":702}<|return|>',
        ),
        (AnswerFormat.regex(r"(Yes|No), [a-z]{3}!"), "Yes, "),
        (AnswerFormat.lark('start: "It is " /[0-9]{3}/ "."'), "It is "),
    ],
)
def test_a_response_format_binds_the_answer_alone(
    answer: AnswerFormat, begins: str
) -> None:
    wish = THINK + "<|channel|>final<|message|>" + begins

    text, stats = said(
        wishing(wish, then="}<|return|>"), Constraints(response_format=answer), []
    )

    thought, bound = text.split("<|channel|>final<|message|>")
    assert thought == THINK  # not bound, and not asked for twice
    assert bound.startswith(begins)
    assert stats.finish_reason == "stop"


@pytest.mark.parametrize(
    ("constraints", "what"),
    [
        (
            Constraints(response_format=AnswerFormat.regex("(?=a)b")),
            "response format cannot be enforced .*look-around",
        ),
        (
            Constraints(response_format=AnswerFormat.lark('start: "a" b')),
            "response format cannot be enforced .*unknown name",
        ),
        (
            Constraints(
                response_format=AnswerFormat.json_schema({"not": {}}, strict=True)
            ),
            "response format cannot be enforced .*`not`",
        ),
    ],
)
def test_a_format_that_cannot_be_kept_is_refused_before_anything_is_said(
    constraints: Constraints, what: str
) -> None:
    with pytest.raises(SchemaError, match=what):
        GUIDES.create(constraints)


@pytest.mark.parametrize(
    ("schema", "feature"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": False}, "if"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "strin"}, "`type` of `x`"),
        ({"$ref": "https://example.com/x"}, "ref"),
        ({"type": "string", "pattern": "(?=a)b"}, "`pattern` of `x`"),
        ({"required": None}, "`required` of `x`"),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3, "type": "string"}]}, "oneOf"),
    ],
)
def test_a_schema_that_cannot_be_kept_names_the_tool_and_the_feature(
    schema: dict[str, Any], feature: str
) -> None:
    parameters = {"type": "object", "properties": {"x": schema}}
    odd = [ToolDescription("odd", parameters=parameters)]
    targets = function_constraints(odd, strict={"odd"})

    with pytest.raises(SchemaError, match=rf"schema of `functions.odd`.*{feature}"):
        GUIDES.create(Constraints(), targets)
    assert GUIDES.create(Constraints(enforce="headers"), targets) is not None
    assert GUIDES.create(Constraints(tool_choice="none"), targets) is not None
    guide = GUIDES.create(Constraints(), function_constraints(odd))
    assert guide is not None and len(guide.unenforced["functions.odd"]) == 1


def test_a_reasoning_budget_closes_the_reasoning_and_the_answer_follows() -> None:
    endless = "<|channel|>analysis<|message|>" + "Hm. " * 40

    text, stats = said(
        wishing(endless, then="Yes.<|return|>"), Constraints(max_reasoning_tokens=10)
    )

    thought = "<|channel|>analysis<|message|>Hm. Hm. Hm<|end|><|start|>assistant"
    assert text.startswith(thought + "<|channel|>")
    assert "analysis" not in text.removeprefix(thought)
    assert stats.finish_details == ("reasoning_budget",)


def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    text, stats = said(wishing(THINK + ANSWER), Constraints(max_reasoning_tokens=100))

    assert (text, stats.finish_details) == (THINK + ANSWER, ())


def test_a_budget_of_nothing_means_no_reasoning() -> None:
    text, _ = said(wishing(THINK + ANSWER), Constraints(max_reasoning_tokens=0), [])

    assert "analysis" not in text


def circling(header: str, text: str) -> FakeModel:
    """A model that says `header` and then wants to say `text` for ever."""
    begun, rest = token_ids(header, TOKENIZER), token_ids(text, TOKENIZER)

    def logits_of(ids: list[int]) -> np.ndarray:
        at = len(ids) - len(PROMPT)
        wish = begun[at] if at < len(begun) else rest[at % len(rest)]
        return np.where(np.arange(ROWS) == wish, SURE, np.arange(ROWS) / ROWS)

    return FakeModel(logits_of)  # pyright: ignore[reportArgumentType]


LONG = SamplingParams(temperature=0, max_tokens=2300)


def test_a_loop_in_the_reasoning_is_left_for_the_answer() -> None:
    model = circling("<|channel|>analysis<|message|>", "Let me see. ")

    text, stats = said(model, targets=[], params=LONG)

    assert "<|end|><|start|>assistant<|channel|>final<|message|>" in text
    assert stats.finish_details[0] == "analysis_loop"


def test_a_loop_in_the_answer_ends_the_turn() -> None:
    model = circling("<|channel|>final<|message|>", "la, ")

    text, stats = said(model, params=LONG)
    free, unguarded = said(model, Constraints(loop_guard=False), params=LONG)

    assert (stats.finish_reason, stats.finish_details) == ("length", ("final_loop",))
    assert (unguarded.finish_reason, unguarded.finish_details) == ("length", ())
    assert free.startswith(text) and free != text


def circled(
    header: str, text: str, constraints: Constraints, most: int = 6000
) -> Guide:
    """A guide that has read `header`, and `text` again and again until it cuts it."""
    guide = GUIDES.create(constraints, [*TARGETS, *function_constraints([PATCH, NOTE])])
    assert guide is not None
    guide.mask_logits(mx.zeros(ROWS))
    for token in token_ids(header, TOKENIZER):
        guide.accept_token(token)
    for token in islice(cycle(token_ids(text, TOKENIZER)), most):
        guide.accept_token(token)
        if guide.finish_details:
            break
    return guide


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

    guide = circled(header + begun, text, constraints)

    loop = "final_loop" if what == "a bound answer" else "call_loop"
    assert (guide.finish_reason, guide.finish_details) == ("length", (loop,))
    free = circled(header + begun, text, replace(constraints, loop_guard=False))
    assert (free.finish_reason, free.finish_details) == (None, ())


def test_the_same_call_again_and_again_ends_the_answer() -> None:
    """A text of its own is short; all of them together are a cycle."""
    call = "<|channel|>commentary to=functions.patch<|message|>-x+y-z<|end|>"
    guide = circled("", call + "<|start|>assistant", Constraints(), most=200_000)

    assert (guide.finish_reason, guide.finish_details) == ("length", ("call_loop",))
    assert ALLOWED / 6 <= guide.call_count < ALLOWED / 6 + 60


def test_a_loop_in_the_arguments_ends_the_generation_there() -> None:
    header = "<|channel|>commentary to=functions.get_weather<|message|>"
    free = Constraints(enforce="headers")
    params = SamplingParams(temperature=0, max_tokens=ALLOWED + 2000)

    text, stats = said(circling(header, '{"city": "Oslo"} '), free, params=params)

    assert text.startswith(header) and "<|end|>" not in text
    assert (stats.finish_reason, stats.finish_details) == ("length", ("call_loop",))
    assert ALLOWED < stats.completion_tokens < ALLOWED + 400


def test_built_in_tools_are_guided_too() -> None:
    targets = built_in_constraints([BROWSER, PYTHON])
    python = "<|channel|>analysis to=python code<|message|>print(1 < 2)<|call|>"
    find = '<|channel|>analysis to=browser.find code<|message|>{"pattern":"x"}<|call|>'

    assert said(wishing(python), targets=targets)[0] == python
    assert said(wishing(find), targets=targets)[0] == find
    turned = find.replace('{"', '{"cursor": 0, "')  # fields in an order of its own
    assert said(wishing(turned), targets=targets)[0] == turned
    untold = find.replace('{"', '{"source": "x", "')
    assert said(wishing(untold), targets=targets)[0] == untold
    no_text = find.replace('"x"', "3")
    assert said(wishing(no_text), targets=targets)[0] != no_text
    wrong = find.replace("browser.find", "browser.seek")
    assert said(wishing(wrong), targets=targets)[0] != wrong


def test_a_guide_can_begin_inside_a_message() -> None:
    guide = GUIDES.create(Constraints(), TARGETS)
    assert guide is not None
    guide.resume_turn(token_ids("<|channel|>final<|message|>It is", TOKENIZER))

    stream = generate(wishing(" so.<|return|>"), PROMPT, GREEDY, guide=guide)

    assert TOKENIZER.decode([step.token for step in stream]) == " so.<|return|>"
    for wrong in ("It is", "<|channel|>fin<|message|>", CALL):
        fresh = GUIDES.create(Constraints(), TARGETS)
        assert fresh is not None
        with pytest.raises(PromptError, match="cannot continue after"):
            fresh.resume_turn(token_ids(wrong, TOKENIZER))


def test_the_vocabulary_is_read_once_for_all_guides() -> None:
    guides, sent = GuideFactory(TOKENIZER), []
    serialized = TOKENIZER.serialized

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Tokenizer, "serialized", lambda own: sent.append(own) or serialized()
        )
        for _ in range(2):
            guide = guides.create(Constraints(), TARGETS)
            list(generate(wishing(CALL), PROMPT, GREEDY, guide=guide))

    assert sent == [TOKENIZER]
    guides.close()


def test_the_same_seed_says_the_same_with_a_guide() -> None:
    def talk() -> str:
        params = SamplingParams(seed=5, max_tokens=40)
        noise = FakeModel(
            lambda ids: [((len(ids) * 7 + n) % 11) / 5 for n in range(ROWS)]
        )
        return said(noise, params=params)[0]

    assert talk() == talk()


def test_unlikely_legal_tokens_are_drawn_before_likely_illegal_ones() -> None:
    """Even where the model gives every legal token no chance at all."""
    bad = TOKENIZER.special("<|endoftext|>")

    def logits_of(ids: list[int]) -> list[float]:
        return [SURE if token == bad else -float("inf") for token in range(ROWS)]

    text, _ = said(
        FakeModel(logits_of), params=SamplingParams(seed=0, max_tokens=30, top_p=0.9)
    )

    assert "<|endoftext|>" not in text
    assert text.startswith(("<|channel|>", " to=functions."))
