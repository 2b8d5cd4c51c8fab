"""The conversation of `agents check`: what agents ask of a server, step by step.

Each step says it through the protocol of the clients that need it, holds every reply
against shapes.py, and fails with the first thing that is not as promised. The model is
asked easy things only (words.py): a step is about the server. One file a protocol.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlx_gptoss.diagnostics.agents.steps import chat, messages, responses
from mlx_gptoss.diagnostics.http_client import HttpClient
from mlx_gptoss.errors import GptOssError

StepFunction = Callable[[HttpClient, str], str]


@dataclass(frozen=True)
class CheckStep:
    """One thing to try; `run(client, model)` returns a note or raises."""

    protocol: str  # chat | responses | messages
    name: str
    run: StepFunction


@dataclass(frozen=True)
class StepResult:
    """How a step went; `note` is what came or what was wrong."""

    step: CheckStep
    passed: bool
    note: str
    seconds: float


def run_checks(
    client: HttpClient, model: str, protocols: Sequence[str] | None = None
) -> Iterator[StepResult]:
    """Run the steps of `protocols` (None: all), yielding each outcome as it comes."""
    for step in STEPS:
        if protocols is None or step.protocol in protocols:
            yield _run_step(step, client, model)


def _run_step(step: CheckStep, client: HttpClient, model: str) -> StepResult:
    began = time.monotonic()
    try:
        note, passed = step.run(client, model), True
    except (GptOssError, LookupError, TypeError, ValueError, OSError) as error:
        note, passed = f"{error}" or type(error).__name__, False
    return StepResult(step, passed, " ".join(note.split()), time.monotonic() - began)


def list_models(client: HttpClient) -> Sequence[str]:
    """Return the ids of the models a server lists."""
    return [str(model["id"]) for model in client.get("/v1/models")["data"]]


STEPS = (
    CheckStep("chat", "an answer", chat.plain),
    CheckStep("chat", "an answer, streamed", chat.streamed),
    CheckStep("chat", "a tool and its result", chat.tool),
    CheckStep("chat", "a tool demanded", chat.forced),
    CheckStep("chat", "an answer by a JSON schema", chat.schema),
    CheckStep("chat", "unknown fields and tool types", chat.unknown),
    CheckStep("chat", "an error for a wrong type", chat.wrong),
    CheckStep("responses", "an answer", responses.plain),
    CheckStep("responses", "an answer, streamed", responses.streamed),
    CheckStep("responses", "a tool and its result", responses.tool),
    CheckStep("responses", "previous_response_id", responses.previous),
    CheckStep("responses", "a custom tool", responses.custom),
    CheckStep("responses", "what Codex sends", responses.codex),
    CheckStep("messages", "an answer", messages.plain),
    CheckStep("messages", "an answer, streamed", messages.streamed),
    CheckStep("messages", "a tool and its result", messages.tool),
    CheckStep("messages", "what Claude Code sends", messages.claude_code),
)
