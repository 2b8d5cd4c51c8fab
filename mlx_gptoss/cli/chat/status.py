"""The status line: model, effort, context used, speed, memory."""

from typing import TYPE_CHECKING

from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.session import ChatSession

BETWEEN = " · "


def status_line(conversation: "ChatSession") -> str:
    """Format the current status."""
    memory, adapter = _memory(), conversation.chat.adapter
    return BETWEEN.join(
        [
            conversation.model
            if adapter is None
            else f"{conversation.model}:{adapter}",
            f"{conversation.chat.effort} effort",
            context_used(conversation),
            *_speed(conversation),
            *([format_bytes(memory)] if memory else []),
            *_kept(conversation),
        ]
    )


def context_used(conversation: "ChatSession") -> str:
    """Format the tokens of the conversation and the most that fit.

    A history can be longer than the context: a cut one still needs a closing token,
    and a resumed one may come from a larger context.
    """
    used, limit = conversation.used, conversation.runtime.longest_sequence
    if not limit:
        return f"{used:,} tokens"
    full = ", full" if used >= limit else ""
    return f"{min(used, limit):,} / {limit:,} tokens{full}"


def _speed(conversation: "ChatSession") -> list[str]:
    stats = conversation.stats
    speed = stats.generation_tokens_per_second if stats else 0.0
    return [f"{speed:.1f} tok/s"] if speed else []


def _kept(conversation: "ChatSession") -> list[str]:
    if conversation.setup.private:
        return ["private"]
    return [] if conversation.store is not None else ["not kept"]


def _memory() -> int:
    """Return the memory held by MLX; callable from any thread."""
    import mlx.core as mx

    return mx.get_active_memory() + mx.get_cache_memory()
