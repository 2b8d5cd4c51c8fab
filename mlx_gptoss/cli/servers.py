"""`mlx-gptoss ps` and `mlx-gptoss stop`: servers that run on this machine."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.options import json_list_option
from mlx_gptoss.cli.tables import left_aligned
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from mlx_gptoss.server.running import RunningServer

NONE = "no server is running: `mlx-gptoss serve` starts one"


def complete_servers(
    context: click.Context, parameter: click.Parameter, begun: str
) -> "list[CompletionItem]":
    """Return the process ids of running servers that begin so."""
    from click.shell_completion import CompletionItem

    from mlx_gptoss.server.running import running_servers

    return [
        CompletionItem(str(one.pid), help=f"{', '.join(one.models)} at {one.url}")
        for one in running_servers()
        if str(one.pid).startswith(begun)
    ]


@click.command(short_help="List running servers")
@json_list_option
def ps(as_json: bool) -> None:
    """List the servers of this user that run now: models, address, memory."""
    from mlx_gptoss.server.running import running_servers

    found = running_servers()
    click.echo(_as_json(found) if as_json else _table(found))


@click.command(short_help="Stop running servers")
@click.argument(
    "servers", nargs=-1, metavar="[SERVER]...", shell_complete=complete_servers
)
@click.option("--all", "everything", is_flag=True, help="Stop all servers")
@click.option("--now", is_flag=True, help="Do not wait for running answers")
def stop(servers: Sequence[str], everything: bool, now: bool) -> None:
    """Stop a server: by its process id, port, URL, or the model it serves.

    SERVER may be left out if only one runs. Running answers may finish, for as long as
    `serve --drain` said.
    """
    from mlx_gptoss.server.running import running_servers, stop_server, wait_for_end

    if servers and everything:
        raise click.UsageError("give SERVER or --all, not both")
    found = running_servers()
    if not found:
        raise GptOssError(NONE)
    chosen = found if everything else _chosen(found, servers)
    for one in chosen:
        stop_server(one, now=now)
    for one in chosen:
        wait_for_end(one)
        click.echo(f"Stopped {_described(one)}", err=True)


def _chosen(
    found: "Sequence[RunningServer]", names: Sequence[str]
) -> "list[RunningServer]":
    if not names and len(found) > 1:
        raise click.UsageError(
            "several servers run, name one or give --all: "
            + "; ".join(map(_described, found))
        )
    chosen = [_find(found, name) for name in names] or found
    return [one for one in found if one in chosen]  # each once


def _find(found: "Sequence[RunningServer]", name: str) -> "RunningServer":
    """Return the one server of that name. Raises GptOssError for none or several."""
    named = [
        one
        for one in found
        if name in (str(one.pid), one.url, one.url.rpartition(":")[2], *one.models)
    ]
    if not named:
        raise GptOssError(
            f"no running server is `{name}`: see `mlx-gptoss ps` for their ids, "
            "addresses and models"
        )
    if len(named) > 1:
        listing = "; ".join(map(_described, named))
        raise GptOssError(f"several servers are `{name}`: give an id of {listing}")
    return named[0]


def _described(server: "RunningServer") -> str:
    return f"{server.pid} ({', '.join(server.models)} at {server.url})"


def _table(found: "Sequence[RunningServer]") -> str:
    rows = [("PID", "MODEL", "URL", "MEMORY", "SINCE")]
    for one in found:
        since = f"{datetime.fromtimestamp(one.started):%Y-%m-%d %H:%M}"
        memory = _memory(one)
        shown = "-" if memory is None else format_bytes(memory)
        rows.append((str(one.pid), ", ".join(one.models), one.url, shown, since))
    return left_aligned(rows)


def _memory(server: "RunningServer") -> int | None:
    """Return the bytes a server holds; None if it has just ended."""
    import psutil

    try:
        return psutil.Process(server.pid).memory_info().rss
    except psutil.Error:
        return None


def _as_json(found: "Sequence[RunningServer]") -> str:
    facts = [
        {
            "pid": one.pid,
            "url": one.url,
            "models": list(one.models),
            "started": one.started,
            "memory_bytes": _memory(one),
        }
        for one in found
    ]
    return json.dumps(facts, indent=2)
