"""How the replies to one chat completion are written: names, ids, log-probabilities."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.chat import wire
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.logprobs import clamp_logprob, token_text
from mlx_gptoss.api.settings import BOTH, REASONING, REASONING_CONTENT, ServerSettings
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import Step
from mlx_gptoss.engine.runtime import Runtime

HIDDEN = "hidden"


@dataclass(frozen=True)
class ChatReplyOptions:
    """How replies to one request are written."""

    model: str
    tokenizer: Tokenizer
    reasoning_fields: tuple[str, ...] = (REASONING,)
    logprobs: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(
        cls,
        request: ChatRequest,
        model: str,
        runtime: Runtime,
        settings: ServerSettings,
    ) -> "ChatReplyOptions":
        options = request.stream_options
        return cls(
            model,
            runtime.tokenizer,
            reasoning_fields(request, settings),
            logprobs=bool(request.logprobs),
            include_usage=bool(options and options.include_usage),
        )

    def reasoning_deltas(self, text: str) -> dict[str, Any]:
        return dict.fromkeys(self.reasoning_fields, text)

    def token_logprobs(self, steps: Sequence[Step]) -> wire.ChatLogprobs | None:
        if not self.logprobs:
            return None
        return wire.ChatLogprobs(
            content=[
                wire.TokenLogprob(
                    **self._logprob(step.token, step.logprob),
                    top_logprobs=[
                        wire.TopLogprob(**self._logprob(*one))
                        for one in step.top_logprobs
                    ],
                )
                for step in steps
            ],
            refusal=None,
        )

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_text(self.tokenizer, token),
            "logprob": clamp_logprob(logprob),
            "bytes": list(self.tokenizer.token_bytes(token)),
        }


def reasoning_fields(request: ChatRequest, settings: ServerSettings) -> tuple[str, ...]:
    """The names under which reasoning is shown; none if it is to be hidden."""
    excluded = bool(request.reasoning and request.reasoning.exclude)
    if excluded or request.include_reasoning is False:
        return ()
    wanted = request.reasoning_format or settings.reasoning_field
    if wanted == HIDDEN:
        return ()
    return (REASONING, REASONING_CONTENT) if wanted == BOTH else (wanted,)
