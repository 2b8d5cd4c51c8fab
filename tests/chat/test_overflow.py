"""A conversation that outgrows the context: refused, or without its oldest turns."""

from collections.abc import Iterator

import pytest

from mlx_gptoss import load
from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.truncate import DROP_OLDEST, first_kept_message, max_prompt_tokens
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import LongPromptError, MemoryBudgetError, PromptError
from mlx_gptoss.harmony.events import Done
from mlx_gptoss.harmony.messages import answer, tool_call, tool_result, user
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import byte_tokenizer
from tests.support.scripted_chat import ScriptedModel

TOKENIZER = byte_tokenizer()
REPLY = "<|channel|>final<|message|>Yes.<|return|>"
CONTEXT = 1000
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    options = CacheOptions(idle=False)
    model = ScriptedModel((REPLY,))
    with Runtime(model, tokenizer=TOKENIZER, context=CONTEXT, cache=options) as runtime:
        yield runtime


def start(runtime: Runtime, overflow: str) -> Chat:
    system = "Be brief."
    return Chat(
        runtime, system=system, params=GREEDY, date="2026-01-02", overflow=overflow
    )


def shown(chat: Chat) -> list[str]:
    return [str(m.content) for m in chat.conversation if m.role == "user"]


def test_without_leave_to_drop_a_long_conversation_is_refused(
    runtime: Runtime,
) -> None:
    chat = start(runtime, "error")

    with pytest.raises(PromptError, match="the context holds 1,000: shorten it"):
        for n in range(9):
            list(chat.send(f"{n} " + "x" * 100))

    assert chat.forgotten == 0
    assert len(chat.messages) == 2 * len(shown(chat))


def test_the_oldest_turns_go_and_the_system_block_stays(runtime: Runtime) -> None:
    chat = start(runtime, DROP_OLDEST)
    texts = [f"{n} " + "x" * 100 for n in range(12)]
    cached: list[int] = []
    for text in texts:
        *_, done = chat.send(text)
        assert isinstance(done, Done) and done.finish_reason == "stop"
        cached.append(done.stats.cached_tokens)
        assert done.stats.prompt_tokens <= max_prompt_tokens(CONTEXT, GREEDY.max_tokens)

    assert [str(m.content) for m in chat.messages if m.role == "user"] == texts
    assert shown(chat) == texts[-len(shown(chat)) :]
    assert [m.role for m in chat.conversation[:3]] == ["system", "developer", "user"]
    block = len(render_messages(chat.conversation[:2], TOKENIZER, complete=False))
    assert min(cached[1:]) == block  # after turns were dropped
    assert cached.count(block) < len(texts) / 2


def test_turns_also_go_where_memory_holds_less_than_the_context() -> None:
    batch = BatchOptions(kv_memory=3 * 2**20)
    with load("demo", batch=batch, cache=CacheOptions(idle=False)) as demo:
        longest = demo.longest_sequence
        assert longest and demo.context and longest < demo.context / 4
        params = SamplingParams(temperature=0, max_tokens=4)
        chat = Chat(demo, params=params, overflow=DROP_OLDEST)
        for n in range(5):
            *_, done = chat.send(f"{n} " + "word " * (longest // 10))
            assert isinstance(done, Done)
            assert done.stats.prompt_tokens <= max_prompt_tokens(longest, 4)

        assert chat.forgotten
        with pytest.raises(MemoryBudgetError, match="shorten it"):
            list(Chat(demo, params=params).send("word " * longest))


def test_a_question_too_long_by_itself_is_refused_and_nothing_forgotten(
    runtime: Runtime,
) -> None:
    chat = start(runtime, DROP_OLDEST)
    list(chat.send("first"))

    with pytest.raises(PromptError, match="the context holds 1,000"):
        list(chat.send("x" * CONTEXT))

    assert (chat.forgotten, shown(chat)) == (0, ["first"])


def test_taking_messages_back_shows_the_older_ones_again(runtime: Runtime) -> None:
    chat = start(runtime, DROP_OLDEST)
    for n in range(9):
        list(chat.send(f"{n} " + "x" * 100))
    assert chat.forgotten
    del chat.messages[chat.forgotten :]

    list(chat.send("again"))

    assert shown(chat)[-1] == "again"
    assert len(shown(chat)) > 1


def test_what_is_saved_after_an_undo_or_a_branch_can_be_read(
    runtime: Runtime,
) -> None:
    chat = start(runtime, DROP_OLDEST)
    for n in range(9):
        list(chat.send(f"{n} " + "x" * 100))
    assert chat.forgotten
    assert Chat.from_json(runtime, chat.branch(1).to_json()).forgotten == 0
    while chat.messages:
        chat.undo()
        again = Chat.from_json(runtime, chat.to_json())
        assert again.conversation == chat.conversation
    assert chat.forgotten == 0


def test_a_turn_goes_with_all_its_messages() -> None:
    turn = [user("a"), tool_call("f", "{}"), tool_result("f", "r"), answer("b")]
    sizes = [100 - 10 * n for n in range(12)]

    kept = first_kept_message(turn * 3, 100, lambda n: sizes[n])

    assert kept == len(turn) * 2
    assert first_kept_message(turn, 10, lambda n: 99) == 0


def test_how_to_overflow_is_checked(runtime: Runtime) -> None:
    with pytest.raises(PromptError, match="overflow `shrink` is unknown"):
        start(runtime, "shrink")


def test_a_turn_of_megabytes_is_refused_before_it_is_encoded() -> None:
    with load("demo", context=CONTEXT) as demo:
        chat = Chat(demo, params=GREEDY, overflow=DROP_OLDEST)

        with pytest.raises(LongPromptError, match="the prompt has at least"):
            list(chat.send("so it goes " * 10**6))

        assert (chat.messages, chat.forgotten) == ([], 0)


def test_an_old_turn_of_megabytes_is_dropped() -> None:
    with load("demo", context=CONTEXT) as demo:
        chat = Chat(demo, params=GREEDY, overflow=DROP_OLDEST)
        chat.messages = [user("so it goes " * 10**6), answer("Yes.")]
        *_, done = chat.send("What is 2 + 3?")

    assert isinstance(done, Done) and done.stats is not None
    assert (done.stats.prompt_tokens < CONTEXT, chat.forgotten) == (True, 2)
