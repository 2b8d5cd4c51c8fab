"""Reasoning before calls is restored where a client left it out."""

import json
import threading
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.reasoning_memory import ReasoningMemory
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import ToolCall
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    preamble,
    reasoning,
    tool_call,
    user,
)
from mlx_gptoss.harmony.openai_chat import from_chat_messages
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import AnsweringModel, answering, byte_tokenizer

TOKENIZER = byte_tokenizer()
DATE = "2026-01-02"
WEATHER = {"name": "get_weather", "parameters": {"type": "object"}}
THOUGHTS = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
TOLD = "<|channel|>commentary<|message|>I look it up.<|end|><|start|>assistant"
CALL = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Paris"}<|call|>'
)
PLAIN_CALL = CALL.replace("<|constrain|>json", "json")
BYE = "<|channel|>final<|message|>Bye.<|return|>"


def unbroken(*written: str) -> tuple[list[list[int]], list[Message], list[ToolCall]]:
    """Let a Chat make calls in turn; return its prompts, history and calls."""
    params = SamplingParams(temperature=0)
    with answering(*written, BYE) as runtime:
        chat = Chat(runtime, tools=[WEATHER], params=params, date=DATE)
        calls: list[ToolCall] = []
        events = chat.send("Rain?")
        while True:
            calls += [event for event in events if isinstance(event, ToolCall)]
            if not chat.waiting:
                break
            events = chat.submit_result(chat.waiting[0].id, "rain")
        model = runtime.model
        assert isinstance(model, AnsweringModel)
        return model.prompts, chat.messages, calls


def returned(call: ToolCall, text: str | None = None, **more: Any) -> list[Any]:
    """The messages of a client for a call and its result."""
    function = {"name": call.name, "arguments": call.arguments}
    calls = [{"id": call.id, "type": "function", "function": function | more}]
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    return [{"role": "assistant", "content": text, "tool_calls": calls}, result]


def prompt(messages: list[Any], memory: ReasoningMemory | None) -> list[int]:
    conversation = from_chat_messages(
        [{"role": "user", "content": "Rain?"}, *messages],
        tools=[WEATHER],
        conversation_date=DATE,
        restore=memory.restore if memory else None,
    )
    return render_messages(conversation, TOKENIZER)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (THOUGHTS.format("Look.") + CALL, None),
        (THOUGHTS.format("Look.") + TOLD + CALL, "I look it up."),
        (TOLD + THOUGHTS.format("Now.") + CALL, "I look it up."),
        (
            THOUGHTS.format("Look.") + TOLD + THOUGHTS.format("2") + CALL,
            "I look it up.",
        ),
        (THOUGHTS.format("Look.") + PLAIN_CALL, None),
    ],
)
def test_the_prompt_is_that_of_the_unbroken_conversation(
    written: str, text: str | None
) -> None:
    prompts, history, [call] = unbroken(written)
    memory = ReasoningMemory()
    memory.remember([call.id], history[1:-2])

    assert prompt(returned(call, text), memory) == prompts[1]
    # A client may reformat the arguments: the model's own come back.
    spaced = json.dumps(json.loads(call.arguments), indent=2)
    assert prompt(returned(call, text, arguments=spaced), memory) == prompts[1]
    assert prompt(returned(call, text), None) != prompts[1]


def test_every_call_of_a_loop_gets_its_own_reasoning_back() -> None:
    first, second = (THOUGHTS.format(text) + CALL for text in ("One.", "Two."))
    prompts, history, calls = unbroken(first, second)
    memory = ReasoningMemory()
    memory.remember([calls[0].id], history[1:3])
    memory.remember([calls[1].id], history[4:6])

    again = [message for call in calls for message in returned(call)]

    assert prompt(again, memory) == prompts[2]


LOOK, THOUGHT = tool_call("look", "{}"), reasoning("Hm.")


def test_reasoning_that_was_sent_is_not_doubled() -> None:
    memory = ReasoningMemory()
    memory.remember(["a"], [THOUGHT, LOOK])
    sent = [reasoning("Mine."), LOOK]

    assert memory.restore(sent, ["a"]) == sent


@pytest.mark.parametrize(
    "sent",
    [
        [tool_call("look", '{"at": 1}')],
        [tool_call("listen", "{}")],
        [LOOK, LOOK],
    ],
)
def test_another_call_of_the_same_id_gets_nothing(sent: list[Message]) -> None:
    memory = ReasoningMemory()
    memory.remember(["a"], [THOUGHT, LOOK])

    assert memory.restore(sent, ["a", "a"][: len(sent)]) == sent
    assert memory.restore([LOOK], ["b"]) == [LOOK]
    assert memory.restore([LOOK], []) == [LOOK]


def test_what_a_client_says_besides_stays_its_own() -> None:
    memory = ReasoningMemory()
    memory.remember(["a"], [THOUGHT, preamble("Wait."), LOOK])
    sent = [preamble("Please wait."), LOOK]

    assert memory.restore(sent, ["a"]) == [THOUGHT, *sent]


def test_the_oldest_go_when_it_is_full() -> None:
    memory = ReasoningMemory(limit=100)
    for name in "abc":
        memory.remember([name], [reasoning(name * 38), LOOK])
        memory.restore([LOOK], ["a"])  # recently used, so kept

    found = [len(memory.restore([LOOK], [name])) for name in "abc"]

    assert found == [2, 1, 2]
    assert memory.characters <= 100
    memory.remember(["d"], [reasoning("x" * 101), LOOK])
    assert memory.restore([LOOK], ["d"]) == [LOOK]
    memory.clear()
    assert (memory.characters, memory.restore([LOOK], ["a"])) == (0, [LOOK])


def test_what_has_no_call_is_not_kept() -> None:
    memory = ReasoningMemory()
    memory.remember([], [THOUGHT, answer("Hi.")])

    assert memory.characters == 0


@pytest.mark.parametrize("thoughts", [[], [THOUGHT]])
@pytest.mark.parametrize("sent", [[], [reasoning("Mine.")]])
def test_arguments_that_were_written_anew_are_those_of_the_model_again(
    thoughts: list[Message], sent: list[Message]
) -> None:
    """Clients of Messages get them as an object, so they cannot keep the spaces."""
    memory = ReasoningMemory()
    written = tool_call("look", '{"at": [1, 2]}')
    memory.remember(["a"], [*thoughts, written])

    restored = memory.restore([*sent, tool_call("look", '{"at":[1,2]}')], ["a"])

    assert restored == [*(sent or thoughts), written]


def test_threads_may_share_it() -> None:
    memory = ReasoningMemory(limit=2000)
    wrong: list[str] = []

    def work(name: str) -> None:
        for n in range(300):
            id = f"{name}{n % 7}"
            memory.remember([id], [reasoning(id * 10), LOOK])
            back = memory.restore([LOOK], [id])
            if back not in ([LOOK], [reasoning(id * 10), LOOK]):
                wrong.append(id)

    threads = [threading.Thread(target=work, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert 0 < memory.characters <= 2000


def test_reasoning_of_a_finished_turn_is_restored_and_then_left_out() -> None:
    _, history, [call] = unbroken(THOUGHTS.format("Look.") + CALL)
    memory = ReasoningMemory()
    memory.remember([call.id], history[1:3])
    later = [{"role": "assistant", "content": "Bye."}, {"role": "user", "content": "?"}]

    ids = prompt([*returned(call), *later], memory)

    opening = from_chat_messages([], tools=[WEATHER], conversation_date=DATE)
    assert ids == render_messages([*opening, *history, user("?")], TOKENIZER)
    assert "Look." not in TOKENIZER.decode(ids)
