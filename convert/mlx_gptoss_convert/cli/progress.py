"""Output of the commands: a bar on stderr, tables or JSON lines on stdout."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.colours import redraws
from mlx_gptoss.memory import format_bytes
from mlx_gptoss_convert.measure.report import VerificationReport
from mlx_gptoss_convert.plan.estimates import estimate_plan
from mlx_gptoss_convert.plan.parts import PartSize, sizes_by_part
from mlx_gptoss_convert.plan.plan import ConversionPlan
from mlx_gptoss_convert.plan.sizing import RecipeChoice, SizedRecipe, frontier_lines
from mlx_gptoss_convert.steps.merged import bytes_in_files, describe_step
from mlx_gptoss_convert.steps.step import OutputTensor, TensorStep

if TYPE_CHECKING:
    from mlx_gptoss_convert.measure.merge import MergeLoss

DIVERGENCE = (
    "KL {kl:.5f} nats, 99 % below {kl_99:.5f}; {flips:.2%} of top tokens differ, "
    "{top5_overlap:.2%} of top 5 kept\nperplexity {perplexity_before:.3f} -> "
    "{perplexity_after:.3f}, at {positions} positions of {text}"
)
LOSS = (
    "against the model with the adapter, at {loss.merged.positions} positions of "
    "{loss.text}:\n"
    "merged     KL {loss.merged.kl:.5f} nats, {loss.merged.flips:.2%} of top tokens "
    "differ\n"
    "unadapted  KL {loss.base.kl:.5f} nats, {loss.base.flips:.2%} of top tokens differ"
)
EXPERT_LOSS = (
    "experts    {experts.changed_share:.2%} of updated weights differ from the base's; "
    "rms error {experts.relative_error:.0%} of the update"
)
EVENT_SECONDS = 0.5  # between JSON progress events


class Bar:
    """A progress bar with bytes, rate and remaining time; a context manager."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not redraws(sys.stderr),
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, tensor: str) -> None:
        self._bar.update(self._task, completed=done, total=total)


class JsonLines:
    """Progress as JSON events on stdout, two per second; a context manager."""

    def __init__(self) -> None:
        self._next = 0.0

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to close."""

    def __call__(self, done: int, total: int, tensor: str) -> None:
        now = time.monotonic()
        if now >= self._next or done == total:
            self._next = now + EVENT_SECONDS
            emit("progress", bytes=done, bytes_total=total, tensor=tensor)


def emit(event: str, **facts: Any) -> None:
    """Print one JSON event."""
    click.echo(json.dumps({"event": event, **facts}))


def show_result(plan: ConversionPlan, dst: Path, *, as_json: bool) -> None:
    """Print the sizes of the result by part."""
    sizes = sizes_by_part(plan)
    if as_json:
        parts = {part: describe_part(size) for part, size in sizes.items()}
        emit("done", folder=str(dst), bytes=plan.nbytes, parts=parts)
        return
    for part, size in sizes.items():
        before, after = format_bytes(size.bytes_before), format_bytes(size.bytes_after)
        click.echo(f"{part:10} {before:>9} -> {after:>9}  {'; '.join(size.operations)}")
    click.echo(f"{format_bytes(plan.nbytes)} in {dst}")


def show_alone(updates: int, dst: Path, *, dry_run: bool, as_json: bool) -> None:
    """Print how many updates an adapter alone has, and where they are or would be."""
    if as_json:
        emit("plan" if dry_run else "done", folder=str(dst), updates=updates)
    else:
        click.echo(f"{updates} updates {'would be ' if dry_run else ''}in {dst}")


def show_loss(loss: "MergeLoss", *, as_json: bool) -> None:
    """Print what merging an adapter lost, and a warning if it is most of it."""
    if as_json:
        emit("loss", **loss.as_dict())
    else:
        click.echo(LOSS.format(loss=loss))
        if loss.experts is not None:
            click.echo(EXPERT_LOSS.format(experts=loss.experts))
    warning = loss.warning()
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)


def describe_part(size: PartSize) -> dict[str, Any]:
    return {
        "bytes_before": size.bytes_before,
        "bytes_after": size.bytes_after,
        "fates": size.operations,
    }


def show_frontier(found: RecipeChoice, *, as_json: bool) -> None:
    """Print the frontier of recipes and the one that was chosen."""
    if not as_json:
        for line in frontier_lines(found.frontier, found.chosen, found.limit):
            click.echo(line)
        return
    emit(
        "frontier",
        room=found.limit.nbytes,
        why=found.limit.why,
        chosen=describe_sized_recipe(found.chosen),
        points=[describe_sized_recipe(point) for point in found.frontier],
    )


def describe_sized_recipe(point: SizedRecipe) -> dict[str, Any]:
    bits = {kind: found and found.bits for kind, found in point.recipe.settings.items()}
    return {"bytes": point.nbytes, "loss": point.loss, "recipe": bits}


def show_plan(plan: ConversionPlan, *, as_json: bool) -> None:
    """Print what would be done with every tensor, and the estimates."""
    show = emit_tensor if as_json else echo_tensor
    for step in plan.steps:
        for tensor in step.outputs:
            show(step, tensor)
    read = sum(bytes_in_files(x) for step in plan.steps for x in step.sources)
    found = estimate_plan(plan)
    if as_json:
        files = len(plan.shards)
        emit("plan", bytes=plan.nbytes, bytes_read=read, files=files, **asdict(found))
        return
    count = len(plan.shards)
    click.echo(found)
    click.echo(
        f"{format_bytes(plan.nbytes)} in {count} file{'s' if count > 1 else ''}, from "
        f"{format_bytes(read)}; nothing was written"
    )


def emit_tensor(step: TensorStep, tensor: OutputTensor) -> None:
    emit(
        "tensor",
        tensor=tensor.name,
        sources=[stored.name for stored in step.sources],
        fate=describe_step(step),
        dtype=tensor.dtype,
        shape=list(tensor.shape),
        bytes=tensor.nbytes,
    )


def echo_tensor(step: TensorStep, tensor: OutputTensor) -> None:
    shape = "x".join(map(str, tensor.shape))
    size = format_bytes(tensor.nbytes)
    click.echo(
        f"{size:>10}  {tensor.dtype:4} {describe_step(step):18}  {tensor.name} {shape}"
    )


def show_report(report: VerificationReport, *, as_json: bool) -> None:
    """Print the findings of a verification."""
    if as_json:
        emit("report", **report.as_dict())
        return
    for kind, error in report.errors.items():
        found = error.summary()
        click.echo(
            f"{kind:10} max {found['max']:.2e}  rms {found['rms']:.2e}  relative "
            f"{found['relative_rms']:.4f}  cosine {found['cosine']:.6f}"
        )
    if report.expert_bytes:
        click.echo(f"{format_bytes(report.expert_bytes)} of experts equal the source's")
    if report.digests:
        click.echo(f"{report.digests} tensors have the digests of conversion.json")
    if report.divergence is not None:
        click.echo(DIVERGENCE.format(**report.divergence))
    for fault in report.faults:
        click.echo(fault, err=True)
    for line in report.notes:
        click.echo(f"note: {line}", err=True)
    if report.is_sound:
        click.echo("all is as it should be")
