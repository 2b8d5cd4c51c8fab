"""The plan of a token classifier: the memory it takes, and what there is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.services import Services
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.memory import Budget
    from mlx_gptoss.workloads.redact.memory import ClassifierPlan


class _NotHere(Exception):
    """Stops a download before it starts, once enough is known."""

    def __init__(self, config: Path, weights: int) -> None:
        from mlx_gptoss.checkpoint.json_files import read_json

        super().__init__(str(config))
        self.raw, self.weights = read_json(config), weights


def plan_if_classifier(
    services: Services, name: str, options: "LoadOptions", budget: "Budget"
) -> "ClassifierPlan | None":
    """Plan a model if it is a token classifier, here or on the Hub; else None."""
    from mlx_gptoss.checkpoint import open_checkpoint
    from mlx_gptoss.checkpoint.json_files import read_json_or_empty
    from mlx_gptoss.format.config import CLASSIFIER, ModelConfig
    from mlx_gptoss.format.file_names import CONFIG
    from mlx_gptoss.memory.budget import limit_budget
    from mlx_gptoss.memory.published_models import find_published_model
    from mlx_gptoss.workloads.redact.memory import plan_classifier, plan_sizes

    if name == "demo" or find_published_model(name) is not None:
        return None
    budget = limit_budget(budget, options.memory)

    def look(config: Path, weights: int) -> None:
        raise _NotHere(config, weights)

    try:
        folder = services.fetch(name, offline=options.offline, check=look)
    except _NotHere as found:
        if found.raw.get("model_type") != CLASSIFIER:
            return None
        config = ModelConfig.from_dict(found.raw, quiet=True)
        return plan_sizes(config, {"weights": found.weights}, options, budget)
    if read_json_or_empty(folder / CONFIG).get("model_type") != CLASSIFIER:
        return None
    return plan_classifier(open_checkpoint(folder, classifier=True), options, budget)


def show_classifier_plan(
    plan: "ClassifierPlan", name: str, machine: str, *, as_json: bool
) -> None:
    """Print the plan of a classifier."""
    if as_json:
        facts: dict[str, Any] = {
            "model": name,
            "kind": "token classifier",
            "bytes_by_part": plan.bytes_by_part,
            "scratch_bytes": plan.scratch_bytes,
            "total_bytes": plan.total_bytes,
            "budget": vars(plan.budget),
            "fits": plan.fits,
        }
        click.echo(json.dumps(facts, indent=2))
        return
    rows = {part: size for part, size in plan.bytes_by_part.items() if size}
    rows |= {"to compute": plan.scratch_bytes, "in all": plan.total_bytes}
    width = max(map(len, (*rows, "budget")))
    lines = [f"{name} on {machine}: a token classifier, for `mlx-gptoss redact`", ""]
    lines += [f"{part:<{width}}  {format_bytes(n):>8}" for part, n in rows.items()]
    size = format_bytes(plan.budget.bytes)
    lines.append(f"{'budget':<{width}}  {size:>8}  ({plan.budget.source})")
    lines += ["", "It fits" if plan.fits else "It does not fit"]
    click.echo("\n".join(lines))
