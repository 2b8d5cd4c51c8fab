"""An answer that a guard refused: it says so, and nothing is generated.

It is read like any other answer, so every API writes it in its own form, whole or as a
stream: one event, Refusal, and the finish reason `content_filter`.
"""

from collections.abc import AsyncGenerator, Sequence

from mlx_gptoss.api.generation import AnswerStream, PreparedPrompt
from mlx_gptoss.api.reply_parser import ParsedToken, ReplyParser
from mlx_gptoss.engine.outputs import CONTENT_FILTER
from mlx_gptoss.engine.raw_text import TextParser
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.events import Refusal
from mlx_gptoss.harmony.messages import DeveloperContent, Message

GUARDED_ROLES = ("developer", "user", "tool")


class RefusedAnswer(AnswerStream):
    """An answer that only has a reason why there is none."""

    def __init__(self, runtime: Runtime, reason: str) -> None:
        parser = ReplyParser(TextParser(runtime.tokenizer))
        super().__init__(runtime, PreparedPrompt([], SamplingParams(), parser))
        self.reason = reason

    @property
    def finish_reason(self) -> str:
        return CONTENT_FILTER

    async def __aiter__(self) -> AsyncGenerator[ParsedToken]:
        yield ParsedToken([Refusal(self.reason)])


def incoming_texts(conversation: Sequence[Message]) -> list[str]:
    """Return what a client wrote: a text for each stretch between two answers.

    Instructions, questions and results of tools are in it, and names of tools and
    their descriptions are not. A stretch stays the same as a conversation grows.
    """
    texts, open_parts = list[str](), list[str]()
    for message in conversation:
        if message.role == "assistant":
            texts.append("\n\n".join(open_parts))
            open_parts = []
        elif message.role in GUARDED_ROLES:
            content = message.content
            if isinstance(content, DeveloperContent):
                open_parts.append(content.instructions or "")
            else:
                open_parts.append(message.text)
    texts.append("\n\n".join(open_parts))
    return [text for text in map(str.strip, texts) if text]
