"""AsyncChat: the turns of Chat in an event loop that is never blocked."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import pytest

from mlx_gptoss import AsyncChat, Chat, Reply, Runtime
from mlx_gptoss.errors import AnswerTimeout, PromptError
from mlx_gptoss.harmony.events import Answer, Done, Event, ToolCall
from mlx_gptoss.harmony.messages import answer, user
from tests.support.chat_turns import BYE, CALL, DATE, GREEDY, get_weather, joined
from tests.support.echoing import DONE, LONG, TALK, calling, echoing
from tests.support.fakes import answering
from tests.support.submit import PATIENCE

T = TypeVar("T")
STEP = 0.005  # seconds of a token, where an answer must not end at once


def start(runtime: Runtime, **options: Any) -> AsyncChat:
    return AsyncChat(runtime, **{"params": GREEDY, "date": DATE} | options)


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(limited())


async def collect(events: AsyncIterable[Event]) -> list[Event]:
    return [event async for event in events]


async def until_idle(runtime: Runtime) -> None:
    while runtime.batch_statistics.running + runtime.batch_statistics.waiting:
        await asyncio.sleep(0.001)


def test_its_turns_are_those_of_a_chat() -> None:
    async def talk(runtime: Runtime) -> tuple[Any, ...]:
        chat = start(runtime, tools=[get_weather])
        sent = joined(await collect(chat.send("Rain?")))
        again = joined(await collect(chat.regenerate()))
        edited = joined(await collect(chat.edit(1, "Sun?")))
        reply = await chat.ask("Bye?")
        return sent, again, edited, reply.answer, chat.messages

    def talk_plainly(runtime: Runtime) -> tuple[Any, ...]:
        chat = Chat(runtime, params=GREEDY, date=DATE, tools=[get_weather])
        turns = (chat.send("Rain?"), chat.regenerate(), chat.edit(1, "Sun?"))
        return (*map(joined, turns), chat.ask("Bye?").answer, chat.messages)

    script = (CALL, BYE, CALL, BYE, BYE, BYE)
    with answering(*script) as runtime:
        found = run(talk(runtime))
    with answering(*script) as runtime:
        assert found == talk_plainly(runtime)


def test_no_thread_waits_for_an_answer() -> None:
    async def ask_all(runtime: Runtime) -> int:
        chats = [start(runtime).ask(LONG[:20]) for _ in range(50)]
        asking = asyncio.gather(*chats)
        most = 0
        while not asking.done():
            most = max(most, threading.active_count())
            await asyncio.sleep(0.001)
        assert {reply.answer for reply in await asking} == {LONG[:20]}
        return most

    with echoing() as runtime:
        before = threading.active_count()
        borrowed = min(32, (os.cpu_count() or 1) + 4)  # asyncio's own, for a moment
        assert run(ask_all(runtime)) <= before + borrowed


def test_the_loop_runs_on_while_model_and_tools_work() -> None:
    def sleep() -> str:
        """Sleeps."""
        time.sleep(1)
        return "rested"

    async def main(runtime: Runtime) -> None:
        chat = start(runtime, tools=[sleep], tool_seconds=None)
        asking, longest = asyncio.create_task(chat.ask(calling("sleep"))), 0.0
        while not asking.done():
            began = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - began)
        [call] = (await asking).calls
        assert call.result == "rested" and longest < 0.8

    with echoing() as runtime:
        run(main(runtime))


@pytest.mark.parametrize("how", ["task", "asyncio.timeout", "timeout"])
def test_an_answer_nobody_waits_for_ends_and_is_kept(how: str) -> None:
    async def main(runtime: Runtime) -> None:
        chat = start(runtime)
        await chat.ask("ready?")
        if how == "timeout":
            with pytest.raises(AnswerTimeout) as error:
                await chat.ask(TALK, timeout=0.5)
            assert error.value.reply.answer == chat.messages[-1].text
        elif how == "asyncio.timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await chat.ask(TALK)
        else:
            task = asyncio.create_task(chat.ask(TALK))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        await until_idle(runtime)
        assert chat.messages[-1].ended == "cancelled"
        assert len(chat.messages[-1].text) < len(LONG)
        assert (await chat.ask("hi")).answer == "hi"

    with echoing(STEP) as runtime:
        run(main(runtime))


def test_leaving_a_loop_frees_the_chat_and_its_rows() -> None:
    async def main(runtime: Runtime) -> None:
        chat = start(runtime)
        async for event in chat.send(TALK):
            assert isinstance(event, Answer)
            break
        assert (await chat.ask("hi")).answer == "hi"  # at once
        async with aclosing(chat.send(TALK)) as events:
            await anext(events)
        await until_idle(runtime)
        async for _ in chat.send(TALK):
            break
        await until_idle(runtime)
        assert [m.text for m in chat.messages[:4]] == [TALK, LONG[:1], "hi", "hi"]

    with echoing(STEP) as runtime:
        run(main(runtime))


def test_an_answer_that_is_left_twice_over_still_ends() -> None:
    async def main(runtime: Runtime) -> None:
        chat = start(runtime)
        task = asyncio.create_task(chat.ask(TALK))
        while not runtime.batch_statistics.running:
            await asyncio.sleep(0.001)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        await until_idle(runtime)
        assert (await chat.ask("hi")).answer == "hi"

    with echoing(STEP) as runtime:
        run(main(runtime))


def test_a_second_question_meanwhile_is_refused_and_a_branch_is_free() -> None:
    async def main(runtime: Runtime) -> None:
        chat = start(runtime)
        async with aclosing(chat.send("hello")) as events:
            await anext(events)
            with pytest.raises(PromptError, match="still answering"):
                await chat.ask("two")
            assert (await chat.branch().ask("two")).answer == "two"
        chat.undo()
        assert chat.messages == []

    with echoing() as runtime:
        run(main(runtime))


def test_async_tools_and_questions_run_in_the_callers_loop() -> None:
    loops: list[object] = []

    async def look() -> str:
        """Looks."""
        loops.append(asyncio.get_running_loop())
        return "rain"

    async def allow(call: ToolCall) -> bool:
        loops.append(asyncio.get_running_loop())
        return call.name == "look"

    async def main(runtime: Runtime) -> None:
        chat = start(runtime, tools=[look, get_weather], approve=allow)
        reply = await chat.ask(calling("look"))
        assert ([call.result for call in reply.calls], reply.answer) == (["rain"], DONE)
        denied = await chat.ask(calling("get_weather", '{"city":"Oslo"}'))
        assert "did not allow" in str(denied.calls[0].result)
        assert loops == [asyncio.get_running_loop()] * 3

    with echoing() as runtime:
        run(main(runtime))


def test_only_an_async_chat_takes_an_async_question() -> None:
    """A coroutine is true: the call would run whatever it answers."""

    async def deny(call: ToolCall) -> bool:
        return False

    with answering(CALL, BYE) as runtime:
        chat = Chat(
            runtime, params=GREEDY, date=DATE, tools=[get_weather], approve=deny
        )
        with pytest.raises(PromptError, match="only an AsyncChat can await"):
            chat.ask("Rain?")


def test_a_plain_question_may_block_and_cancel_ends_it() -> None:
    held = threading.Event()

    def hang(call: ToolCall) -> bool:
        chats[0].cancel()
        return held.wait()

    chats: list[AsyncChat] = []

    async def main(runtime: Runtime) -> None:
        chats.append(start(runtime, tools=[get_weather], approve=hang))
        reply = await chats[0].ask(calling("get_weather", '{"city":"Oslo"}'))
        held.set()
        assert reply.finish_reason == "cancelled"
        assert reply.calls[0].result == "Error: the call was interrupted"

    with echoing() as runtime:
        run(main(runtime))


@pytest.mark.parametrize("is_async", [True, False])
def test_a_tool_is_left_behind_in_time(is_async: bool) -> None:
    held, ended = threading.Event(), threading.Event()

    async def hang_in_loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def hang_in_thread() -> None:
        held.wait()
        ended.set()

    async def main(runtime: Runtime) -> None:
        hang = hang_in_loop if is_async else hang_in_thread
        chat = start(runtime, tools=[hang], tool_seconds=0.05)
        reply = await chat.ask(calling(hang.__name__))
        told = "Error: there was no result within 0.05 s"
        assert (reply.calls[0].result, reply.answer) == (told, DONE)

    with echoing() as runtime:
        run(main(runtime))
    held.set()
    assert ended.wait(10)


def test_results_of_the_caller_continue_the_turn() -> None:
    async def main(runtime: Runtime) -> None:
        chat = start(runtime, tools=[{"name": "look"}, {"name": "hear"}])
        both = calling("look").replace("<|call|>", "<|end|><|start|>assistant")
        reply = await chat.ask(both + calling("hear"))
        first, second = reply.calls
        assert await collect(chat.submit_result(second.id, "a bell")) == []
        with pytest.raises(PromptError, match="no call `call_9` waits"):
            chat.submit_result("call_9", "x")
        last = await Reply.of_async(chat.submit_result(first.id, "rain"))
        assert (last.answer, last.finish_reason) == (DONE, "stop")

    with echoing() as runtime:
        run(main(runtime))


def test_it_is_saved_and_resumed_as_a_chat_is() -> None:
    async def main(runtime: Runtime) -> None:
        chat = start(runtime)
        await chat.ask("hi")
        again = AsyncChat.from_json(runtime, chat.to_json(), params=GREEDY)
        assert again.messages == [user("hi"), answer("hi")]
        assert Chat.from_json(runtime, chat.to_json()).id == again.id == chat.id
        [*_, done] = await collect(again.send("bye"))
        assert isinstance(done, Done) and done.finish_reason == "stop"

    with echoing() as runtime:
        run(main(runtime))
