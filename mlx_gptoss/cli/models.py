"""`mlx-gptoss models` and `mlx-gptoss pull`: list, delete and download models."""

import json
from collections.abc import Sequence
from datetime import datetime

import click

from mlx_gptoss.checkpoint.hub import LocalModel
from mlx_gptoss.checkpoint.hub.local_models import resolve_spelling
from mlx_gptoss.cli.input_lines import confirm
from mlx_gptoss.cli.model_folders import is_default
from mlx_gptoss.cli.options import json_list_option, model_argument
from mlx_gptoss.cli.progress import DownloadProgress
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.shell_words import complete_models
from mlx_gptoss.cli.tables import left_aligned
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.memory import format_bytes


@click.group(invoke_without_command=True, short_help="List or delete local models")
@click.option(
    "--delete",
    metavar="MODEL",
    shell_complete=complete_models,
    help="Delete a downloaded model, as `models rm` does",
)
@click.option("--yes", is_flag=True, help="Delete without asking")
@json_list_option
@click.pass_context
def models(
    context: click.Context, delete: str | None, yes: bool, as_json: bool
) -> None:
    """List the models on this machine: size, kind, last use.

    These are the demo, models downloaded from the Hub, in the folder that the Hub's own
    programs use, too ($HF_HOME), folders that `convert` and `merge` wrote, and folders
    of models in the current one.
    """
    if context.invoked_subcommand is not None:
        if delete is not None:
            raise click.UsageError("--delete stands alone: models --delete MODEL")
    elif delete is not None:
        context.invoke(remove, names=[delete], yes=yes)
    else:
        context.invoke(list_, as_json=as_json)


@models.command("list", short_help="List models")
@json_list_option
@pass_services
def list_(services: Services, as_json: bool) -> None:
    """List the models on this machine: size, kind, last use."""
    found = services.list_models()
    click.echo(_as_json(found) if as_json else _table(found))


@models.command("rm", short_help="Delete downloaded models")
@model_argument("names", nargs=-1, required=True, metavar="MODEL...")
@click.option("--yes", is_flag=True, help="Delete without asking")
@pass_services
def remove(services: Services, names: Sequence[str], yes: bool) -> None:
    """Delete downloaded models.

    Only models of the Hub are deleted, by their ids: a folder that you made is yours.
    """
    if not yes:
        listing = ", ".join(f"`{name}`" for name in names)
        confirm(f"Delete {listing} from this machine?")
    for name in names:
        freed = services.hub.delete(name)
        click.echo(f"Deleted {name}: {format_bytes(freed)} freed", err=True)


@click.command(short_help="Download a model")
@model_argument()
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


def _table(found: Sequence[LocalModel]) -> str:
    rows = [("MODEL", "SIZE", "KIND", "LAST USED", "")]
    for model in found:
        kind = model.kind if model.complete else f"{model.kind} ({_lack(model)})"
        mark = "default" if is_default(model) else ""
        size = format_bytes(model.bytes)
        rows.append((model.name, size, kind, _day(model), mark))
    return left_aligned(rows)


def _lack(model: LocalModel) -> str:
    if model.missing is None:
        return "incomplete"
    return f"incomplete, {format_bytes(model.missing)} missing"


def _day(model: LocalModel) -> str:
    if model.last_used is None:
        return "-"
    return f"{datetime.fromtimestamp(model.last_used):%Y-%m-%d %H:%M}"


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
            "default": is_default(model),
        }
        for model in found
    ]
    return json.dumps(facts, indent=2)
