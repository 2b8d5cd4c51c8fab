"""Chats on a scripted runtime, whose history is edited and counted."""

from collections.abc import Iterator
from typing import Any

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import Answer, Event

GREEDY = SamplingParams(temperature=0)
DATE = "2026-01-02"
ONE, TWO, THREE = (
    f"<|channel|>final<|message|>{text}<|return|>" for text in ("One.", "Two.", "3.")
)
CALL = (
    "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant"
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>"
)
LOOK = {"name": "look"}


def start(runtime: Runtime, **options: Any) -> Chat:
    return Chat(runtime, **{"params": GREEDY, "date": DATE} | options)


def said(events: Iterator[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Answer))
