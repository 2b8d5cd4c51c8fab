"""The steps of `agents check`: requests as agents send them, one file per protocol.

Each step validates every reply (received.py) and fails with the first error. The
questions are easy (prompts.py), because a step tests the server, not the model.
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
    """A step; `run(client, model)` returns a note, or raises."""

    protocol: str  # chat | responses | messages
    name: str
    run: StepFunction


@dataclass(frozen=True)
class StepResult:
    """The result of a step; `note` is its reply or its error."""

    step: CheckStep
    passed: bool
    note: str
    seconds: float


def run_checks(
    client: HttpClient, model: str, protocols: Sequence[str] | None = None
) -> Iterator[StepResult]:
    """Run the steps of `protocols` (None: all) and yield each result."""
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
