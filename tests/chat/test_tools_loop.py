"""The call loop: approve, run within a time limit, go on; built-in tools too."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.tools import Approval, Tool
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.built_in_tools import BROWSER, PYTHON
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import Answer, Done, Event, ToolCall, ToolResult
from mlx_gptoss.harmony.messages import Message, ToolDescription, reasoning, user
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import AnsweringModel, answering, byte_tokenizer, token_ids

TOKENIZER = byte_tokenizer()
BYE = "<|channel|>final<|message|>Bye.<|return|>"
SHORT = 0.05  # seconds
FREE = Constraints(enforce="off")  # what a model may get wrong elsewhere


def call_of(name: str, arguments: str = "{}") -> str:
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"{header}{arguments}<|call|>"


def results(chat: Chat, events: list[Event]) -> list[str]:
    """Return the results of the calls; the conversation must have gone on."""
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "stop"
    told = [event.text for event in events if isinstance(event, ToolResult)]
    assert told == [m.text for m in chat.messages if m.role == "tool"]
    return told


def ask_once(name: str, arguments: str = "{}", **options: Any) -> str:
    """Let the model call `name` once; return what it was told."""
    with answering(call_of(name, arguments), BYE) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, params=params, date="", **options)
        [told] = results(chat, list(chat.send("Go.")))
    return told


def add(a: int, b: int) -> int:
    return a + b


async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


class AddLater:
    """A tool that is an object with an async call."""

    __name__ = "add_later"

    async def __call__(self, a: int, b: int) -> int:
        return await add_later(a, b)


@pytest.mark.parametrize("seconds", [None, 60.0])
@pytest.mark.parametrize("function", [add, add_later, AddLater()])
def test_plain_and_async_functions_are_run(
    function: Callable[..., Any], seconds: float | None
) -> None:
    told = ask_once(
        function.__name__, '{"a": 2, "b": 3}', tools=[function], tool_seconds=seconds
    )
    assert told == "5"


def test_an_async_tool_runs_inside_a_running_loop() -> None:
    async def main() -> str:
        return Tool.from_function(add_later).run('{"a": 2, "b": 3}')

    assert asyncio.run(main()) == "5"


def test_a_tool_that_hangs_is_left_behind() -> None:
    held = threading.Event()

    def hang() -> None:
        held.wait()

    try:
        told = ask_once("hang", tools=[hang], tool_seconds=SHORT)
    finally:
        held.set()

    assert told == "Error: there was no result within 0.05 s"


def test_an_async_tool_that_hangs_is_cancelled() -> None:
    ended = threading.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    told = ask_once("hang", tools=[hang], tool_seconds=SHORT)

    assert told == "Error: there was no result within 0.05 s"
    assert ended.wait(10)


def test_a_timeout_of_the_tools_own_is_told_as_it_is() -> None:
    async def fail() -> None:
        raise TimeoutError("the printer is busy")

    assert ask_once("fail", tools=[fail]) == "Error: TimeoutError: the printer is busy"


def test_what_a_tool_raises_does_not_end_the_turn() -> None:
    def leave() -> None:
        raise OSError("no paper")

    assert ask_once("leave", tools=[leave]) == "Error: OSError: no paper"


def test_without_a_limit_a_tool_runs_in_the_callers_thread() -> None:
    seen: list[threading.Thread] = []

    def look() -> None:
        seen.append(threading.current_thread())

    ask_once("look", tools=[look], tool_seconds=None)
    ask_once("look", tools=[look])

    assert seen[0] is threading.current_thread()
    assert seen[1] is not seen[0]


def test_cancelling_ends_a_call_under_way() -> None:
    held = threading.Event()
    interrupted: list[bool] = []

    def hang() -> None:
        chat.cancel()
        held.wait()

    tool = Tool(
        ToolDescription("hang"), hang, interrupt=lambda: interrupted.append(True)
    )
    with answering(call_of("hang"), BYE) as runtime:
        chat = Chat(runtime, tools=[tool], params=SamplingParams(temperature=0))

        events = list(chat.send("Go."))
        held.set()

    assert isinstance(events[-1], Done) and events[-1].finish_reason == "cancelled"
    assert interrupted == [True]
    assert [m.text for m in chat.messages if m.role == "tool"] == [
        "Error: the call was interrupted"
    ]


def test_a_result_too_long_for_the_context_is_told_to_be() -> None:
    def read_all() -> str:
        return "x" * 5000

    tokenizer = byte_tokenizer()
    answers = [token_ids(one, tokenizer) for one in (call_of("read_all"), BYE)]
    with Runtime(AnsweringModel(answers), tokenizer=tokenizer, context=3000) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, tools=[read_all], params=params)
        events = list(chat.send("Go."))

    assert isinstance(events[-1], Done) and events[-1].finish_reason == "stop"
    [told] = [m.text for m in chat.messages if m.role == "tool"]
    assert told == (
        "Error: the result has 5000 characters, too many to be read; ask for less"
    )


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


# Built-in tools


class Shout:
    """Two built-in tools with a state, in the trained form."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tools = [
            Tool(ToolDescription("python"), self.run, PYTHON, takes_text=True),
            Tool(
                ToolDescription("browser.find", parameters=BROWSER.tools[2].parameters),
                self.find,
                BROWSER,
            ),
        ]

    def run(self, code: str) -> str:
        self.heard.append(code)
        return code.upper()

    def find(self, pattern: str, cursor: int = -1) -> str:
        return f"{pattern} at {cursor}"

    def reset(self) -> None:
        self.heard.clear()


PYTHON_CALL = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
)
FIND_CALL = (
    '<|channel|>analysis to=browser.find code<|message|>{"pattern": "x"}<|call|>'
)


def test_built_in_tools_are_called_in_the_form_the_model_knows() -> None:
    shout = Shout()
    with answering(PYTHON_CALL, FIND_CALL, BYE) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, tools=[add, shout], params=params, date="2026-01-02")

        events = list(chat.send("Go."))

        model = runtime.model
        assert isinstance(model, AnsweringModel)
        loop = [
            user("Go."),
            reasoning("Hm."),
            Message("assistant", "print(1)", "analysis", "python", "code"),
            Message("tool", "PRINT(1)", "analysis", "assistant", name="python"),
            Message(
                "assistant", '{"pattern": "x"}', "analysis", "browser.find", "code"
            ),
            Message("tool", "x at -1", "analysis", "assistant", name="browser.find"),
        ]
        prompt = TOKENIZER.decode(model.prompts[2])
        whole = [*chat.conversation[:2], *loop]
        assert prompt == TOKENIZER.decode(render_messages(whole, TOKENIZER))
    assert [e for e in events if isinstance(e, ToolCall | ToolResult)] == [
        ToolCall("call_1", "python", "print(1)"),
        ToolResult("call_1", "PRINT(1)"),
        ToolCall("call_2", "browser.find", '{"pattern": "x"}'),
        ToolResult("call_2", "x at -1"),
    ]
    assert Answer("B") in events
    # Declared in the system message; the function alone in the developer's.
    system, developer = prompt.split("<|start|>developer")
    assert "# Tools\n\n## browser\n\n// Tool for browsing." in system
    assert "## python\n\nUse this tool to execute Python code" in system
    assert "Calls to these tools must go to the commentary channel" in system
    assert developer.count("=>") == 1 and "type add = " in developer


def test_a_built_in_tool_that_is_not_offered_cannot_be_called() -> None:
    call = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    with answering(call, BYE) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, tools=[add], params=params, constraints=FREE)

        [told] = results(chat, list(chat.send("Go.")))

    assert "there is no tool `python`" in told
    assert "## python" not in TOKENIZER.decode(
        render_messages(chat.conversation, TOKENIZER)
    )


def test_a_reset_chat_resets_what_its_tools_keep() -> None:
    shout = Shout()
    with answering(PYTHON_CALL, BYE) as runtime:
        chat = Chat(runtime, tools=[shout], params=SamplingParams(temperature=0))
        list(chat.send("Go."))
        assert shout.heard == ["print(1)"]

        chat.reset()

    assert shout.heard == []


def test_approval_holds_for_built_in_tools() -> None:
    shout = Shout()
    with answering(PYTHON_CALL, BYE) as runtime:
        chat = Chat(
            runtime,
            tools=[shout],
            params=SamplingParams(temperature=0),
            approve=Approval(by_tool={"python": "deny"}),
        )
        [told] = results(chat, list(chat.send("Go.")))

    assert told == "Error: the user does not allow calls of `python`"
    assert shout.heard == []
