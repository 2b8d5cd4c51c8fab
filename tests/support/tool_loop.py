"""Ask a scripted model that calls one tool, and return the result it read."""

from typing import Any

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.events import Done, Event, ToolResult
from tests.support.fakes import answering

BYE = "<|channel|>final<|message|>Bye.<|return|>"
FREE = Constraints(enforce="off")  # what a model may get wrong elsewhere


def call_of(name: str, arguments: str = "{}") -> str:
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"{header}{arguments}<|call|>"


def results(chat: Chat, events: list[Event]) -> list[str]:
    """Return the results of the calls; the model must have continued."""
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "stop"
    told = [event.text for event in events if isinstance(event, ToolResult)]
    assert told == [m.text for m in chat.messages if m.role == "tool"]
    return told


def ask_once(name: str, arguments: str = "{}", **options: Any) -> str:
    """Let the model call `name` once; return the result it read."""
    with answering(call_of(name, arguments), BYE) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, params=params, date="", **options)
        [told] = results(chat, list(chat.send("Go.")))
    return told


def add(a: int, b: int) -> int:
    return a + b
