"""A guide on a scripted model: what is kept out, when it waits, what it closes."""

from typing import Any

import pytest

from mlx_gptoss.errors import PromptError, SchemaError
from mlx_gptoss.harmony.built_in_tools import BROWSER, PYTHON
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.tool_constraints import (
    allowed_turn,
    built_in_constraints,
    function_constraints,
)
from mlx_gptoss.harmony.messages import ToolDescription
from tests.support.fakes import token_ids
from tests.support.generate import generate
from tests.support.guided import (
    ANSWER,
    CALL,
    GREEDY,
    GUIDES,
    PROMPT,
    TARGETS,
    THINK,
    TIME,
    TOKENIZER,
    WEATHER,
    generate_text,
    model_that_prefers,
)
from tests.support.strict_harmony import faults


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
    found, stats = generate_text(model_that_prefers(text))

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

    stream = generate(model_that_prefers(wish), PROMPT, GREEDY, guide=guide)
    ids = [step.token for step in stream]

    cut_off = stream.stats.finish_reason == "length"
    assert faults(ids, TOKENIZER, tools=names, cut_off=cut_off) == []


def test_arguments_follow_the_schema() -> None:
    text, stats = generate_text(model_that_prefers(CALL.replace("Oslo", "Bonn")))

    assert text == CALL.replace("Oslo", "Rome")
    assert stats.finish_reason == "tool_calls"


def test_arguments_come_in_the_order_the_model_wants() -> None:
    turned = CALL.replace('{"city":"Oslo"}', '{"days": 3, "city": "Oslo"}')

    assert generate_text(model_that_prefers(turned))[0] == turned


def test_arguments_may_be_left_free() -> None:
    wish = CALL.replace("Oslo", "Bonn")

    assert (
        generate_text(model_that_prefers(wish), Constraints(enforce="headers"))[0]
        == wish
    )
    assert GUIDES.create(Constraints(enforce="off"), TARGETS) is None


def test_a_tool_without_arguments_gets_none() -> None:
    wish = '<|channel|>commentary to=functions.get_time<|message|>{"zone":1}<|call|>'

    text, _ = generate_text(model_that_prefers(wish))

    assert text.endswith("<|message|>{}<|call|>")


def test_only_offered_tools_can_be_called() -> None:
    text, _ = generate_text(
        model_that_prefers(CALL), targets=function_constraints([TIME])
    )

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
    text, stats = generate_text(model_that_prefers(ANSWER), constraints)
    assert (text == ANSWER) == final
    if not final:
        text, stats = generate_text(model_that_prefers(THINK + CALL), constraints)
        assert stats.finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["required", "get_thyme"])
def test_a_choice_without_a_tool_is_refused(choice: str) -> None:
    targets = TARGETS if choice != "required" else []
    with pytest.raises(PromptError, match=rf"`tool_choice` is `{choice}`"):
        GUIDES.create(Constraints(tool_choice=choice), targets)


def test_parallel_calls_can_be_forbidden() -> None:
    two = CALL.replace("<|call|>", "<|end|><|start|>assistant") + CALL

    both, _ = generate_text(model_that_prefers(two))
    one, stats = generate_text(
        model_that_prefers(two), Constraints(parallel_tool_calls=False)
    )

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

    text, stats = generate_text(
        model_that_prefers(wish, then="}<|return|>"),
        Constraints(response_format=answer),
        [],
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


def test_built_in_tools_are_guided_too() -> None:
    targets = built_in_constraints([BROWSER, PYTHON])
    python = "<|channel|>analysis to=python code<|message|>print(1 < 2)<|call|>"
    find = '<|channel|>analysis to=browser.find code<|message|>{"pattern":"x"}<|call|>'

    assert generate_text(model_that_prefers(python), targets=targets)[0] == python
    assert generate_text(model_that_prefers(find), targets=targets)[0] == find
    turned = find.replace('{"', '{"cursor": 0, "')  # fields in an order of its own
    assert generate_text(model_that_prefers(turned), targets=targets)[0] == turned
    untold = find.replace('{"', '{"source": "x", "')
    assert generate_text(model_that_prefers(untold), targets=targets)[0] == untold
    no_text = find.replace('"x"', "3")
    assert generate_text(model_that_prefers(no_text), targets=targets)[0] != no_text
    wrong = find.replace("browser.find", "browser.seek")
    assert generate_text(model_that_prefers(wrong), targets=targets)[0] != wrong


def test_a_guide_can_begin_inside_a_message() -> None:
    guide = GUIDES.create(Constraints(), TARGETS)
    assert guide is not None
    guide.resume_turn(token_ids("<|channel|>final<|message|>It is", TOKENIZER))

    stream = generate(model_that_prefers(" so.<|return|>"), PROMPT, GREEDY, guide=guide)

    assert TOKENIZER.decode([step.token for step in stream]) == " so.<|return|>"
    for wrong in ("It is", "<|channel|>fin<|message|>", CALL):
        fresh = GUIDES.create(Constraints(), TARGETS)
        assert fresh is not None
        with pytest.raises(PromptError, match="cannot continue after"):
            fresh.resume_turn(token_ids(wrong, TOKENIZER))
