"""Write the reply to `/api/v1/chat`: a response of OpenAI's, retold.

writer = StudioChatWriter(job.model, load_seconds)
for event in response_events:              # of a stream of Responses
    yield from writer.events(event, answer)
writer.result(reply, answer)               # what `chat.end` has, and a whole reply
"""

from collections.abc import Iterator
from typing import Any

from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.lmstudio.wire import (
    StudioChatItem,
    StudioChatResult,
    StudioChatStatistics,
)
from mlx_gptoss.api.responses.wire import (
    MessageItem,
    OutputRefusal,
    ReasoningItem,
    ResponseReply,
)
from mlx_gptoss.api.wire import StreamEvent

ITEMS = ("reasoning", "message")
DELTAS = {
    "response.reasoning_text.delta": "reasoning.delta",
    "response.output_text.delta": "message.delta",
    "response.refusal.delta": "message.delta",
}
ENDS = ("response.completed", "response.incomplete", "response.failed")


class StudioChatWriter:
    """Writes one chat; `load_seconds` is None if the model was loaded before."""

    def __init__(self, model: str, load_seconds: float | None) -> None:
        self._model = model
        self._load_seconds = load_seconds
        self._reading = False

    def events(self, event: StreamEvent, answer: AnswerStream) -> Iterator[StreamEvent]:
        """Yield the events that tell the same as one event of a response."""
        kind = event["type"]
        if self._reading and not kind.startswith("response.in_progress"):
            self._reading = False
            yield {"type": "prompt_processing.end"}
        if kind == "response.created":
            yield from self._begin()
        elif "prompt_progress" in event:
            told = event["prompt_progress"]
            share = told["processed"] / told["total"] if told["total"] else 1.0
            yield {"type": "prompt_processing.progress", "progress": share}
        elif kind in DELTAS:
            yield {"type": DELTAS[kind], "content": event["delta"]}
        elif kind in ("response.output_item.added", "response.output_item.done"):
            item = event["item"]["type"]
            if item in ITEMS:
                end = "start" if kind.endswith("added") else "end"
                yield {"type": f"{item}.{end}"}
        elif kind in ENDS:
            yield from self._end(event["response"], answer)

    def result(self, reply: ResponseReply, answer: AnswerStream) -> StudioChatResult:
        """Return the whole chat."""
        usage, stats = answer.usage, answer.stats
        loaded = self._load_seconds
        timed: dict[str, Any] = {}
        if loaded is not None:
            timed["model_load_time_seconds"] = loaded
        stored = {"response_id": reply.id} if reply.store else {}
        return StudioChatResult(
            model_instance_id=self._model,
            output=[one for item in reply.output for one in chat_items(item)],
            stats=StudioChatStatistics(
                input_tokens=usage.prompt_tokens,
                total_output_tokens=usage.completion_tokens,
                reasoning_output_tokens=usage.reasoning_tokens,
                tokens_per_second=(
                    stats.generation_tokens_per_second if stats else 0.0
                ),
                time_to_first_token_seconds=(
                    stats.time_to_first_token if stats else 0.0
                ),
                **timed,
            ),
            **stored,
        )

    def _begin(self) -> Iterator[StreamEvent]:
        model = {"model_instance_id": self._model}
        yield {"type": "chat.start", **model}
        if (seconds := self._load_seconds) is not None:
            yield {"type": "model_load.start", **model}
            yield {"type": "model_load.end", **model, "load_time_seconds": seconds}
        self._reading = True
        yield {"type": "prompt_processing.start"}

    def _end(self, reply: Any, answer: AnswerStream) -> Iterator[StreamEvent]:
        response = ResponseReply.model_validate(reply)
        if response.error is not None:
            error = {"type": "internal_error", "message": response.error.message}
            yield {"type": "error", "error": error | {"code": response.error.code}}
        result = self.result(response, answer).model_dump(exclude_unset=True)
        yield {"type": "chat.end", "result": result}


def chat_items(item: Any) -> Iterator[StudioChatItem]:
    """Yield the text of an output item of a response; no other can be in a chat."""
    if isinstance(item, ReasoningItem | MessageItem):
        parts = (
            part.refusal if isinstance(part, OutputRefusal) else part.text
            for part in item.content
        )
        yield StudioChatItem(type=item.type, content="".join(parts))
