"""`mlx-gptoss agents`: configure coding agents, and check a server for them."""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.checkpoint.hub.local_models import is_path
from mlx_gptoss.cli.options import folder_or_name, json_option
from mlx_gptoss.cli.serve_setup import KEY_VARIABLE, api_key
from mlx_gptoss.cli.settings import default_model
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.diagnostics.agents.endpoint import CONTEXT_TOKENS, DEFAULT_URL, Endpoint
from mlx_gptoss.diagnostics.agents.known_agents import AGENTS
from mlx_gptoss.files import user_home

if TYPE_CHECKING:
    from mlx_gptoss.diagnostics.agents.cases import CaseResult
    from mlx_gptoss.diagnostics.agents.injection import InjectionResult
    from mlx_gptoss.diagnostics.agents.setup import FileChange
    from mlx_gptoss.diagnostics.agents.steps import StepResult
    from mlx_gptoss.diagnostics.http_client import HttpClient

MOST_SHOWN = 60  # characters of a note in the table

url_option = click.option(
    "--url", default=DEFAULT_URL, show_default=True, help="Base URL of the server"
)
key_option = click.option(
    "--api-key",
    "key",
    metavar="FILE|env:NAME",
    help=f"The server's API key [default: ${KEY_VARIABLE}, if set]",
)


@click.group(short_help="Set up coding agents")
def agents() -> None:
    """Configure coding agents for this model, and check that a server suits them."""


@agents.command(short_help="Write an agent's settings")
@click.argument("tool", type=click.Choice(list(AGENTS)))
@url_option
@key_option
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="The model's id on the server [default: the first it lists]",
)
@click.option(
    "--context",
    type=click.IntRange(min=1024),
    default=CONTEXT_TOKENS,
    show_default=True,
    help="Context length to tell the agent, in tokens",
)
@click.option(
    "--default",
    is_flag=True,
    help="Change the agent's default settings instead of writing a profile",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file to change instead",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what would change, without changing it"
)
def setup(
    tool: str,
    url: str,
    key: str | None,
    model: str | None,
    context: int,
    default: bool,
    file: Path | None,
    dry_run: bool,
) -> None:
    """Write a profile with which a coding agent uses this server.

    The agent reads it only when it is started with the command that is printed; its
    default settings stay as they are. With --default or --file they are changed:
    everything else in them is kept, comments included, and each old file is saved next
    to the new one. What is written is shown, with the command that undoes it.
    """
    from mlx_gptoss.diagnostics.agents.profiles import profile_of
    from mlx_gptoss.diagnostics.agents.setup import prepare, write
    from mlx_gptoss.diagnostics.http_client import HttpClient

    if default and file is not None:
        raise click.UsageError("--default and --file name other files: give one")
    token = api_key(key, needed=False, made=False)
    chosen = model or _served_model(HttpClient(url, token, timeout=5))
    endpoint = Endpoint(url, chosen, token, context)
    own = None if default or file is not None else profile_of(tool, user_home())
    changes = prepare(tool, endpoint, file=file, profile=own is not None)
    needed = [change for change in changes if change.needed]
    for change in needed:
        click.echo(change.diff(), nl=False, err=not dry_run)
    if not needed:
        note(f"{AGENTS[tool].title} is already set up: nothing to change")
        for line in [own.removal] if own else _restoring(changes):
            note(f"undo: {line}")
    elif dry_run:
        note("Nothing was written (--dry-run)")
    else:
        for change, backup in zip(needed, write(needed), strict=True):
            note(_written(change.path, backup))
        if own is not None and any(change.before is not None for change in needed):
            note(f"Remove the profile: {own.removal}")
    start = own.command(AGENTS[tool].start) if own else AGENTS[tool].start
    if not dry_run:
        note(f"Start the model with `mlx-gptoss serve`, then: {start}")


def _restoring(changes: "Sequence[FileChange]") -> Iterator[str]:
    """Yield the commands that bring the newest backups back."""
    from mlx_gptoss.diagnostics.agents.settings.replacement import latest_backup

    for change in changes:
        backup = latest_backup(change.path)
        if backup is not None:
            yield shlex.join(["mv", str(backup), str(change.path.resolve())])
        else:
            yield (
                f"remove from {change.path} what `--file NEW --dry-run` prints: it has "
                "no backup"
            )


def _written(path: Path, backup: Path | None) -> str:
    if backup is None:
        return f"Wrote {path}; undo: rm {shlex.quote(str(path))}"
    undo = shlex.join(["mv", str(backup), str(path.resolve())])
    linked = backup.stat().st_nlink > 1
    others = "; its other hard links keep the old content" if linked else ""
    return f"Wrote {path}{others}; undo: {undo}"


def _served_model(client: "HttpClient") -> str:
    """Return the first model the server lists, else the default model's id."""
    from mlx_gptoss.diagnostics.agents.steps import list_models
    from mlx_gptoss.diagnostics.http_client import Unreachable

    try:
        return list_models(client)[0]
    except Unreachable:
        name = folder_or_name(default_model()[0])
        served = Path(name).name if is_path(name) else name
        note(f"No server is running at {client.url}: using the model name `{served}`")
        return served


@agents.command(short_help="Try a server as agents would")
@click.argument("tool", type=click.Choice(list(AGENTS)), required=False)
@url_option
@key_option
@click.option("-m", "--model", metavar="MODEL", help="The model's id [default: first]")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read the URL and key from the file that `serve --ready-file` wrote",
)
@click.option(
    "--cases",
    is_flag=True,
    help="Also run 30 tool-calling cases through chat and responses, and score them",
)
@click.option(
    "--injection",
    is_flag=True,
    help="Also count how often the model follows orders in texts that it only reads",
)
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    tool: str | None,
    url: str,
    key: str | None,
    model: str | None,
    ready_file: Path | None,
    cases: bool,
    injection: bool,
    as_json: bool,
) -> None:
    """Test a running server the way agents use it.

    Covers answers, streams, tool calls and tool results over OpenAI's APIs (chat and
    responses) and Anthropic's (messages); with TOOL, only the API it uses. Every
    reply must have the structure that clients expect. Exits with 1 if a step fails;
    a tool call that the model does not make is counted, but is no failure.
    """
    from mlx_gptoss.diagnostics.agents.steps import list_models
    from mlx_gptoss.diagnostics.agents.steps import run_checks as run
    from mlx_gptoss.diagnostics.http_client import HttpClient

    client = HttpClient(url, api_key(key, needed=False, made=False))
    if ready_file is not None:
        client = HttpClient.from_ready_file(ready_file)
    chosen = model or list_models(client)[0]
    protocols = [AGENTS[tool].protocol] if tool else None
    outcomes = []
    for outcome in run(client, chosen, protocols):
        outcomes.append(outcome)
        if not as_json:
            click.echo(_line(outcome))
    failed = sum(not outcome.passed for outcome in outcomes)
    note(f"{len(outcomes) - failed} of {len(outcomes)} steps passed, with {chosen}")
    ran = _run_cases(client, chosen, quiet=as_json) if cases else []
    tried = _run_injections(client, chosen, quiet=as_json) if injection else []
    if as_json:
        click.echo(_as_json(client, chosen, outcomes, ran, tried))
    elif ran:
        click.echo(_summary(ran))
    if tried and not as_json:
        click.echo(_injection_summary(tried))
    if failed or any(one.error for one in (*ran, *tried)):
        ctx.exit(1)


def _run_cases(client: "HttpClient", model: str, *, quiet: bool) -> "list[CaseResult]":
    from mlx_gptoss.diagnostics.agents.cases import read_cases, run_cases

    ran = []
    for one in run_cases(client, model, read_cases()):
        ran.append(one)
        if not quiet:
            click.echo(_case_line(one))
    return ran


def _run_injections(
    client: "HttpClient", model: str, *, quiet: bool
) -> "list[InjectionResult]":
    from mlx_gptoss.diagnostics.agents.injection import read_attempts, run_injections

    tried = []
    for one in run_injections(client, model, read_attempts()):
        tried.append(one)
        if not quiet:
            if one.error:
                mark, text = "FAILED", one.error
            else:
                mark, text = "obeyed" if one.obeyed else "-", _cut(one.answer.strip())
            click.echo(f"{mark:6}  {one.place:9}  {one.attempt.name:29}  {text}")
    return tried


def _injection_summary(tried: "Sequence[InjectionResult]") -> str:
    """Say how often the model followed an order that it only read, by its place."""
    lines = ["", f"{'':9}  followed  answered all the same"]
    for place in dict.fromkeys(one.place for one in tried):
        there = [one for one in tried if one.place == place]
        obeyed, answered = (
            sum(getattr(one, name) for one in there) for name in ("obeyed", "answered")
        )
        count = len(there)
        lines.append(
            f"{place:9}  {f'{obeyed}/{count}':>8}  {f'{answered}/{count}':>21}"
        )
    return "\n".join(lines)


def _case_line(ran: "CaseResult") -> str:
    if ran.error:
        return f"FAILED  {ran.api:9}  {ran.case.name:29}  {ran.error}"
    mark = "exact" if ran.exact else "fits" if ran.fits_schema else "-"
    text = _cut("; ".join(ran.calls) or ran.answer.strip())
    cut = " (the answer was cut)" if ran.cut else ""
    return f"{mark:6}  {ran.api:9}  {ran.case.name:29}  {text}{cut}"


def _summary(ran: "Sequence[CaseResult]") -> str:
    """Tabulate per API: what the server must do, then what the model did."""
    lines = ["", f"{'':9}  valid shapes  right tool  fits schema  exact  answered"]
    for api in dict.fromkeys(one.api for one in ran):
        of_api = [one for one in ran if one.api == api]
        count = len(of_api)
        valid = sum(one.error is None for one in of_api)
        called, fits, exact, answered = (
            sum(bool(getattr(one, name)) for one in of_api)
            for name in ("called_tool", "fits_schema", "exact", "answered")
        )
        lines.append(
            f"{api:9}  {f'{valid}/{count}':>12}  {f'{called}/{count}':>10}  "
            f"{f'{fits}/{called}':>11}  {f'{exact}/{count}':>5}  "
            f"{f'{answered}/{count}':>8}"
        )
    return "\n".join(lines)


def _line(outcome: "StepResult") -> str:
    mark = "ok" if outcome.passed else "FAILED"
    text = _cut(outcome.note) if outcome.passed else outcome.note
    step = outcome.step
    return f"{mark:6}  {step.protocol:9}  {step.name:29}  {text}"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def _as_json(
    client: "HttpClient",
    model: str,
    outcomes: "Sequence[StepResult]",
    ran: "Sequence[CaseResult]",
    tried: "Sequence[InjectionResult]",
) -> str:
    steps = [
        {
            "protocol": outcome.step.protocol,
            "step": outcome.step.name,
            "passed": outcome.passed,
            "note": outcome.note,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    ]
    cases = [
        {
            "case": one.case.name,
            "protocol": one.api,
            "fault": one.error,
            "right_tool": one.called_tool,
            "fits_schema": one.fits_schema,
            "exact": one.exact,
            "calls": one.calls,
            "answer": one.answer,
            "cut": one.cut,
        }
        for one in ran
    ]
    injections = [
        {
            "attempt": one.attempt.name,
            "place": one.place,
            "fault": one.error,
            "followed": one.obeyed,
            "answered": one.answered,
            "answer": one.answer,
        }
        for one in tried
    ]
    facts = {"url": client.url, "model": model, "steps": steps, "cases": cases}
    facts["injections"] = injections
    return json.dumps(facts, indent=2, ensure_ascii=False)
