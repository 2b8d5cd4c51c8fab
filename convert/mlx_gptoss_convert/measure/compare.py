"""Compare two reports of `verify`, side by side.

Knows reports and the recipe in `conversion.json`; opens no weights.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import ConversionError
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.measure.report import REPORT
from mlx_gptoss_convert.write.journal import RESULT

MISSING = "-"
ERROR_STATISTICS = ("max", "relative_rms", "cosine")


@dataclass(frozen=True)
class ComparedFolder:
    """One folder: its size, its recipe, and the numbers of its report by path."""

    name: str
    size: int  # bytes of weights
    recipe: Mapping[str, Any]
    numbers: Mapping[str, float]


def open_compared_folder(folder: Path) -> ComparedFolder:
    """Read a converted folder's report. Raises ConversionError if it has none."""
    report = read_json_object(folder, REPORT, "run `mlx-gptoss verify --against` first")
    journal = read_json_object(
        folder, RESULT, "give a folder made by `mlx-gptoss convert`"
    )
    size = sum(
        path.stat().st_size
        for path in folder.iterdir()
        if path.suffix in {".safetensors", ".gguf"}
    )
    numbers = {"faults": float(len(report.get("faults", ())))}
    for kind, error in report.get("errors", {}).items():
        numbers |= {f"{kind} {name}": error[name] for name in ERROR_STATISTICS}
    numbers |= dict(flatten(report.get("divergence") or {}))
    return ComparedFolder(folder.name, size, journal.get("recipe") or {}, numbers)


def read_json_object(folder: Path, name: str, advice: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ConversionError(f"`{path}` is missing: {advice}")
    try:
        table = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConversionError(f"`{path}` is damaged ({error}): {advice}") from error
    if not isinstance(table, dict):
        raise ConversionError(f"`{path}` is not a report: {advice}")
    return table


def flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested tables with their paths, such as `kl.mean`."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def compare(left: Path, right: Path) -> list[tuple[str, str, str]]:
    """Return rows of a label and both sides' values, for all labels of either."""
    sides = open_compared_folder(left), open_compared_folder(right)
    first, second = sides
    rows = [
        ("", first.name, second.name),
        ("weights", *(format_bytes(side.size) for side in sides)),
    ]
    for kind in dict.fromkeys([*first.recipe, *second.recipe]):
        rows.append((kind, *(format_setting(side.recipe.get(kind)) for side in sides)))
    for name in dict.fromkeys([*first.numbers, *second.numbers]):
        rows.append((name, *(format_number(side.numbers.get(name)) for side in sides)))
    return rows


def format_setting(setting: Mapping[str, Any] | None) -> str:
    """Format one entry of a recipe: `8/64` is bits and group size."""
    if setting is None:
        return "as it was"
    affine = setting["mode"] == "affine"
    return f"{setting['bits']}/{setting['group_size']}" if affine else setting["mode"]


def format_number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.6g}"


def align_rows(rows: list[tuple[str, str, str]]) -> str:
    """Format rows as aligned lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{label:{widths[0]}}  {left:>{widths[1]}}  {right:>{widths[2]}}"
        for label, left, right in rows
    )
