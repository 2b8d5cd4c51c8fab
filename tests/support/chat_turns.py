"""Chats on a scripted model, with their events and prompts joined to compare."""

from collections.abc import Iterable
from typing import Any

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Event,
    Preamble,
    Reasoning,
)
from mlx_gptoss.harmony.messages import (
    Message,
)
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import (
    AnsweringModel,
    byte_tokenizer,
)

TOKENIZER = byte_tokenizer()
GREEDY = SamplingParams(temperature=0)
DATE = "2026-01-02"
BYE = "<|channel|>final<|message|>Bye.<|return|>"
CALL = (
    "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Paris"}<|call|>'
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
