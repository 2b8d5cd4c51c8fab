"""Conversations on a scripted model: events, history, tools, interruptions."""

import json
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Event,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    developer,
    reasoning,
    system,
    tool_result,
    user,
)
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import (
    AnsweringModel,
    answering,
    byte_tokenizer,
    noisy,
    write_tokenizer,
)

TOKENIZER = byte_tokenizer()
GREEDY = SamplingParams(temperature=0)
DATE = "2026-01-02"

THOUGHT = "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant"
HELLO = THOUGHT + "<|channel|>final<|message|>Hello 👋<|return|>"
BYE = "<|channel|>final<|message|>Bye.<|return|>"
CALL = (
    "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Paris"}<|call|>'
)
CALL_MESSAGE = Message(
    "assistant",
    '{"city": "Paris"}',
    "commentary",
    "functions.get_weather",
    "<|constrain|>json",
)


def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def start(runtime: Runtime, **options: Any) -> Chat:
    return Chat(runtime, **{"params": GREEDY, "date": DATE} | options)


def joined(events: Iterable[Event]) -> list[Any]:
    """Join neighbouring pieces of text; leave the statistics out."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, Done):
            found.append(event.finish_reason)
        elif found and isinstance(event, Reasoning | Preamble | Answer):
            if type(found[-1]) is type(event):
                found[-1] = type(event)(found[-1].text + event.text)
            else:
                found.append(event)
        else:
            found.append(event)
    return found


def prompts(runtime: Runtime) -> list[str]:
    model = runtime.model
    assert isinstance(model, AnsweringModel)
    return [TOKENIZER.decode(ids) for ids in model.prompts]


def rendered(*messages: Message) -> str:
    return TOKENIZER.decode(render_messages(messages, TOKENIZER))


OPENING = system("medium", conversation_date=DATE)


def test_a_turn_gives_its_events_and_ends_with_done() -> None:
    with answering(HELLO) as runtime:
        chat = start(runtime)

        events = list(chat.send("hi"))

    assert joined(events) == [Reasoning("They greet."), Answer("Hello 👋"), "stop"]
    assert chat.messages == [user("hi"), reasoning("They greet."), answer("Hello 👋")]
    [done] = [event for event in events if isinstance(event, Done)]
    assert done.stats.completion_tokens == len(HELLO.encode()) - sum(
        len(name) - 1 for name in TOKENIZER.specials for _ in range(HELLO.count(name))
    )


def test_the_next_prompt_leaves_the_old_reasoning_out() -> None:
    with answering(HELLO, BYE) as runtime:
        chat = start(runtime, system="Be kind.", effort="high")
        list(chat.send("hi"))
        list(chat.send("bye"))

        opening = [system("high", conversation_date=DATE), developer("Be kind.")]
        assert prompts(runtime) == [
            rendered(*opening, user("hi")),
            rendered(*opening, user("hi"), answer("Hello 👋"), user("bye")),
        ]


def test_effort_and_system_can_change_between_turns() -> None:
    with answering(HELLO, BYE) as runtime:
        chat = start(runtime)
        list(chat.send("hi"))
        chat.effort, chat.system = "low", "Be brief."
        list(chat.send("bye"))

        assert "Reasoning: medium" in prompts(runtime)[0]
        assert "Reasoning: low" in prompts(runtime)[1]
        assert "Be brief." in prompts(runtime)[1]
        with pytest.raises(PromptError, match="effort `hihg` is unknown"):
            chat.effort = "hihg"
    assert chat.effort == "low"


def test_tools_are_run_and_the_model_goes_on() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[get_weather])

        events = list(chat.send("Rain?"))

        assert joined(events) == [
            Reasoning("Look."),
            ToolCall("call_1", "get_weather", '{"city": "Paris"}'),
            ToolResult("call_1", "rain in Paris"),
            Answer("Bye."),
            "stop",
        ]
        opening = [OPENING, developer(tools=[chat.tools["get_weather"].description])]
        loop = [
            user("Rain?"),
            reasoning("Look."),
            CALL_MESSAGE,
            tool_result("get_weather", "rain in Paris"),
        ]
        assert prompts(runtime)[1] == rendered(*opening, *loop)
    assert chat.messages == [*loop, answer("Bye.")]
    [done] = [event for event in events if isinstance(event, Done)]
    assert (done.stats.generations, done.stats.finish_reason) == (2, "stop")


def test_a_call_without_function_waits_for_its_result() -> None:
    weather = {"name": "get_weather", "parameters": {"type": "object"}}
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[weather])
        call = ToolCall("call_1", "get_weather", '{"city": "Paris"}')

        events = list(chat.send("Rain?"))

        assert joined(events) == [Reasoning("Look."), call, "tool_calls"]
        assert chat.waiting == [call]
        with pytest.raises(PromptError, match=r"no call `call_9` waits.*`call_1`"):
            chat.submit_result("call_9", "")

        events = list(chat.submit_result("call_1", "sun"))

        assert joined(events) == [Answer("Bye."), "stop"]
    assert chat.messages[-2:] == [tool_result("get_weather", "sun"), answer("Bye.")]


def test_several_calls_are_all_answered_before_the_model_goes_on() -> None:
    two = CALL.replace("<|call|>", "<|end|>") + (
        "<|start|>assistant<|channel|>commentary to=functions.outside <|constrain|>json"
        "<|message|>{}<|call|>"
    )
    with answering(two, BYE) as runtime:
        chat = start(runtime, tools=[get_weather, {"name": "outside"}])

        events = list(chat.send("Rain?"))

        assert [type(event) for event in joined(events)] == [
            Reasoning,
            ToolCall,
            ToolCall,
            ToolResult,
            str,
        ]
        assert [call.id for call in chat.waiting] == ["call_2"]
        assert joined(chat.submit_result("call_2", "x")) == [Answer("Bye."), "stop"]
    assert [m.name for m in chat.messages if m.role == "tool"] == [
        "functions.get_weather",
        "functions.outside",
    ]


SEVERAL = "<|end|><|start|>assistant".join(
    f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{arguments}"
    for name, arguments in [
        ("outside", "{}"),
        ("get_weather", '{"city": "Rome"}'),
        ("outside", '{"n": 3}'),
        ("outside", "{}"),
    ]
)
OUTSIDE = {"name": "outside", "parameters": {"type": "object"}}


@pytest.mark.parametrize("order", list(permutations(["call_1", "call_3", "call_4"])))
@pytest.mark.parametrize("saved", [False, True])
def test_results_stand_in_the_order_of_their_calls(
    order: tuple[str, ...], saved: bool
) -> None:
    options: dict[str, Any] = {"tools": [OUTSIDE, get_weather], "params": GREEDY}
    with answering(SEVERAL + "<|call|>", BYE) as runtime:
        chat = start(runtime, **options)
        list(chat.send("?"))
        for call_id in order:
            if saved:
                text = json.dumps(chat.to_json())
                chat = Chat.from_json(runtime, text, **options)
            list(chat.submit_result(call_id, f"of {call_id}"))

    results = [message.text for message in chat.messages if message.role == "tool"]
    assert results == ["of call_1", "rain in Rome", "of call_3", "of call_4"]


def test_calls_closed_by_a_question_keep_the_order_of_the_results() -> None:
    with answering(SEVERAL + "<|call|>", BYE) as runtime:
        chat = start(runtime, tools=[OUTSIDE, get_weather])
        list(chat.send("?"))
        list(chat.submit_result("call_3", "of call_3"))

        list(chat.send("never mind"))

    closed = "Error: the call was interrupted"
    results = [message.text for message in chat.messages if message.role == "tool"]
    assert results == [closed, "rain in Rome", "of call_3", closed]


@pytest.mark.parametrize("place", [-1, 2, True, "0"])
def test_a_saved_call_at_no_place_is_refused(place: Any) -> None:
    with answering(CALL) as runtime:
        chat = start(runtime, tools=[{"name": "get_weather"}])
        list(chat.send("?"))
        saved = chat.to_json()
        saved["waiting"][0]["place"] = place

        with pytest.raises(PromptError, match=r"`place` of waiting\[0\] is"):
            Chat.from_json(runtime, saved)


def test_a_call_that_cannot_run_is_answered_with_why() -> None:
    wrong = CALL.replace("get_weather", "get_wether")
    broken = CALL.replace('"}', "")
    with answering(wrong, broken, BYE) as runtime:
        free = Constraints(enforce="off")
        chat = start(runtime, tools=[get_weather], constraints=free)

        events = joined(chat.send("Rain?"))

    results = [event.text for event in events if isinstance(event, ToolResult)]
    assert len([e for e in events if isinstance(e, ToolCallFailed)]) == 2
    assert "there is no tool `functions.get_wether`" in results[0]
    assert "the arguments are not a JSON object" in results[1]
    assert events[-2:] == [Answer("Bye."), "stop"]


def test_an_unanswered_call_is_closed_by_the_next_question() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[{"name": "get_weather"}])
        list(chat.send("Rain?"))

        list(chat.send("never mind"))

    assert chat.messages[3:] == [
        tool_result("get_weather", "Error: the call was interrupted"),
        user("never mind"),
        answer("Bye."),
    ]
    assert chat.waiting == []


def test_endless_tool_loops_are_ended() -> None:
    with answering(CALL, CALL, CALL) as runtime:
        chat = start(runtime, tools=[get_weather], max_rounds=3)

        events = joined(chat.send("Rain?"))

    assert [e for e in events if isinstance(e, ToolResult)][-1].id == "call_3"
    assert events[-1] == "length"


def test_max_tokens_bound_the_whole_turn() -> None:
    call_tokens = len(TOKENIZER.encode(CALL))  # more than CALL is, less than two
    params = SamplingParams(temperature=0, max_tokens=call_tokens)
    with answering(CALL, CALL) as runtime:
        chat = start(runtime, tools=[get_weather], params=params)

        events = list(chat.send("Rain?"))

    [done] = [event for event in events if isinstance(event, Done)]
    assert (done.finish_reason, done.stats.completion_tokens) == ("length", call_tokens)
    # The half of the second call is not kept: no result could ever answer it.
    assert sum(message.is_call for message in chat.messages) == 1


def test_an_answer_cut_off_is_kept() -> None:
    params = SamplingParams(temperature=0, max_tokens=len("xanalysisxThey"))
    with answering(HELLO) as runtime:
        chat = start(runtime, params=params)

        events = joined(chat.send("hi"))

    assert events == [Reasoning("They"), "length"]
    assert chat.messages == [user("hi"), reasoning("They")]


def test_leaving_early_keeps_what_came() -> None:
    with answering(HELLO, BYE) as runtime:
        chat = start(runtime)
        events = chat.send("hi")
        for event in events:
            if event == Answer("e"):
                break
        events.close()

        assert chat.messages[-1] == answer("He")
        assert joined(chat.send("bye"))[-1] == "stop"


def test_an_interrupt_inside_the_answer_keeps_what_came() -> None:
    with answering(HELLO, BYE) as runtime:
        chat = start(runtime)
        events = chat.send("hi")
        next(events)

        with pytest.raises(KeyboardInterrupt):
            events.throw(KeyboardInterrupt)

        assert chat.messages == [user("hi"), reasoning("T")]
        assert joined(chat.send("bye")) == [Answer("Bye."), "stop"]


def test_cancelling_ends_the_turn_with_done() -> None:
    with answering(HELLO, BYE) as runtime:
        chat = start(runtime)
        events = chat.send("hi")
        first = next(events)
        chat.cancel()

        assert joined([first, *events])[-1] == "cancelled"
        assert joined(chat.send("bye")) == [Answer("Bye."), "stop"]


def test_a_question_too_long_is_not_kept() -> None:
    with answering(HELLO) as scripted:
        runtime = Runtime(
            scripted.model,
            tokenizer=TOKENIZER,
            context=600,
            cache=CacheOptions(idle=False),
        )
        chat = start(runtime)

        with pytest.raises(PromptError, match="shorten it"):
            list(chat.send("x" * 600))

        assert chat.messages == []
        assert joined(chat.send("hi"))[-1] == "stop"
        runtime.close()


def test_reset_forgets_the_conversation_only() -> None:
    with answering(HELLO, HELLO) as runtime:
        chat = start(runtime, system="Be kind.")
        list(chat.send("hi"))
        chat.reset()
        list(chat.send("hi"))

        assert len(set(prompts(runtime))) == 1
    assert len(chat.messages) == 3


def test_a_chat_survives_json() -> None:
    with answering(CALL, BYE) as runtime:
        chat = start(runtime, tools=[{"name": "get_weather"}], system="s", effort="low")
        list(chat.send("Rain?"))

        again = Chat.from_json(
            runtime,
            json.dumps(chat.to_json()),
            tools=[{"name": "get_weather"}],
            params=GREEDY,
        )

        assert again.conversation == chat.conversation
        assert again.waiting == chat.waiting
        assert joined(again.submit_result("call_1", "sun"))[-1] == "stop"
        with pytest.raises(PromptError, match="not a saved chat"):
            Chat.from_json(runtime, "{}")


def test_a_seed_repeats_the_conversation() -> None:
    def talk(seed: int) -> list[Message]:
        with Runtime(noisy(vocab_size=265), tokenizer=TOKENIZER) as runtime:
            params = SamplingParams(seed=seed, max_tokens=20)
            chat = start(runtime, params=params)
            list(chat.send("a"))
            list(chat.send("b"))
            return chat.messages

    assert talk(3) == talk(3) != talk(4)


def test_two_tools_of_one_name_are_refused() -> None:
    with answering() as runtime, pytest.raises(PromptError, match="two tools"):
        start(runtime, tools=[get_weather, {"name": "get_weather"}])


def test_a_model_without_harmony_cannot_chat() -> None:
    with (
        Runtime(noisy(), tokenizer=byte_tokenizer(())) as runtime,
        pytest.raises(PromptError, match="no Harmony tokens, so it cannot chat"),
    ):
        Chat(runtime)


def test_only_what_is_new_is_read_and_the_answers_stay_the_same(
    tmp_path: Path,
) -> None:
    """A real model, a window much shorter than the prompts, chunks of all sizes."""
    folder = write_checkpoint(tmp_path, seed=4, num_hidden_layers=2)
    write_tokenizer(folder)
    params = SamplingParams(temperature=0, max_tokens=12)
    options = CacheOptions(idle=False)
    with load(folder, cache=options) as one, load(folder, cache=options) as other:
        free = Constraints(enforce="off")  # noise has no headers to keep
        fresh, kept = (
            start(runtime, params=params, constraints=free) for runtime in (one, other)
        )
        cached: list[int] = []
        for text in ("one", "two", "three"):
            list(fresh.send(text))
            one.clear_cache()
            *_, done = kept.send(text)
            assert isinstance(done, Done)
            cached.append(done.stats.cached_tokens)
        questions = [
            len(render_messages(kept.conversation[:end], TOKENIZER, complete=False))
            for end, message in enumerate(kept.conversation, start=1)
            if message.role == "user"
        ]

    assert kept.messages == fresh.messages
    assert cached == [0, *questions[:2]]
