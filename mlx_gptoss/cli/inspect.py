"""`mlx-gptoss inspect MODEL`: run every check of loading, and describe the headers."""

import json
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.options import (
    json_option,
    model_argument,
    named_model,
    offline_option,
    strict_option,
)
from mlx_gptoss.cli.progress import ByteProgress
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.checkpoint import Checkpoint

BFLOAT16_BYTES = 2  # the precision of a model on a GPU


@click.command(short_help="Check and describe a model")
@model_argument(required=False)
@click.option("--deep", is_flag=True, help="Also read every scale and value (slow)")
@strict_option
@json_option
@offline_option
@pass_services
def inspect(
    services: Services,
    model: str | None,
    deep: bool,
    strict: bool,
    as_json: bool,
    offline: bool,
) -> None:
    """Check every header of MODEL and describe it: layers, sizes, quantization.

    MODEL is a path (./x), a Hub id (a/b) or `demo`; without it, the default model.
    Exits with 1 at the first fault. Reads only headers, unless --deep. Notes say which
    settings are turned off, not read, or contradict the weights.
    """
    from mlx_gptoss.checkpoint import check_values, open_checkpoint

    name = named_model(model)
    folder = services.fetch(name, offline=offline)
    checkpoint = open_checkpoint(folder, strict=strict, classifier=None)
    if deep:
        with ByteProgress(f"Reading {name}") as progress:
            check_values(checkpoint, progress=progress)
    found = describe(name, checkpoint, deep=deep)
    click.echo(json.dumps(found, indent=2) if as_json else _text(found))


def describe(name: str, checkpoint: "Checkpoint", *, deep: bool) -> dict[str, Any]:
    """Return a description of a checkpoint as plain values, from its headers."""
    from mlx_gptoss.checkpoint import summarize
    from mlx_gptoss.checkpoint.notices import list_notices

    return {
        "model": name,
        **summarize(checkpoint),
        "memory_by_part": checkpoint.loaded_bytes_by_part(BFLOAT16_BYTES),
        "checked": "headers and values" if deep else "headers",
        "notes": list_notices(checkpoint),
    }


def _text(found: dict[str, Any]) -> str:
    sliding = found["sliding_layers"]
    full = found["num_hidden_layers"] - sliding
    kinds, labels = f"{sliding} sliding, {full} full", found["labels"]
    if labels:
        kinds = "all see a band both ways"
    lines = [
        f"{found['model']}: {found['layout_title']}, "
        f"{found['parameters'] / 10**6:,.1f} million parameters",
        *([f"  a token classifier with {len(labels)} labels"] if labels else []),
        f"  {found['num_hidden_layers']} layers ({kinds}), "
        f"{_experts(found)}, {found['num_experts_per_tok']} a token",
        f"  hidden size {found['hidden_size']:,}, vocabulary {found['vocab_size']:,}, "
        f"context {found['max_position_embeddings']:,} tokens",
        "",
        *_parts(found),
        "",
        *(f"  {name}  {format_bytes(size)}" for name, size in found["files"].items()),
        f"  {found['tensors']} tensors, {found['checked']} checked: all good",
        *(f"  note: {line}" for line in found["notes"]),
    ]
    return "\n".join(lines)


def _experts(found: dict[str, Any]) -> str:
    by_layer = found["experts_by_layer"]
    if not by_layer:
        return f"{found['num_local_experts']} experts"
    return f"{min(by_layer)} to {max(by_layer)} experts by layer"


def _parts(found: dict[str, Any]) -> list[str]:
    stored, loaded = found["bytes_by_part"], found["memory_by_part"]
    rows = [("part", "on disk", "bfloat16", "stored as")]
    for part, size in stored.items():
        forms = ", ".join(found["quantization"].get(part, {"floats": 0}))
        rows.append((part, format_bytes(size), format_bytes(loaded[part]), forms))
    on_disk, in_memory = sum(stored.values()), sum(loaded.values())
    rows.append(("all", format_bytes(on_disk), format_bytes(in_memory), ""))
    return [f"  {a:<10}{b:>12}{c:>12}  {d}" for a, b, c, d in rows]
