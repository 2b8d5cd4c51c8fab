"""`mlx-gptoss plan MODEL --tune`: the memory of training adapters, by target."""

import json
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.tables import aligned
from mlx_gptoss.memory import format_bytes, limit_budget

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.memory import Budget, PlannedModel
    from mlx_gptoss.workloads.tune.planning import TuneForecast


def show_tune_plan(
    model: "PlannedModel",
    options: "LoadOptions",
    budget: "Budget",
    *,
    tokens: int,
    rank: int,
    as_json: bool,
) -> None:
    """Print what training takes, for each target and way of computing."""
    from mlx_gptoss.workloads.tune.options import TuneOptions
    from mlx_gptoss.workloads.tune.planning import forecast_tuning

    budget = limit_budget(budget, options.memory)
    found = forecast_tuning(
        model,
        TuneOptions(rank=rank, batch_tokens=tokens),
        budget,
        can_decode=not budget.metal,
    )
    if as_json:
        facts = {
            "model": model.name,
            "budget_bytes": budget.bytes,
            "budget_source": budget.source,
            "rank": rank,
            "ways": [each.as_json() for each in found],
        }
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(tune_plan_table(found))
    click.echo(
        f"a batch of {tokens:,} tokens, rank {rank}, within "
        f"{format_bytes(budget.bytes)} ({budget.source})"
    )


def tune_plan_table(found: "list[TuneForecast]") -> str:
    """Return a row per target and way of computing."""
    columns = ["target", "weights", "", "activations", "adapter", "total", ""]
    rows = [columns]
    for each in found:
        plan, load = each.plan, each.plan.load
        kept = "again" if load.checkpointed else "kept"
        rows.append(
            [
                each.target,
                format_bytes(plan.weight_bytes),
                "decoded" if load.decoded else "packed",
                f"{format_bytes(plan.activation_bytes + plan.logit_bytes)} {kept}",
                format_bytes(plan.trained_bytes),
                format_bytes(plan.total_bytes),
                "fits" if plan.fits else "too large",
            ]
        )
    return aligned(rows, columns=len(columns))
