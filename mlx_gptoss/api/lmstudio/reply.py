"""Write LM Studio's replies: those of OpenAI, with statistics, model and runtime."""

from collections.abc import AsyncIterator
from typing import TypeVar

from mlx_gptoss import __version__
from mlx_gptoss.api.generation import AnswerStream
from mlx_gptoss.api.lmstudio import wire
from mlx_gptoss.api.wire import JsonObject, ReplyModel
from mlx_gptoss.engine.outputs import STOP, TOOL_CALLS

ARCHITECTURE = "gpt_oss"
FORMAT = "mlx"  # the other one that clients know is gguf
RUNTIME = "mlx-gptoss"
Studio = TypeVar("Studio", bound=wire.StudioFields)


def studio_fields(answer: AnswerStream, model: wire.StudioModelInfo) -> JsonObject:
    """Return what LM Studio adds to the reply of an answer that has ended."""
    runtime = wire.StudioRuntime(
        name=RUNTIME, version=__version__, supported_formats=[FORMAT]
    )
    return {"stats": statistics(answer), "model_info": model, "runtime": runtime}


def statistics(answer: AnswerStream) -> wire.StudioStatistics:
    stats = answer.stats
    return wire.StudioStatistics(
        tokens_per_second=stats.generation_tokens_per_second if stats else 0.0,
        time_to_first_token=stats.time_to_first_token if stats else 0.0,
        generation_time=stats.generation_seconds if stats else 0.0,
        stop_reason=stop_reason(answer),
    )


def stop_reason(answer: AnswerStream) -> wire.StopReason:
    """Return why an answer ended; repeated text counts as too many tokens."""
    if answer.finish_reason == TOOL_CALLS:
        return "toolCalls"
    if answer.finish_reason == STOP:
        found = answer.parser.stop_string is not None
        return "stopStringFound" if found else "eosFound"
    limit, used = answer.prompt.params.max_tokens, answer.usage.completion_tokens
    looped = answer.stats is not None and answer.stats.ended_in_loop
    if looped or (limit is not None and used >= limit):
        return "maxPredictedTokensReached"
    return "contextLengthReached"


def as_studio(form: type[Studio], reply: ReplyModel, fields: JsonObject) -> Studio:
    """Return a reply with more fields."""
    given = {name: getattr(reply, name) for name in reply.model_fields_set}
    return form(**given, **fields)


async def stream_as_studio(
    form: type[Studio],
    chunks: AsyncIterator[ReplyModel],
    answer: AnswerStream,
    model: wire.StudioModelInfo,
) -> AsyncIterator[ReplyModel]:
    """Yield the chunks of a stream; the one that ends it has the statistics."""
    async for chunk in chunks:
        choices = getattr(chunk, "choices", ())
        ends = any(choice.finish_reason for choice in choices)
        yield as_studio(form, chunk, studio_fields(answer, model)) if ends else chunk
