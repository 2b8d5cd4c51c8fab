"""Explain that a model does not fit, and suggest commands that work on this machine.

Each suggested command was planned and fits; nothing is loaded or downloaded.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_gptoss.cli.plan import memory_lines, range_text
from mlx_gptoss.errors import GptOssError, MemoryBudgetError
from mlx_gptoss.memory import Budget, Machine, PlannedModel, format_bytes, plan_storage
from mlx_gptoss.memory.plan import AUTO, RESIDENT
from mlx_gptoss.memory.published_models import find_published_model
from mlx_gptoss.memory.sizes import OFFERED_RECIPES

if TYPE_CHECKING:
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.engine.forecast import Forecast
    from mlx_gptoss.engine.load_options import LoadOptions

SHORTER = (4096, 2048)  # tokens of context
MOST = 3  # suggested commands besides the demo
DEMO = "mlx-gptoss chat -m demo", "the small demo model, to try things out"


@contextmanager
def explaining(
    services: "Services", model: str, options: "LoadOptions"
) -> Iterator[None]:
    """Explain a MemoryBudgetError raised inside the `with`."""
    try:
        require_place(services, model, options)
        yield
    except MemoryBudgetError as error:
        raise MemoryBudgetError(explain(services, model, options, error)) from error


def require_place(services: "Services", model: str, options: "LoadOptions") -> None:
    """Refuse a published model that is not downloaded and would not fit.

    Raises MemoryBudgetError before the network is used.
    """
    from mlx_gptoss.engine.forecast import forecast, model_from_shape
    from mlx_gptoss.engine.planned_load import with_adapters

    shape = find_published_model(model)
    if shape is None or Path(model).expanduser().exists() or services.hub.cached(model):
        return
    machine, budget = services.device()
    subject = with_adapters(model_from_shape(shape, model), options)
    forecast(subject, options, budget, machine)


def explain(
    services: "Services", model: str, options: "LoadOptions", error: MemoryBudgetError
) -> str:
    """Print what is too large, its plan, and what works instead."""
    subject = _subject(services, model, options)
    commands = [DEMO]
    lines = [str(error)]
    if subject is not None:
        machine, budget = services.device()
        lines += ["", *_plan(subject, options, budget)]
        found = list(_working(subject, options, machine, budget))[:MOST]
        commands = found if DEMO[0] in dict(found) else [*found, DEMO]
    lines += ["", "What works on this machine:"]
    for command, outcome in commands:
        lines += [f"  {command}", f"      {outcome}"]
    return "\n".join(lines)


def _subject(
    services: "Services", name: str, options: "LoadOptions"
) -> PlannedModel | None:
    """Return the model to plan, with its adapters: a published or a local one."""
    from mlx_gptoss.engine.forecast import model_from_folder, model_from_shape
    from mlx_gptoss.engine.planned_load import with_adapters
    from mlx_gptoss.model.device import choose_dtype

    shape = find_published_model(name)
    try:
        if shape is not None:
            return with_adapters(model_from_shape(shape, name), options)
        folder = services.hub.resolve(name, offline=True)
        found = model_from_folder(folder, name, choose_dtype(None).size)
        return with_adapters(found, options)
    except GptOssError:
        return None


def _plan(subject: PlannedModel, options: "LoadOptions", budget: Budget) -> list[str]:
    """Format the plan that does not fit, part by part."""
    if options.experts == AUTO:
        options = replace(options, experts=RESIDENT)
    made = plan_storage(subject, options, budget)
    return ["The plan:", *(f"  {line}" for line in memory_lines(made))]


def _working(
    subject: PlannedModel, options: "LoadOptions", machine: Machine, budget: Budget
) -> Iterator[tuple[str, str]]:
    """Return commands that fit, the smallest change first."""
    from mlx_gptoss.engine.forecast import forecast, model_from_shape

    seen: set[str] = set()
    for changed in _changes(options):
        command = _command(subject.name, changed)
        if command in seen:
            continue
        seen.add(command)
        try:
            found = forecast(subject, changed, budget, machine)
        except MemoryBudgetError:
            continue
        yield command, _outcome(found)
    shape = find_published_model(subject.name)
    whole = replace(options, memory=None, experts=AUTO)
    for recipe in OFFERED_RECIPES if shape is not None else ():
        assert shape is not None
        converted = f"{shape.name}-{recipe}"
        smaller = model_from_shape(shape, converted, recipe)
        try:
            found = forecast(smaller, whole, budget, machine)
        except MemoryBudgetError:
            continue
        words = ["mlx-gptoss", "convert", subject.name, converted, "--recipe", recipe]
        chat = _command(f"./{converted}", whole)
        yield f"{shlex.join(words)} && {chat}", _outcome(found)


def _changes(options: "LoadOptions") -> "Iterator[LoadOptions]":
    """Yield smaller requests: a smaller recipe, then a shorter context."""
    yield replace(options, experts=AUTO)
    yield replace(options, experts=AUTO, memory=None)
    for context in SHORTER:
        if options.context is None or context < options.context:
            yield replace(options, experts=AUTO, context=context)
            yield replace(options, experts=AUTO, context=context, memory=None)


def _command(model: str, options: "LoadOptions") -> str:
    words = ["mlx-gptoss", "chat", "-m", model]
    if options.memory is not None:
        words += ["--memory", str(options.memory)]
    if options.context is not None:
        words += ["--context", str(options.context)]
    for adapter in options.adapters:
        words += ["-a", str(adapter)]
    return shlex.join(words)


def _outcome(found: "Forecast") -> str:
    plan, speed = found.plan, found.prediction.tokens_per_second
    experts = found.model.config.num_local_experts
    slots = f", {plan.least_slots} of {experts} experts in slots" if plan.slots else ""
    size = format_bytes(plan.total_bytes)
    return f"{plan.mode}{slots}, {size}, {range_text(speed)} tok/s expected"
