"""One answer at a time: a Chat refuses other changes until the answer has ended."""

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlx_gptoss.chat import Call, Chat
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.events import Answer, Done, Event, ToolResult
from mlx_gptoss.harmony.messages import answer, user
from tests.support.fakes import answering

ONE, TWO, THREE = (
    f"<|channel|>final<|message|>{text}<|return|>" for text in ("One.", "Two.", "3.")
)
CALL = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}"
CALLED = f"{CALL}<|call|>"
LOOK = {"name": "look"}
REFUSED = r"still answering: .*`close\(\)`.* another thread needs a Chat of its own"


def start(runtime: Runtime, **options: Any) -> Chat:
    greedy = SamplingParams(temperature=0)
    return Chat(runtime, **{"params": greedy, "date": "2026-01-02"} | options)


def said(events: Iterator[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Answer))


def in_thread(work: Callable[[], Any]) -> BaseException | None:
    """Run `work` in a thread of its own; return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except PromptError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


CHANGES: dict[str, Callable[[Chat], Any]] = {
    "send": lambda chat: list(chat.send("two")),
    "regenerate": lambda chat: list(chat.regenerate()),
    "edit": lambda chat: list(chat.edit(1, "two")),
    "undo": lambda chat: chat.undo(),
    "reset": lambda chat: chat.reset(),
    "submit_result": lambda chat: chat.submit_result("call_1", "rain"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("threaded", [True, False], ids=["thread", "same"])
def test_a_change_during_an_answer_is_refused_and_changes_nothing(
    change: Callable[[Chat], Any], threaded: bool
) -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        events = chat.send("one")
        first = next(events)

        if threaded:
            error = in_thread(lambda: change(chat))
        else:
            with pytest.raises(PromptError) as caught:
                change(chat)
            error = caught.value

        assert error is not None
        with pytest.raises(PromptError, match=REFUSED):
            raise error
        assert isinstance(first, Answer)
        assert first.text + said(events) == "One."
        assert chat.messages == [user("one"), answer("One.")]
        assert said(chat.send("two")) == "Two."


def test_of_many_threads_at_once_the_history_is_that_of_those_that_were_answered() -> (
    None
):
    with answering(*[ONE] * 40) as runtime:
        chat = start(runtime)
        together = threading.Barrier(8)
        answered: list[str] = []

        def ask(name: str) -> None:
            together.wait()
            for n in range(5):
                try:
                    assert said(chat.send(f"{name}{n}")) == "One."
                except PromptError:
                    continue
                answered.append(f"{name}{n}")

        threads = [threading.Thread(target=ask, args=(name,)) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert answered and sorted(chat.questions) == sorted(answered)
        roles = [message.role for message in chat.messages]
        assert roles == ["user", "assistant"] * len(answered)


def test_an_iterator_may_wander_from_thread_to_thread() -> None:
    with answering(ONE) as runtime:
        chat = start(runtime)
        events = chat.send("one")
        heard: list[Event] = []

        for _ in range(3):
            assert in_thread(lambda: heard.append(next(events))) is None

        assert said(iter([*heard, *events])) == "One."


def test_an_iterator_that_nobody_began_claims_nothing() -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        later = chat.send("later")

        assert said(chat.send("now")) == "One."
        assert said(later) == "Two."
        assert chat.questions == ["now", "later"]


@pytest.mark.parametrize("how", ["closed", "forgotten", "collected elsewhere"])
def test_an_answer_that_was_left_ends_and_frees_the_chat(how: str) -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        events = chat.send("one")
        next(events)

        if how == "closed":
            events.close()
        elif how == "collected elsewhere":
            cycle: list[Any] = [events]
            cycle.append(cycle)
            del cycle, events
            assert in_thread(gc.collect) is None
        else:
            del events

        assert chat.messages == [user("one"), answer("O")]
        assert said(chat.send("two")) == "Two."


def test_a_loop_that_is_left_frees_the_chat() -> None:
    with answering(ONE, TWO, THREE) as runtime:
        chat = start(runtime)
        for _ in chat.send("one"):
            break
        with pytest.raises(ZeroDivisionError):
            for _ in chat.send("two"):
                _ = 1 / 0

        assert said(chat.send("three")) == "3."
    assert [m.text for m in chat.messages] == ["one", "O", "two", "T", "three", "3."]


def test_at_its_done_an_answer_is_over() -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        heard = ""
        events = chat.send("one")
        for event in events:
            if isinstance(event, Done):
                heard = said(chat.send("two"))

        assert heard == "Two."
        assert chat.questions == ["one", "two"]


def test_results_may_be_submitted_where_the_done_is_read() -> None:
    with answering(CALLED, ONE) as runtime:
        chat = start(runtime, tools=[LOOK])
        heard = ""
        for event in chat.send("one"):
            if isinstance(event, Done):
                assert event.finish_reason == "tool_calls"
                heard = said(chat.submit_result("call_1", "rain"))

        assert heard == "One."


def test_a_question_that_is_refused_frees_the_chat() -> None:
    with answering(ONE) as runtime:
        chat = start(runtime)
        with pytest.raises(PromptError, match="there is no turn 7"):
            list(chat.edit(7, "x"))
        with pytest.raises(PromptError, match="no call `call_9` waits"):
            chat.submit_result("call_9", "x")
        with pytest.raises(PromptError, match="there is no turn 1"):
            chat.undo()

        assert said(chat.send("one")) == "One."


def test_a_tool_cannot_talk_to_the_chat_it_works_for() -> None:
    with answering(CALLED, ONE) as runtime:

        def look() -> str:
            """Looks."""
            return said(chat.send("and you?"))

        chat = start(runtime, tools=[look])
        [result] = [e for e in chat.send("one") if isinstance(e, ToolResult)]

        assert "this chat is still answering" in result.text
        assert chat.questions == ["one"]


def test_a_result_of_an_earlier_turn_is_refused() -> None:
    with answering(CALLED, ONE, TWO) as runtime:
        chat = start(runtime, tools=[LOOK])
        list(chat.send("one"))
        late = chat.submit_result("call_1", "rain")
        assert said(chat.send("two")) == "One."

        with pytest.raises(PromptError, match="of an earlier turn"):
            list(late)
        assert said(chat.send("three")) == "Two."


def test_a_result_whose_turn_was_taken_back_is_refused() -> None:
    with answering(CALLED, ONE) as runtime:
        chat = start(runtime, tools=[LOOK])
        list(chat.send("one"))
        late = chat.submit_result("call_1", "rain")
        chat.undo()

        with pytest.raises(PromptError, match="of an earlier turn"):
            list(late)
        assert chat.messages == []


def test_a_branch_is_free_while_the_other_answers() -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        events = chat.send("one")
        first = next(events)

        other = chat.branch()
        assert said(other.send("two")) == "Two."

        assert isinstance(first, Answer)
        assert first.text + said(events) == "One."
        assert chat.messages == [user("one"), answer("One.")]
        assert other.messages == [user("one"), user("two"), answer("Two.")]


class Watched(dict[str, Call]):
    """Waiting calls; while one is removed, another thread saves the chat."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat.transcript.calls.waiting)
        self.saved: list[dict[str, Any]] = []
        self.saver = threading.Thread(target=lambda: self.saved.append(chat.to_json()))

    def pop(self, *args: Any) -> Any:
        self.saver.start()
        self.saver.join(0.1)  # must wait until the two agree
        return super().pop(*args)


def test_what_is_saved_while_a_result_comes_can_be_gone_on_with() -> None:
    """A call waits if and only if the history has no result for it."""
    with answering(CALLED, ONE) as runtime:
        chat = start(runtime, tools=[LOOK])
        list(chat.send("one"))
        waiting = chat.transcript.calls.waiting = Watched(chat)
        events = chat.submit_result("call_1", "rain")
        waiting.saver.join()

        [data] = waiting.saved
        results = [one for one in data["messages"] if one["role"] == "tool"]
        assert (len(results), data["waiting"]) == (1, [])
        assert said(events) == "One."


def test_an_answer_under_way_can_be_saved() -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        events = chat.send("one")
        next(events)

        again = Chat.from_json(runtime, chat.to_json())

        assert again.messages == [user("one")]
        assert said(again.regenerate()) == "Two."
        events.close()
