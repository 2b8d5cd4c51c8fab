"""`mlx-gptoss plan`: predict what fits and how fast it runs, before loading."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.given import refuse_given
from mlx_gptoss.cli.options import (
    MemorySizeType,
    adapter_option,
    collects_load_options,
    json_option,
    model_argument,
    named_model,
    offline_option,
)
from mlx_gptoss.cli.redact.plan import plan_if_classifier, show_classifier_plan
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.memory import format_bytes
from mlx_gptoss.memory.sizes import RECIPE_BITS

if TYPE_CHECKING:
    from mlx_gptoss.engine.forecast import Forecast
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.memory import Plan, PlannedModel, Range

DIGITS = 3  # significant, so that rounding keeps bounds as close as they are
OF_LANGUAGE_MODELS = (
    "context",
    "experts",
    "recipe",
    "prompt",
    "trace",
    "plot",
    "tune",
    "adapters",
)
UNUSED_BY_TUNE = ("context", "experts", "prompt", "trace", "plot")
GUESSED = (
    "ms a token = active bytes / (65 % of memory bandwidth) + rest + streamed layers x "
    "wait + (1 - hit rate) x experts' bytes / (90 % of SSD)"
)
MEASURED = (
    "ms a token = products, and the rest of a step, at measured costs + streamed "
    "layers x wait + (1 - hit rate) x experts' bytes / SSD"
)


@click.command(short_help="Predict what fits and how fast it runs")
@model_argument(required=False)
@click.option("--device", help="Plan for a Mac you do not have, like `M4 Max 36GB`")
@click.option(
    "--memory",
    type=MemorySizeType(),
    help="Memory the model may use, such as 16GB [default: what the device allows]",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Tokens of conversation to keep room for [default: 8192]",
)
@click.option(
    "--experts",
    type=click.Choice(["auto", "resident", "hybrid", "streamed"]),
    default="auto",
    show_default=True,
    help="Where the experts' weights lie",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPE_BITS)),
    help="Plan a published model as `convert --recipe` would make it",
)
@click.option(
    "--prompt",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Length of the prompt for the time to first token",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Use the hit rates of a recorded run (see `trace record`)",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw memory by part, and speed by slots (needs matplotlib)",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Plan the memory of training adapters instead (see `tune`)",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=1),
    default=2048,
    show_default=True,
    help="Tokens trained at once, for --tune",
)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Rank of the adapter, for --tune",
)
@adapter_option
@offline_option
@json_option
@collects_load_options
@pass_services
def plan(
    services: Services,
    *,
    model: str | None,
    options: "LoadOptions",
    device: str | None,
    recipe: str | None,
    prompt: int,
    plot: Path | None,
    tune: bool,
    batch_tokens: int,
    rank: int,
    as_json: bool,
) -> None:
    """Plan MODEL: where its experts go, how much memory it needs, how fast it runs.

    Only headers are read; the published models are known without any file.

    \b
    mlx-gptoss plan openai/gpt-oss-120b --device "M4 Max 64GB"
    mlx-gptoss plan ./gpt-oss-20b-q8 --memory 10GB --context 32768
    mlx-gptoss plan openai/gpt-oss-20b --device "M4 Max 64GB" --tune
    """
    from mlx_gptoss.engine.forecast import forecast
    from mlx_gptoss.engine.planned_load import with_adapters
    from mlx_gptoss.memory import describe_device

    machine, budget = describe_device(device) if device else services.device()
    name = named_model(model)
    classifier = plan_if_classifier(services, name, options, budget)
    if classifier is not None:
        refuse_given(OF_LANGUAGE_MODELS, "is for language models: leave it out")
        show_classifier_plan(classifier, name, machine.name, as_json=as_json)
        return
    subject = _subject(services, name, recipe, offline=options.offline)
    if tune and options.adapters:
        raise click.UsageError("--tune plans a new adapter: leave out --adapter")
    if not tune:
        refuse_given(["batch_tokens", "rank"], "is for --tune: leave it out")
    else:
        refuse_given(UNUSED_BY_TUNE, "does nothing with --tune: leave it out")
        from mlx_gptoss.cli.tune.plan import show_tune_plan

        show_tune_plan(
            subject, options, budget, tokens=batch_tokens, rank=rank, as_json=as_json
        )
        return
    services.find_adapters(options)
    floats = subject.float_bytes if device else None
    subject = with_adapters(subject, options, float_bytes=floats)
    found = forecast(subject, options, budget, machine, prompt_tokens=prompt)
    if plot is not None:
        from mlx_gptoss.diagnostics.plot import plot_forecast

        plot_forecast(found, plot)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else _report(found))


def _subject(
    services: Services, model: str, recipe: str | None, *, offline: bool
) -> "PlannedModel":
    """Find a model: a folder, a local or published one."""
    from mlx_gptoss.engine.forecast import (
        model_from_config,
        model_from_folder,
        model_from_shape,
    )
    from mlx_gptoss.format.config import ModelConfig
    from mlx_gptoss.memory.published_models import find_published_model
    from mlx_gptoss.model.device import choose_dtype

    shape = find_published_model(model)
    local = model == "demo" or Path(model).expanduser().exists()
    if shape is not None and (not local or recipe):
        return model_from_shape(shape, model, recipe)
    if recipe is not None:
        raise click.UsageError("--recipe is for the published models: name one")
    try:
        folder = services.fetch(model, offline=offline, check=_look)
    except _NotHere as found:
        config = ModelConfig.from_dict(found.raw, quiet=True)
        return model_from_config(config, model, found.weights)
    return model_from_folder(folder, model, choose_dtype(None).size)


class _NotHere(Exception):
    """Stops a download before it starts, once enough is known."""

    def __init__(self, config: Path, weights: int) -> None:
        from mlx_gptoss.checkpoint.folder import read_json

        super().__init__(str(config))
        self.raw = read_json(config)  # the file goes when this is raised
        self.weights = weights


def _look(config: Path, weights: int) -> None:
    raise _NotHere(config, weights)


def _report(found: "Forecast") -> str:
    subject, made, speed = found.model, found.plan, found.prediction
    config = subject.config
    recipe = f", {subject.recipe}" if subject.recipe else ""
    lines = [f"{subject.name}{recipe} on {speed.machine.name}", "", *memory_lines(made)]
    lines += ["", *_placement(made, config.num_hidden_layers, config.num_local_experts)]
    lines += ["", *_speed(found)]
    if found.alternatives:
        lines += ["", "What would change it:"]
        width = max(len(other.change) for other in found.alternatives)
        lines += [
            f"  {other.change:<{width}}  {_mode(other.plan)}, "
            f"{bounds_text(other.prediction.tokens_per_second)} tok/s"
            for other in found.alternatives
        ]
    return "\n".join(lines)


def memory_lines(made: "Plan") -> list[str]:
    parts = {"experts": made.bytes_by_part.get("experts", 0)}
    parts["rest"] = made.weight_bytes - parts["experts"]
    parts |= {"adapters": made.adapter_bytes} if made.adapter_bytes else {}
    parts[f"KV at {made.context:,}"] = made.kv_bytes
    parts["scratch"] = made.scratch_bytes
    parts |= {"headroom": made.headroom_bytes} if made.headroom_bytes else {}
    parts["in all"] = made.total_bytes
    width = max(map(len, parts))
    lines = [f"{name:<{width}}  {format_bytes(n):>8}" for name, n in parts.items()]
    budget = made.budget
    lines.append(
        f"{'budget':<{width}}  {format_bytes(budget.bytes):>8}  ({budget.source})"
    )
    return lines


def _placement(made: "Plan", layers: int, experts: int) -> list[str]:
    if not made.slots:
        lines = ["Experts are resident: all of the model is in memory"]
        return lines + ([f"  {made.refusal}"] if made.refusal else [])
    resident, slots = layers - len(made.slots), made.least_slots
    whole = f"{resident} layers resident, " if resident else ""
    return [
        f"Experts are {made.mode}: {whole}{len(made.slots)} layers with {slots} of "
        f"{experts} experts in slots; the others are read from disk on demand"
    ]


def _speed(found: "Forecast") -> list[str]:
    speed, machine = found.prediction, found.prediction.machine
    terms, is_guess = speed.terms, speed.basis == "guess"
    first = f"first token of a prompt of {speed.prompt_tokens:,} after "
    lines = [
        f"{'Guess' if is_guess else 'Expected'}: "
        f"{bounds_text(speed.tokens_per_second)} tokens a second, {first}"
        f"{bounds_text(speed.first_token_seconds)} s",
        *_basis(found),
        f"  {GUESSED if is_guess else MEASURED}",
        f"  {sum(terms.values()):.3g} ms = {terms['memory']:.3g} memory and products + "
        f"{terms['rest']:.3g} rest + {terms['sync']:.3g} waits + "
        f"{terms['disk']:.3g} disk",
        f"  {machine.bandwidth / 1e9:.0f} GB/s memory, {machine.ssd / 1e9:.1f} GB/s "
        f"SSD, {1e3 * machine.sync_seconds:.2f} ms a wait: {machine.source}",
    ]
    if machine.expert_rate is not None:
        lines.append(
            f"  experts are multiplied at {machine.expert_rate / 1e9:.1f} GB/s"
        )
    if found.plan.slots:
        lines.append(
            f"  hit rate {range_text(speed.hit_rate, 2)}: {speed.curve_source}"
        )
    return lines


def _basis(found: "Forecast") -> list[str]:
    """Say plainly which parts of a prediction are guessed."""
    if found.prediction.basis == "guess":
        return [
            "  nothing was measured, so that this is only a guess: run "
            "`mlx-gptoss probe` on the machine"
        ]
    if found.prediction.guessed_hits:
        return [
            "  partly a guess: how often experts are found in slots is not known "
            "(`trace record` counts it)"
        ]
    return []


def _mode(made: "Plan") -> str:
    return f"{made.mode}, {made.least_slots} slots" if made.slots else made.mode


def bounds_text(figure: "Range") -> str:
    """Format the bounds of a prediction, "95.2 to 148"."""
    return f"{_significant(figure.low)} to {_significant(figure.high)}"


def _significant(value: float) -> str:
    if round(value) >= 10**DIGITS:
        return f"{value:,.0f}"
    return f"{value:#.{DIGITS}g}".removesuffix(".")


def range_text(figure: "Range", digits: int = 1) -> str:
    """Format an expected value and its bounds."""
    low, expected, high = (
        f"{value:.{digits}f}" for value in (figure.low, figure.expected, figure.high)
    )
    return f"{expected} ({low} to {high})"
