"""`mlx-gptoss models` and `mlx-gptoss pull`: list, delete and download models."""

import json
from collections.abc import Sequence
from datetime import datetime

import click

from mlx_gptoss.checkpoint.hub import LocalModel
from mlx_gptoss.checkpoint.hub.local_models import resolve_spelling
from mlx_gptoss.cli.input_lines import confirm
from mlx_gptoss.cli.options import json_option
from mlx_gptoss.cli.progress import DownloadProgress
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes


@click.command(short_help="List or delete local models")
@click.option("--delete", metavar="MODEL", help="Delete a downloaded model")
@click.option("--yes", is_flag=True, help="Delete without asking")
@json_option
@pass_services
def models(services: Services, delete: str | None, yes: bool, as_json: bool) -> None:
    """List the models on this machine: size, kind, last use.

    These are the demo and models downloaded from the Hub, in the folder that the Hub's
    own programs use, too ($HF_HOME).
    """
    if delete is not None:
        _delete(services, delete, yes=yes)
        return
    found = services.hub.list_models()
    click.echo(_as_json(found) if as_json else _table(found))


@click.command(short_help="Download a model")
@click.argument("model")
@pass_services
def pull(services: Services, model: str) -> None:
    """Download a model from the Hub, or update it.

    Downloads only what is needed: weights, settings, tokenizer. A download that was
    interrupted or killed resumes at the byte where it stopped; sizes and hashes are
    checked. Prints the folder.
    """
    if resolve_spelling(model)[0] != model:
        note(
            f"`{model}` is also a folder here, and takes precedence: run mlx-gptoss "
            "from another folder to use the download"
        )
    with DownloadProgress(model) as shown:
        folder = services.hub.pull(model, progress=shown, notify=shown.say)
    click.echo(folder)


def _delete(services: Services, model: str, *, yes: bool) -> None:
    if not yes:
        confirm(f"Delete `{model}` from this machine?")
    freed = services.hub.delete(model)
    click.echo(f"Deleted {model}: {format_bytes(freed)} freed", err=True)


def _table(found: Sequence[LocalModel]) -> str:
    rows = [("MODEL", "SIZE", "KIND", "LAST USED")]
    for model in found:
        kind = model.kind if model.complete else f"{model.kind} ({_lack(model)})"
        rows.append((model.name, format_bytes(model.bytes), kind, _day(model)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _lack(model: LocalModel) -> str:
    if model.missing is None:
        return "incomplete"
    return f"incomplete, {format_bytes(model.missing)} missing"


def _day(model: LocalModel) -> str:
    if model.last_used is None:
        return "-"
    return datetime.fromtimestamp(model.last_used).strftime("%Y-%m-%d")


def _as_json(found: Sequence[LocalModel]) -> str:
    facts = [
        {
            "name": model.name,
            "path": str(model.path),
            "bytes": model.bytes,
            "kind": model.kind,
            "last_used": model.last_used,
            "complete": model.complete,
            "missing": model.missing,
        }
        for model in found
    ]
    return json.dumps(facts, indent=2)
