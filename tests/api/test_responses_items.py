"""Input items become Harmony messages, or are ignored or refused."""

from typing import Any

import pytest

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.responses.items import ParsedItems, read_items
from mlx_gptoss.api.sealed import seal, unseal
from mlx_gptoss.harmony import messages as m

THOUGHT = {"type": "reasoning_text", "text": "Hm."}
SUMMARY = {"type": "summary_text", "text": "Hm."}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "42"}
PATCH = {
    "type": "custom_tool_call",
    "call_id": "c2",
    "name": "apply_patch",
    "input": "*** Begin Patch",
}


def said(text: str, **fields: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part], **fields}


def asked(text: str, role: str = "user") -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": role, "content": content}


def messages(*items: Any, **options: Any) -> list[m.Message]:
    return read_items(items, **options).messages


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([{"role": "user", "content": "hi"}], [m.user("hi")]),
        ([asked("hi")], [m.user("hi")]),
        (
            [asked("hi"), asked("new rule", "developer"), asked("go")],
            [m.user("hi"), m.developer("new rule"), m.user("go")],
        ),
        (
            [{"type": "reasoning", "content": [THOUGHT], "summary": []}, said("Yes.")],
            [m.reasoning("Hm."), m.answer("Yes.")],
        ),
        (
            [{"type": "reasoning", "encrypted_content": seal("Hm."), "content": None}],
            [m.reasoning("Hm.")],
        ),
        ([{"type": "reasoning", "encrypted_content": "gAAAAAB", "summary": []}], []),
        ([{"type": "reasoning", "summary": [SUMMARY]}], [m.reasoning("Hm.")]),
        (
            [{"type": "reasoning", "content": [THOUGHT], "summary": [SUMMARY]}],
            [m.reasoning("Hm.")],
        ),
        (
            [
                {
                    "type": "reasoning",
                    "encrypted_content": "gAAAAAB",  # of another model
                    "summary": [SUMMARY],
                }
            ],
            [],
        ),
        (
            [said("I look.", phase="commentary"), asked("ok")],
            [m.preamble("I look."), m.user("ok")],
        ),
        (
            [said("I look."), {"type": "reasoning", "summary": []}, CALL, RESULT],
            [
                m.preamble("I look."),
                m.tool_call("f", '{"a":1}'),
                m.tool_result("f", "42"),
            ],
        ),
        (
            [CALL, {**RESULT, "output": [{"type": "input_text", "text": "42"}]}],
            [m.tool_call("f", '{"a":1}'), m.tool_result("f", "42")],
        ),
        (
            [PATCH, {**RESULT, "type": "custom_tool_call_output", "call_id": "c2"}],
            [
                m.text_call("apply_patch", "*** Begin Patch"),
                m.tool_result("apply_patch", "42"),
            ],
        ),
        (
            [{"type": "function_call_output", "name": "f", "output": "late"}],
            [m.tool_result("f", "late")],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [m.answer("No.")],
        ),
    ],
)
def test_items_are_read_as_messages(
    items: list[Any], expected: list[m.Message]
) -> None:
    assert messages(*items) == expected


def test_leading_instructions_stand_before_the_conversation() -> None:
    found = read_items([asked("a", "system"), asked("b", "developer"), asked("hi")])

    assert found == ParsedItems(["a", "b"], [m.user("hi")], [])


def test_items_of_other_providers_are_passed_over_and_counted() -> None:
    others = [{"type": "web_search_call", "id": "ws"}, {"type": "spaceship"}, {}]

    assert read_items([asked("hi"), *others]) == ParsedItems(
        [], [m.user("hi")], ["web_search_call", "spaceship", ""]
    )


def test_a_reference_is_looked_up() -> None:
    stored = {"m1": asked("hi")}
    references = [{"type": "item_reference", "id": "m1"}, {"id": "m1"}]

    assert messages(*references, find=stored.get) == [m.user("hi"), m.user("hi")]


def test_reasoning_is_restored_before_the_calls_of_one_turn() -> None:
    seen = []

    def restore(said: Any, calls: Any) -> list[m.Message]:
        seen.append((list(said), list(calls)))
        return [m.reasoning("I know."), *said]

    again = {**CALL, "call_id": "c9"}
    found = messages(asked("hi"), CALL, again, RESULT, said("ok"), restore=restore)

    call = m.tool_call("f", '{"a":1}')
    assert seen == [([call, call], ["c1", "c9"])]
    assert found[1:3] == [m.reasoning("I know."), call]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (["hi"], "input[0]"),
        ([None], "input[0]"),
        ([{"role": "robot", "content": "hi"}], "input[0]"),
        ([asked("a"), RESULT], "input[1]"),
        ([{"role": "user", "content": 5}], "input[0]"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0]"),
        ([{**CALL, "name": None}], "input[0].name"),
        ([{**CALL, "call_id": ""}], "input[0].call_id"),
        ([{**PATCH, "input": {}}], "input[0].input"),
        ([{"type": "item_reference", "id": "gone"}], "input[0]"),
    ],
)
def test_what_cannot_be_read_is_named(items: list[Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_items(items)

    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("text", ["", "Hm.", "ä€😀" * 99])
def test_what_was_sealed_is_read_again(text: str) -> None:
    assert unseal(seal(text)) == text


@pytest.mark.parametrize(
    "blob", ["", "gAAAAABo", "mlxg1.", "mlxg1.????", seal("Hm.")[:-2], "mlxg1.é"]
)
def test_foreign_and_damaged_blobs_are_passed_over(blob: str) -> None:
    assert unseal(blob) is None
