"""Conversations on a scripted model: events, history, tools, interruptions."""

import json
from pathlib import Path

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
    Reasoning,
)
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    developer,
    reasoning,
    system,
    user,
)
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.chat_turns import (
    BYE,
    CALL,
    DATE,
    GREEDY,
    TOKENIZER,
    get_weather,
    joined,
    prompts,
    rendered,
    start,
)
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import (
    answering,
    byte_tokenizer,
    noisy,
    write_tokenizer,
)

THOUGHT = "<|channel|>analysis<|message|>They greet.<|end|><|start|>assistant"
HELLO = THOUGHT + "<|channel|>final<|message|>Hello 👋<|return|>"


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
