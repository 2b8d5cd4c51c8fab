"""A chat says how its prompts are read."""

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.prompt_progress import PromptProgress
from mlx_gptoss.harmony.events import Answer, ToolResult
from mlx_gptoss.memory import PREFILL_CHUNK as CHUNK
from tests.support.chat_turns import get_weather, joined, start
from tests.support.fakes import answering

CALL = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json"
    '<|message|>{"city": "Rome"}<|call|>'
)
ANSWER = "<|channel|>final<|message|>Rain.<|return|>"
LONG = "word " * 300  # a token per byte


def test_every_prompt_of_a_turn_is_reported_before_its_events() -> None:
    seen: list[object] = []
    with answering(CALL, ANSWER) as runtime:
        chat = start(runtime, tools=[get_weather], on_progress=seen.append)
        for event in chat.send(LONG):
            seen.append(event)

    reports = [one for one in seen if isinstance(one, PromptProgress)]
    first, second = [n for n, one in enumerate(reports) if one.processed == 0]
    result = next(n for n, one in enumerate(seen) if isinstance(one, ToolResult))
    assert seen.index(reports[second]) > result  # the second prompt has the result
    total = reports[first].total
    done = [one.processed for one in reports[first:second]]
    assert done == [*range(0, total, CHUNK), total]
    later = reports[second + 1 :]
    assert all(total - CHUNK < one.cached < one.processed for one in later)
    assert later[-1].finished


def test_without_a_callback_nothing_changes_and_a_branch_has_the_same() -> None:
    seen: list[PromptProgress] = []
    with answering(ANSWER, ANSWER, ANSWER) as runtime:
        silent = start(runtime)
        assert joined(silent.send(LONG)) == [Answer("Rain."), "stop"]

        chat = start(runtime, on_progress=seen.append)
        list(chat.branch().send("hi"))
        read = Chat.from_json(runtime, chat.to_json(), on_progress=seen.append)
        list(read.send("hi"))

    assert [one.processed for one in seen].count(0) == 2
