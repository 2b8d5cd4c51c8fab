"""The call loop: tools run within a time limit, and the model continues."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.tools import Tool
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import Done
from mlx_gptoss.harmony.messages import ToolDescription
from tests.support.fakes import AnsweringModel, answering, byte_tokenizer, token_ids
from tests.support.tool_loop import BYE, add, ask_once, call_of

SHORT = 0.05  # seconds


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
