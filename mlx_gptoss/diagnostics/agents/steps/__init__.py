"""The conversation of `agents check`: what agents ask of a server, step by step.

Each step says it through the protocol of the clients that need it, holds every reply
against shapes.py, and fails with the first thing that is not as promised. The model is
asked easy things only (words.py): a step is about the server. One file a protocol.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlx_gptoss.diagnostics.agents.steps import chat, messages, responses
from mlx_gptoss.diagnostics.http_client import Client
from mlx_gptoss.errors import GptOssError

Run = Callable[[Client, str], str]


@dataclass(frozen=True)
class Step:
    """One thing to try; `run(client, model)` returns a note or raises."""

    protocol: str  # chat | responses | messages
    name: str
    run: Run


@dataclass(frozen=True)
class Outcome:
    """How a step went; `note` is what came or what was wrong."""

    step: Step
    passed: bool
    note: str
    seconds: float


def check(
    client: Client, model: str, protocols: Sequence[str] | None = None
) -> Iterator[Outcome]:
    """Run the steps of `protocols` (None: all), yielding each outcome as it comes."""
    for step in STEPS:
        if protocols is None or step.protocol in protocols:
            yield _outcome(step, client, model)


def _outcome(step: Step, client: Client, model: str) -> Outcome:
    began = time.monotonic()
    try:
        note, passed = step.run(client, model), True
    except (GptOssError, LookupError, TypeError, ValueError, OSError) as error:
        note, passed = f"{error}" or type(error).__name__, False
    return Outcome(step, passed, " ".join(note.split()), time.monotonic() - began)


def models(client: Client) -> Sequence[str]:
    """Return the ids of the models a server lists."""
    return [str(model["id"]) for model in client.get("/v1/models")["data"]]


STEPS = (
    Step("chat", "an answer", chat.plain),
    Step("chat", "an answer, streamed", chat.streamed),
    Step("chat", "a tool and its result", chat.tool),
    Step("chat", "a tool demanded", chat.forced),
    Step("chat", "an answer by a JSON schema", chat.schema),
    Step("chat", "unknown fields and tool types", chat.unknown),
    Step("chat", "an error for a wrong type", chat.wrong),
    Step("responses", "an answer", responses.plain),
    Step("responses", "an answer, streamed", responses.streamed),
    Step("responses", "a tool and its result", responses.tool),
    Step("responses", "previous_response_id", responses.previous),
    Step("responses", "a custom tool", responses.custom),
    Step("responses", "what Codex sends", responses.codex),
    Step("messages", "an answer", messages.plain),
    Step("messages", "an answer, streamed", messages.streamed),
    Step("messages", "a tool and its result", messages.tool),
    Step("messages", "what Claude Code sends", messages.claude_code),
)
