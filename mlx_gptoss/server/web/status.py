"""The figures beside a conversation: memory, context, queue, reading, speed.

Read every `tick` seconds of the page while a tab looks.
"""

from time import perf_counter
from typing import Any

from mlx_gptoss.engine.prompt_progress import PromptProgress
from mlx_gptoss.server.web.conversation import OpenConversation
from mlx_gptoss.server.web.page import WebPage


def page_status(page: WebPage, found: OpenConversation | None) -> dict[str, Any]:
    """Return the figures of this moment; of `found`, if a tab shows one."""
    status: dict[str, Any] = {
        "memory": memory_bytes(),
        "answering": [one.id for one in page.conversations.answering],
        "draining": page.drain.started,
        "download": None if page.library is None else page.library.state,
    }
    if found is None:
        return status
    name = page.conversations.settings_of(found).model
    runtime = page.models.runtime(page.models.resolve(name).model)
    status |= {
        "chat": found.id,
        "loaded": runtime is not None,
        "context": None if runtime is None else runtime.longest_sequence,
        "used": found.used,
    }
    answer = found.answer
    if answer is None:
        return status
    chat = answer.chat
    stats = None if chat is None else chat.running_stats
    status |= {
        "queue": 0 if chat is None else chat.queue_position,
        "reading": describe_reading(answer.reading),
    }
    if stats is not None and stats.completion_tokens:
        status |= {
            "tokens": stats.completion_tokens,
            "speed": round(stats.generation_tokens_per_second, 1),
            "cached": stats.cached_tokens,
            "used": stats.prompt_tokens + stats.completion_tokens,
        }
    return status


def describe_reading(progress: PromptProgress | None) -> dict[str, Any] | None:
    """Return how much of a prompt is read; None if none is being read."""
    if progress is None or progress.finished:
        return None
    left = progress.seconds_left(perf_counter())
    return {
        "done": progress.processed,
        "of": progress.total,
        "cached": progress.cached,
        "left": None if left is None else round(left),
    }


def memory_bytes() -> int:
    """Return the memory held by MLX."""
    import mlx.core as mx  # noqa: PLC0415 - routes are imported before a model is

    return mx.get_active_memory() + mx.get_cache_memory()
