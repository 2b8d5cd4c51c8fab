"""Format statistics of an answer: one line of text, or JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.outputs import Statistics
    from mlx_gptoss.model.experts.statistics import ExpertStatistics, LayerStatistics


def one_line(stats: "Statistics") -> str:
    """Format token counts, speeds, time to first token and peak memory."""
    cached = f" ({stats.cached_tokens} cached)" if stats.cached_tokens else ""
    parts = [
        f"prompt {stats.prompt_tokens} tokens{cached}"
        f" at {stats.prompt_tokens_per_second:.1f} tok/s",
        f"answer {stats.completion_tokens} tokens"
        f" at {stats.generation_tokens_per_second:.1f} tok/s",
        f"first after {stats.time_to_first_token:.2f} s",
        f"peak {format_bytes(stats.peak_memory)}",
    ]
    return ", ".join(parts)


def expert_lines(stats: "ExpertStatistics") -> list[str]:
    """Format statistics of expert streaming: a total, then one line per layer."""
    if not stats.layers:
        return []
    total = stats.total
    lines = [
        f"experts: {total.hit_rate:.1%} hits, {format_bytes(total.bytes_read)} read; "
        f"{_milliseconds(total)}; {stats.resident_layers} layers resident"
    ]
    lines += [
        f"  layer {n}: {stats.slots[n]} slots, {layer.hit_rate:.1%} hits, "
        f"{format_bytes(layer.bytes_read)}; {_milliseconds(layer)}"
        for n, layer in sorted(stats.layers.items())
    ]
    return lines


def expert_facts(stats: "ExpertStatistics") -> dict[str, Any]:
    """Return statistics of expert streaming, for JSON."""
    layers = {
        str(n): asdict(layer) | {"hit_rate": layer.hit_rate, "slots": stats.slots[n]}
        for n, layer in sorted(stats.layers.items())
    }
    total = asdict(stats.total) | {"hit_rate": stats.total.hit_rate}
    return total | {"resident_layers": stats.resident_layers, "layers": layers}


def _milliseconds(layer: "LayerStatistics") -> str:
    parts = {
        "I/O": layer.io_seconds,
        "sync": layer.sync_seconds,
        "compute": layer.compute_seconds,
    }
    return ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in parts.items())


def as_facts(stats: "Statistics") -> dict[str, Any]:
    """Return every field and both speeds, for JSON."""
    return asdict(stats) | {
        "prompt_tokens_per_second": stats.prompt_tokens_per_second,
        "generation_tokens_per_second": stats.generation_tokens_per_second,
    }
