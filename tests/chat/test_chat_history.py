"""Operations on a conversation: regenerate, edit, undo, and branch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import Answer, Done, Event
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    reasoning,
    tool_result,
    user,
)
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.chat_history import CALL, LOOK, ONE, THREE, TWO, said, start
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import answering, byte_tokenizer, write_tokenizer

TOKENIZER = byte_tokenizer()


def cached(events: Iterator[Event]) -> int:
    *_, done = events
    assert isinstance(done, Done)
    return done.stats.cached_tokens


def size(chat: Chat, end: int) -> int:
    """Count the tokens of a conversation up to the end of a message of it."""
    opening = len(chat.conversation) - len(chat.messages)
    shown = chat.conversation[: opening + end]
    return len(render_messages(shown, TOKENIZER, complete=False))


def test_regenerating_forgets_the_answer_and_reads_nothing_again() -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        list(chat.send("hi"))

        assert cached(chat.regenerate()) == size(chat, 1)

    assert chat.messages == [user("hi"), answer("Two.")]


def test_an_interrupted_answer_is_regenerated() -> None:
    with answering(ONE, TWO, THREE) as runtime:
        chat = start(runtime)
        list(chat.send("hi"))
        events = chat.send("more")
        assert isinstance(next(events), Answer)
        events.close()
        assert chat.messages[-1] == answer("T")

        assert cached(chat.regenerate()) == size(chat, 3)

    assert chat.messages == [user("hi"), answer("One."), user("more"), answer("3.")]


def test_a_question_whose_answer_never_began_is_answered_later() -> None:
    with answering(ONE) as runtime:
        chat = start(runtime)
        chat.messages.append(user("hi"))

        assert said(chat.regenerate()) == "One."


def test_editing_asks_a_question_anew_and_forgets_what_followed() -> None:
    with answering(ONE, TWO, THREE) as runtime:
        chat = start(runtime)
        list(chat.send("first"))
        list(chat.send("second"))

        known = cached(chat.edit(1, "other"))

        assert known == size(chat, 0)
    assert chat.messages == [user("other"), answer("3.")]


def test_editing_the_last_question_keeps_the_turns_before() -> None:
    with answering(ONE, TWO, THREE) as runtime:
        chat = start(runtime)
        list(chat.send("first"))
        list(chat.send("second"))

        known = cached(chat.edit(2, "other"))

        assert known >= size(chat, 1)
    assert chat.questions == ["first", "other"]
    assert chat.messages[-1] == answer("3.")


@pytest.mark.parametrize("turn", [0, 3, -1])
def test_a_turn_that_is_not_there_is_named(turn: int) -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        for change in (lambda: list(chat.edit(1, "x")), chat.undo):
            with pytest.raises(
                PromptError, match=r"there is no turn 1: .* no turns yet"
            ):
                change()
        list(chat.send("a"))
        list(chat.send("b"))

        with pytest.raises(PromptError, match=f"no turn {turn}: .* turns 1 to 2"):
            list(chat.edit(turn, "x"))

    assert chat.questions == ["a", "b"]


def test_an_edit_that_does_not_fit_changes_nothing() -> None:
    with answering(ONE) as scripted:
        options = CacheOptions(idle=False)
        model = scripted.model
        runtime = Runtime(model, tokenizer=TOKENIZER, context=600, cache=options)
        chat = start(runtime)
        list(chat.send("hi"))
        before = list(chat.messages)

        with pytest.raises(PromptError, match="shorten it"):
            list(chat.edit(1, "x" * 600))

        assert chat.messages == before
        runtime.close()


def test_undoing_gives_the_question_back_and_the_next_turn_reads_only_itself() -> None:
    with answering(ONE, TWO, THREE) as runtime:
        chat = start(runtime)
        list(chat.send("first"))
        list(chat.send("second"))

        assert chat.undo() == "second"
        assert chat.messages == [user("first"), answer("One.")]
        # Without idle time the answer has been read by the second prompt only.
        assert cached(chat.send("third")) == size(chat, 2)

    assert chat.questions == ["first", "third"]


def test_branches_go_their_own_ways_and_share_what_was_read() -> None:
    with answering(ONE, TWO, THREE) as runtime:
        chat = start(runtime, system="Be kind.", effort="low")
        list(chat.send("first"))
        other = chat.branch()

        assert (other.id != chat.id, other.effort, other.system) == (
            True,
            "low",
            "Be kind.",
        )
        list(chat.send("second"))
        assert cached(other.send("other")) == size(other, 2)
        other.effort = "high"

    assert chat.questions == ["first", "second"]
    assert other.questions == ["first", "other"]
    assert chat.effort == "low"


def test_a_branch_may_begin_at_an_earlier_turn() -> None:
    with answering(ONE, TWO) as runtime:
        chat = start(runtime)
        list(chat.send("first"))
        list(chat.send("second"))

        assert chat.branch(1).messages == chat.messages[:2]
        assert chat.branch(2).messages == chat.messages
        with pytest.raises(PromptError, match="no turn 3"):
            chat.branch(3)


def test_branches_at_a_tool_result_read_the_result_only() -> None:
    with answering(CALL, ONE, TWO) as runtime:
        chat = start(runtime, tools=[LOOK])
        list(chat.send("Look!"))
        other = chat.branch()

        assert [call.id for call in other.waiting] == ["call_1"]
        known = [cached(one.submit_result("call_1", "r")) for one in (chat, other)]

    # The history has the call in another form than the model wrote.
    assert known[0] == size(chat, 2)
    assert known[1] == size(other, 4)
    assert (chat.messages[-1], other.messages[-1]) == (answer("One."), answer("Two."))


def test_a_submitted_result_too_long_is_told_to_be_so() -> None:
    with answering(CALL, ONE) as scripted:
        options = CacheOptions(idle=False)
        model = scripted.model
        runtime = Runtime(model, tokenizer=TOKENIZER, context=900, cache=options)
        chat = start(runtime, tools=[LOOK])
        list(chat.send("Look!"))

        assert said(iter(chat.submit_result("call_1", "x" * 900))) == "One."

        told = chat.messages[-2].text
        assert told.startswith("Error: the result has 900 characters, too many")
        runtime.close()


def test_editing_while_calls_wait_gives_them_up() -> None:
    with answering(CALL, ONE, CALL, TWO) as runtime:
        chat = start(runtime, tools=[LOOK])
        list(chat.send("Look!"))
        assert cached(chat.edit(1, "Look there!")) == size(chat, 0)
        assert (chat.waiting, chat.questions) == ([], ["Look there!"])

        list(chat.send("Look again!"))
        assert chat.undo() == "Look again!"
        assert chat.waiting == []

        list(chat.regenerate())
    assert chat.messages == [user("Look there!"), answer("Two.")]


def test_a_tool_loop_is_regenerated_from_its_question() -> None:
    def look() -> str:
        """Looks."""
        return "rain"

    with answering(CALL, ONE, CALL, TWO) as runtime:
        chat = start(runtime, tools=[look])
        list(chat.send("Look!"))

        events = list(chat.regenerate())

    done = events[-1]
    assert isinstance(done, Done) and done.stats.generations == 2
    assert done.stats.cached_tokens >= 2 * size(chat, 1)
    assert chat.messages[1:] == [
        reasoning("Look."),
        chat.messages[2],
        tool_result("look", "rain"),
        answer("Two."),
    ]


def test_a_chat_has_an_id_a_title_and_its_times() -> None:
    with answering(ONE, TWO) as runtime:
        chat, other = start(runtime), start(runtime)
        assert (chat.title, len({chat.id, other.id})) == ("", 2)
        list(chat.send("\n  Why is the sky   blue?\nIs it?"))
        list(chat.send("And the sea?"))

        assert chat.title == "Why is the sky blue?"
        assert chat.created <= chat.updated
        chat.title = "Colours"
        assert chat.branch().title == "Colours"
        before = chat.id
        chat.reset()
        assert (chat.title, chat.id != before) == ("", True)


def test_a_long_title_is_cut() -> None:
    with answering(ONE) as runtime:
        chat = start(runtime)
        list(chat.send("word " * 100))

    assert len(chat.title) <= 60 and chat.title.endswith("word…")


def test_every_change_is_told() -> None:
    def look() -> str:
        """Looks."""
        return "rain"

    seen: list[list[str]] = []
    with answering(CALL, ONE) as runtime:
        chat = start(
            runtime,
            tools=[look],
            on_change=lambda chat: seen.append([m.role for m in chat.messages]),
        )
        list(chat.send("Look!"))
        chat.undo()

    thought, called = ["user", "assistant"], ["user", "assistant", "assistant"]
    assert thought not in seen
    assert seen == [
        ["user"],
        called,
        [*called, "tool"],
        [*called, "tool", "assistant"],
        [],
    ]


def test_an_interrupted_answer_is_told_too() -> None:
    seen: list[Message] = []
    with answering(ONE) as runtime:
        chat = start(runtime, on_change=lambda chat: seen.append(chat.messages[-1]))
        events = chat.send("hi")
        next(events)
        events.close()

    assert seen == [user("hi"), answer("O")]


def test_a_real_model_says_the_same_after_every_change(tmp_path: Path) -> None:
    """Regenerate, edit, branch and undo, with the prompt cache and without."""
    folder = write_checkpoint(tmp_path, seed=4, num_hidden_layers=2)
    write_tokenizer(folder)
    params = SamplingParams(temperature=0, max_tokens=10)
    free = Constraints(enforce="off")  # noise has no headers to keep

    def life(runtime: Runtime, clear: bool) -> list[list[Message]]:
        chat = start(runtime, params=params, constraints=free)

        def run(events: Iterator[Event]) -> None:
            if clear:
                runtime.clear_cache()
            list(events)

        run(chat.send("one"))
        run(chat.send("two"))
        run(chat.regenerate())
        other = chat.branch(1)
        run(other.send("three"))
        run(chat.edit(1, "four"))
        run(other.edit(2, "five"))
        chat.undo()
        run(chat.send("six"))
        return [chat.messages, other.messages]

    options = CacheOptions(idle=False)
    with load(folder, cache=options) as one, load(folder, cache=options) as other:
        assert life(one, clear=True) == life(other, clear=False)
        assert one.cache_statistics.cached_tokens == 0
        assert other.cache_statistics.cached_tokens > 0
