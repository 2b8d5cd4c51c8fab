"""`mlx-gptoss sessions`: list, search, show, export and delete saved conversations."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.input_history import forget
from mlx_gptoss.cli.input_lines import confirm
from mlx_gptoss.cli.options import json_list_option, json_option
from mlx_gptoss.cli.serve import STORE
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.shell_words import complete_sessions
from mlx_gptoss.cli.tables import left_aligned
from mlx_gptoss.cli.terminal import CONTROL
from mlx_gptoss.files import config_folder, write
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.chat.sessions import ChatSummary

MOST_LISTED = 20  # deleted conversations; of more, only the number is printed
RESPONSES = f"{STORE}/responses.sqlite3"  # of `serve`, in the user's folder
NOT_TOUCHED = (
    "responses that `serve` stored (`{}`), its log, exported files, your shell's "
    "history, backups"
)


@click.group(
    invoke_without_command=True,
    short_help="List, search, export or delete conversations",
)
@json_list_option
@click.pass_context
def sessions(context: click.Context, as_json: bool) -> None:
    """List saved conversations, the latest first.

    They are stored in one file on this machine that only you can read. Wherever an ID
    is expected, its first characters are enough.

    \b
    mlx-gptoss chat --continue
    mlx-gptoss chat --session 3f2a
    mlx-gptoss sessions search "weather in Oslo"
    """
    if context.invoked_subcommand is None:
        context.invoke(list_, as_json=as_json)


@sessions.command("list", short_help="List conversations")
@json_list_option
@pass_services
def list_(services: Services, as_json: bool) -> None:
    """List the conversations, the latest first."""
    found = services.sessions().list()
    click.echo(_as_json([*map(asdict, found)]) if as_json else _table(found))


@sessions.command(short_help="Find conversations by what was said")
@click.argument("text")
@json_list_option
@pass_services
def search(services: Services, text: str, as_json: bool) -> None:
    """Find conversations with a message that contains every word of TEXT."""
    found = services.sessions().search(text)
    if as_json:
        facts = [asdict(one.chat) | {"snippet": one.snippet} for one in found]
        click.echo(_as_json(facts))
        return
    for one in found:
        click.echo(f"{one.chat.short_id}  {_day(one.chat)}  {_plain(one.snippet)}")


@sessions.command(short_help="Print a conversation")
@click.argument("id", shell_complete=complete_sessions)
@json_option
@pass_services
def show(services: Services, id: str, as_json: bool) -> None:
    """Print a conversation as Markdown, or as JSON with --json."""
    click.echo(_document(services, id, as_json=as_json), nl=False)


@sessions.command(short_help="Write a conversation to a file")
@click.argument("id", shell_complete=complete_sessions)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object")
@click.option(
    "--redact",
    is_flag=True,
    help="Mask what is private, with openai/privacy-filter or $MLX_GPTOSS_REDACT_MODEL",
)
@click.option(
    "--patterns-only",
    is_flag=True,
    help="Mask only what patterns find, without a model (see `redact`)",
)
@pass_services
def export(
    services: Services,
    id: str,
    file: Path,
    *,
    force: bool,
    as_json: bool,
    redact: bool,
    patterns_only: bool,
) -> None:
    """Write a conversation to FILE: Markdown, or JSON with --json or a .json FILE."""
    as_json = as_json or file.suffix.lower() == ".json"
    text = _document(services, id, as_json=as_json)
    if redact or patterns_only:
        text = _masked(services, text, as_json=as_json, patterns_only=patterns_only)
    if file.is_file() and not force:  # a device or a pipe loses nothing
        raise click.UsageError(f"`{file}` exists: choose another name, or use --force")
    write(file, text, replace=force)
    click.echo(f"Wrote {file}", err=True)


@sessions.command(short_help="Delete conversations")
@click.argument("ids", nargs=-1, metavar="ID...", shell_complete=complete_sessions)
@click.option("--all", "everything", is_flag=True, help="Delete all of them")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(min=0),
    metavar="DAYS",
    help="Delete those not used for this many days",
)
@click.option("--yes", is_flag=True, help="Delete without asking")
@pass_services
def delete(
    services: Services,
    ids: Sequence[str],
    *,
    everything: bool,
    days: int | None,
    yes: bool,
) -> None:
    """Delete conversations and overwrite their text on disk.

    After an error none of them is deleted. The lines typed for them are deleted, too,
    and so is the prompt cache on disk, which may contain them.

    Not touched: responses stored by `serve`, its log, exported or piped conversations,
    your shell's history, and backups.
    """
    if [bool(ids), everything, days is not None].count(True) != 1:
        raise click.UsageError("give IDs, or --all, or --older-than DAYS")
    store = services.sessions()
    if days is not None:
        chosen = [chat.id for chat in store.list() if _age(chat) >= days]
    elif everything:
        chosen = [chat.id for chat in store.list()]
    else:
        chosen = [*dict.fromkeys(map(store.find, ids))]
    many = "1 conversation" if len(chosen) == 1 else f"{len(chosen):,} conversations"
    if not yes:
        confirm(f"Delete {many} for good?")
    # Delete the conversations last, so that the command can be repeated after a kill.
    forget(None if everything else store.questions(chosen))
    if chosen and (freed := services.forget_prompts()):
        click.echo(f"Emptied the disk cache: {format_bytes(freed)} freed", err=True)
    if len(chosen) > MOST_LISTED:
        click.echo(f"Deleting {many} …", err=True)
    store.delete_all(None if everything else chosen)
    for id in chosen if len(chosen) <= MOST_LISTED else ():
        click.echo(f"Deleted {id}", err=True)
    if len(chosen) > MOST_LISTED:
        click.echo(f"Deleted {many}", err=True)
    click.echo(
        f"Not touched: {NOT_TOUCHED.format(config_folder() / RESPONSES)}", err=True
    )


sessions.add_command(delete, "rm")  # as `models rm`


@sessions.command(short_help="Rebuild the search index")
@pass_services
def repair(services: Services) -> None:
    """Rebuild the search index and free unused space; conversations are kept.

    A broken index is repaired automatically when it is used. This repairs one that was
    not used yet; `doctor` reports it.
    """
    store = services.sessions()
    store.mend()
    count = len(store.list())
    many = "1 conversation" if count == 1 else f"{count:,} conversations"
    click.echo(f"Rebuilt the search index of {many}: {store.path}", err=True)


def _document(services: Services, id: str, *, as_json: bool) -> str:
    store = services.sessions()
    return _as_json(store.load(id)) + "\n" if as_json else store.markdown(id)


def _masked(
    services: Services, text: str, *, as_json: bool, patterns_only: bool
) -> str:
    """Mask what is private in an exported conversation."""
    from mlx_gptoss.cli.redact.model import load_redactor
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.workloads.redact import Redactor
    from mlx_gptoss.workloads.redact.work import redact_document

    pieces: list[str] = []
    with (
        Redactor(None)
        if patterns_only
        else load_redactor(services, None, LoadOptions())
    ) as redactor:
        kind = "json" if as_json else "text"
        report = redact_document(
            text, kind, "conversation", redactor, write=pieces.append
        )
    click.echo(f"Masked: {report.count:,}", err=True)
    return "".join(pieces)


def _table(found: Sequence["ChatSummary"]) -> str:
    rows = [("ID", "LAST USED", "TURNS", "TITLE")]
    for one in found:
        rows.append((one.short_id, _day(one), str(one.turns), _plain(one.title)))
    return left_aligned(rows)


def _age(chat: "ChatSummary") -> float:
    """Return how many days ago a chat was used."""
    return (datetime.now(UTC) - datetime.fromisoformat(chat.updated)) / timedelta(1)


def _day(chat: "ChatSummary") -> str:
    return f"{datetime.fromisoformat(chat.updated).astimezone():%Y-%m-%d %H:%M}"


def _plain(text: str) -> str:
    """Remove control characters, which could move the cursor."""
    return CONTROL.sub("", text)


def _as_json(facts: Any) -> str:
    return json.dumps(facts, indent=2)
