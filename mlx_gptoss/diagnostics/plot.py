"""Plot a plan: memory by part against the budget, and predicted speed by slots.

Needs matplotlib, an extra: `pip install 'mlx-gptoss[plot]'`.
"""

from io import BytesIO
from pathlib import Path

from mlx_gptoss.engine.forecast import Forecast
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.files import write
from mlx_gptoss.memory import Plan, Range, measure_workload, predict
from mlx_gptoss.memory.machines import GIGA
from mlx_gptoss.memory.plan import HYBRID, STREAMED

INCHES = (11, 4.5)


def plot_forecast(forecast: Forecast, path: Path) -> Path:
    """Plot a forecast into a PNG file and return its path.

    Raises ConfigError without matplotlib, StorageError if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib: `pip install 'mlx-gptoss[plot]'`"
        ) from error
    figure = Figure(figsize=INCHES, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    _draw_memory(left, forecast.plan)
    _draw_speed(right, forecast)
    name = forecast.prediction.machine.name
    figure.suptitle(f"{forecast.model.name} on {name}")
    image = BytesIO()
    figure.savefig(image, format="png")
    write(path, image.getvalue(), private=False)
    return path


def memory_by_part(plan: Plan) -> dict[str, int]:
    """Return the bytes of each part of the memory bar."""
    experts = plan.bytes_by_part.get("experts", 0)
    return {
        "experts": experts,
        "rest": plan.weight_bytes - experts,
        "adapters": plan.adapter_bytes,
        "KV cache": plan.kv_bytes,
        "scratch": plan.scratch_bytes,
        "headroom": plan.headroom_bytes,
    }


def speed_by_slots(forecast: Forecast) -> dict[int, Range]:
    """Predict tokens per second by number of slots, with all layers streamed."""
    config, plan = forecast.model.config, forecast.plan
    machine, speeds = forecast.prediction.machine, {}
    for slots in range(config.num_experts_per_tok, config.num_local_experts + 1):
        placed = dict.fromkeys(range(config.num_hidden_layers), slots)
        work = measure_workload(_with_slots(plan, placed), config)
        found = predict(work, machine, forecast.curve, prompt_tokens=1)
        speeds[slots] = found.tokens_per_second
    return speeds


def _with_slots(plan: Plan, slots: dict[int, int]) -> Plan:
    return Plan(**(vars(plan) | {"mode": STREAMED, "slots": slots}))


def _draw_memory(axes, plan: Plan) -> None:
    bottom = 0.0
    for name, count in memory_by_part(plan).items():
        axes.bar([""], [count / GIGA], bottom=bottom, label=name, width=0.5)
        bottom += count / GIGA
    budget = plan.budget.bytes / GIGA
    axes.axhline(budget, color="black", linestyle="--", label="budget")
    axes.set_ylabel("GB")
    axes.set_title("Memory")
    axes.legend(fontsize="small")


def _draw_speed(axes, forecast: Forecast) -> None:
    speeds = speed_by_slots(forecast)
    slots = list(speeds)
    axes.fill_between(
        slots,
        [speed.low for speed in speeds.values()],
        [speed.high for speed in speeds.values()],
        alpha=0.25,
        label="bounds",
    )
    expected = [speed.expected for speed in speeds.values()]
    axes.plot(slots, expected, label="all layers streamed")
    planned = forecast.prediction.tokens_per_second.expected
    label = f"planned: {forecast.plan.mode}"
    if forecast.plan.mode in (STREAMED, HYBRID):
        axes.plot([forecast.plan.least_slots], [planned], "o", label=label)
    else:
        axes.axhline(planned, linestyle=":", label=label)
    axes.set_xlabel("slots per layer")
    axes.set_ylabel("tokens per second")
    axes.set_ylim(bottom=0)
    axes.set_title("Predicted speed")
    axes.legend(fontsize="small")
