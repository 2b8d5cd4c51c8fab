"""Policies and questions decide which calls run."""

from typing import Any

import pytest

from mlx_gptoss.chat.tools import Approval
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.events import ToolCall
from tests.support.tool_loop import FREE, add, ask_once

# Approval


def test_a_policy_holds_for_every_tool() -> None:
    options: dict[str, Any] = {"tools": [add]}
    arguments = '{"a": 2, "b": 3}'

    assert ask_once("add", arguments, approve="allow", **options) == "5"
    assert ask_once("add", arguments, approve="deny", **options) == (
        "Error: the user does not allow calls of `add`"
    )


@pytest.mark.parametrize(
    ("answer", "told"),
    [(True, "5"), (False, "Error: the user did not allow this call")],
)
def test_a_function_is_asked_about_each_call(answer: bool, told: str) -> None:
    asked: list[ToolCall] = []

    def ask(call: ToolCall) -> bool:
        asked.append(call)
        return answer

    assert ask_once("add", '{"a": 2, "b": 3}', tools=[add], approve=ask) == told
    assert asked == [ToolCall("call_1", "add", '{"a": 2, "b": 3}')]


def test_a_call_that_cannot_run_is_not_asked_about() -> None:
    def ask(call: ToolCall) -> bool:
        raise AssertionError(call)

    assert "there is no tool" in ask_once(
        "subtract", tools=[add], approve=ask, constraints=FREE
    )


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("python", "deny"),
        ("browser.open", "allow"),
        ("files_read", "ask"),
        ("files_write", "deny"),
        ("add", "allow"),
        ("browsers", "allow"),
    ],
)
def test_policies_can_be_given_by_tool(name: str, policy: str) -> None:
    approval = Approval(
        "allow",
        {
            "python": "deny",
            "browser": "allow",
            "files_write": "deny",
            "files_*": "ask",
        },
        ask=lambda call: True,
    )
    assert approval.policy_of(name) == policy


def test_approval_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(PromptError, match="approval `ask` needs a function to ask"):
        Approval("ask")
    with pytest.raises(PromptError, match="approval `maybe` is unknown"):
        Approval("allow", {"add": "maybe"})  # pyright: ignore[reportArgumentType]
