"""Memory planning: sizes, the device's budget, placement of experts, predicted speed.

units.py     parse and format sizes
budget.py    how much memory a model may use on this device
sizes.py     bytes of a model's parts, caches and scratch memory
adapters.py  bytes of adapters (LoRA) beside a model
planned_model.py  sizes of a model to plan for, and the options of its user
plan.py      resident, hybrid or streamed experts, and how many slots
machines.py  Apple chips as data
saved_probe.py  measurements of this machine by `mlx-gptoss probe`
costs.py     measured seconds of the parts of a forward pass
step_time.py  seconds of a forward pass, added up from them
hit_rates.py  hit rates of expert slots by their number
speed.py     tokens per second and time to the first token, with bounds
advice.py    errors for models that do not fit, with a remedy
wired.py     memory that the GPU keeps resident
training.py  memory that training an adapter takes
published_models.py  configs of the published models

Opens no weights and allocates no array. GB = 10^9 bytes in text; in the API bytes.
"""

from mlx_gptoss.memory.advice import (
    SYSTEM_RESERVE,
    require_adapter_fit,
    require_fit,
)
from mlx_gptoss.memory.budget import Budget, device_budget, limit_budget
from mlx_gptoss.memory.hit_rates import HitCurve
from mlx_gptoss.memory.machines import Machine, Range, describe_device, find_chip
from mlx_gptoss.memory.plan import (
    Plan,
    describe_placement,
    estimate,
    measure_workload,
    plan_storage,
)
from mlx_gptoss.memory.planned_model import PlannedModel, StorageOptions
from mlx_gptoss.memory.sizes import (
    DEFAULT_CONTEXT,
    PREFILL_CHUNK,
    kv_bytes,
    recipe_bytes,
    recipe_parts,
)
from mlx_gptoss.memory.speed import Prediction, predict
from mlx_gptoss.memory.units import format_bytes, format_machine_memory, parse_bytes

__all__ = [
    "DEFAULT_CONTEXT",
    "PREFILL_CHUNK",
    "SYSTEM_RESERVE",
    "Budget",
    "HitCurve",
    "Machine",
    "Plan",
    "PlannedModel",
    "Prediction",
    "Range",
    "StorageOptions",
    "describe_device",
    "describe_placement",
    "device_budget",
    "estimate",
    "find_chip",
    "format_bytes",
    "format_machine_memory",
    "kv_bytes",
    "limit_budget",
    "measure_workload",
    "parse_bytes",
    "plan_storage",
    "predict",
    "recipe_bytes",
    "recipe_parts",
    "require_adapter_fit",
    "require_fit",
]
