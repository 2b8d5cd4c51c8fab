"""`mlx-gptoss doctor`: describe this machine, and find what is wrong with it."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.options import json_option
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.settings import default_model, settings_file
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.memory import format_bytes, format_machine_memory

if TYPE_CHECKING:
    from mlx_gptoss.diagnostics.doctor import Examination, Facts

MARKS = {"error": "ERROR", "warning": "warning", "note": "note"}


@click.command(short_help="Examine this machine")
@click.option(
    "--self-test",
    is_flag=True,
    help="Test the model on this machine, in under a minute; prints a report",
)
@click.option(
    "--force",
    type=click.Choice(["adoption", "pool-writes"]),
    multiple=True,
    help="With --self-test: also test this fallback; may be repeated",
)
@json_option
@click.pass_context
@pass_services
def doctor(
    services: Services,
    ctx: click.Context,
    self_test: bool,
    force: tuple[str, ...],
    as_json: bool,
) -> None:
    """Examine this machine: device, memory, versions, models, and problems.

    Exits with 1 when something must be repaired before a model can run, or when the
    self-test fails.
    """
    from mlx_gptoss.diagnostics.doctor import ERROR, Finding, examine

    if force and not self_test:
        raise click.UsageError("--force needs --self-test")
    if self_test:
        if not _self_test(force, as_json=as_json):
            ctx.exit(1)
        return
    found = examine(services.hub)
    try:
        chosen = default_model()[0]
    except ConfigError as error:
        chosen = None
        what, _, advice = str(error).rpartition(": ")
        broken = Finding(ERROR, what, advice)
        found = replace(found, findings=(broken, *found.findings))
    if as_json:
        facts = found.as_json() | {"default_model": chosen}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo("\n".join([*_facts(found.facts, chosen), "", *_findings(found)]))
    if not found.healthy:
        ctx.exit(1)


def _self_test(force: tuple[str, ...], *, as_json: bool) -> bool:
    """Run and print the self-test; return whether it passed."""
    from mlx_gptoss.cli.terminal import note
    from mlx_gptoss.diagnostics.doctor.selftest import self_test as run

    found = run(force, progress=note)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return found.passed
    click.echo(found.machine)
    click.echo("\n".join(f"forced: {name}" for name in found.forced), nl=bool(force))
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        verdict = "ok    " if check.passed else "FAILED"
        click.echo(
            f"{check.name:<{width}}  {verdict}  {check.seconds:5.1f} s  {check.detail}"
        )
    click.echo("Everything works" if found.passed else "Do not trust it")
    return found.passed


def _facts(facts: "Facts", chosen: str | None) -> list[str]:
    gpu = "Metal" if facts.metal else "no Metal GPU"
    usable = f"{format_bytes(facts.usable_memory)} usable: {facts.usable_because}"
    versions = ", ".join(f"{n} {v}" for n, v in facts.packages.items() if v)
    rows = {
        "system": f"{facts.system}, {facts.architecture}, Python {facts.python}",
        "device": f"{facts.device}, {gpu}",
        "memory": f"{format_machine_memory(facts.memory)} ({usable})",
        "versions": versions,
        "blas": facts.blas.explanation,
        "cache": f"{facts.cache} ({format_bytes(facts.free_disk)} free)",
        "settings": str(settings_file()),
        "default": chosen or "-",
    }
    rows |= {
        f"model {model.name}": f"{format_bytes(model.bytes)}, {model.kind}"
        for model in facts.models
    }
    if (chats := facts.chats) is not None:
        count = f"{chats.chats:,} conversation{'s' if chats.chats != 1 else ''}"
        size = format_bytes(chats.bytes)
        rows["chats"] = f"{chats.path} ({count}, {size}, SQLite {chats.sqlite})"
    width = max(map(len, rows))
    return [f"{name:<{width}}  {value}" for name, value in rows.items()]


def _findings(found: "Examination") -> list[str]:
    if not found.findings:
        return ["No problems found"]
    return [
        f"{MARKS[finding.level]}: {finding.what}; {finding.advice}"
        for finding in found.findings
    ]
