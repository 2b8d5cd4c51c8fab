"""`mlx-gptoss sessions`: the conversations that were kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli.input_history import forget
from mlx_gptoss.cli.input_lines import confirm
from mlx_gptoss.cli.options import json_option
from mlx_gptoss.cli.serve import STORE
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.terminal import CONTROL
from mlx_gptoss.files import config_folder, write
from mlx_gptoss.memory import format_bytes

if TYPE_CHECKING:
    from mlx_gptoss.chat.sessions import ChatSummary

SAID_ALONE = 20  # deleted conversations: of more, only the number is said
RESPONSES = f"{STORE}/responses.sqlite3"  # of `serve`, in the user's folder
NOT_TOUCHED = (
    "responses that `serve` stored (`{}`), its log, what you exported, the history of "
    "your shell, backups"
)


@click.group(
    invoke_without_command=True,
    short_help="List, search, export or delete conversations",
)
@json_option
@click.pass_context
def sessions(context: click.Context, as_json: bool) -> None:
    """List the conversations that `chat` kept, the latest first.

    They lie in one file on this machine, for your eyes only. The beginning of an ID is
    enough wherever one is asked for.

    \b
    mlx-gptoss chat --continue
    mlx-gptoss chat --session 3f2a
    mlx-gptoss sessions search "weather in Oslo"
    """
    if context.invoked_subcommand is None:
        context.invoke(list_, as_json=as_json)


@sessions.command("list", short_help="List conversations")
@json_option
@pass_services
def list_(services: Services, as_json: bool) -> None:
    """List the conversations, the latest first."""
    found = services.sessions().list()
    click.echo(_as_json([*map(asdict, found)]) if as_json else _table(found))


@sessions.command(short_help="Find conversations by what was said")
@click.argument("text")
@json_option
@pass_services
def search(services: Services, text: str, as_json: bool) -> None:
    """Find conversations with a message that holds every word of TEXT."""
    found = services.sessions().search(text)
    if as_json:
        facts = [asdict(one.chat) | {"snippet": one.snippet} for one in found]
        click.echo(_as_json(facts))
        return
    for one in found:
        click.echo(f"{one.chat.short_id}  {_day(one.chat)}  {_plain(one.snippet)}")


@sessions.command(short_help="Print a conversation")
@click.argument("id")
@json_option
@pass_services
def show(services: Services, id: str, as_json: bool) -> None:
    """Print a conversation as Markdown, or with --json as it is saved."""
    click.echo(_document(services, id, as_json=as_json), nl=False)


@sessions.command(short_help="Write a conversation to a file")
@click.argument("id")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there")
@json_option
@pass_services
def export(
    services: Services, id: str, file: Path, *, force: bool, as_json: bool
) -> None:
    """Write a conversation to FILE, as Markdown; as JSON with --json or by `.json`."""
    as_json = as_json or file.suffix.lower() == ".json"
    text = _document(services, id, as_json=as_json)
    if file.is_file() and not force:  # a device or a pipe loses nothing
        raise click.UsageError(f"`{file}` is there: choose another name, or --force")
    write(file, text, replace=force)
    click.echo(f"Wrote {file}", err=True)


@sessions.command(short_help="Delete conversations")
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="Delete all of them")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(min=0),
    metavar="DAYS",
    help="Delete those that were not used for so many days",
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
    """Delete conversations: their text is overwritten, not only forgotten.

    All of them go or, after an error, none. What was typed for them goes too, and so
    do all prompts that are kept on disk: they may hold it.

    Not touched are the responses that `serve` stored, its log, conversations that you
    exported or piped elsewhere, the history of your shell, and backups.
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
    # The conversations go last: after a kill the command can be run again.
    forget(None if everything else store.questions(chosen))
    if chosen and (freed := services.forget_prompts()):
        click.echo(f"Emptied the disk cache: {format_bytes(freed)} freed", err=True)
    if len(chosen) > SAID_ALONE:
        click.echo(f"Deleting {many} …", err=True)
    store.delete_all(None if everything else chosen)
    for id in chosen if len(chosen) <= SAID_ALONE else ():
        click.echo(f"Deleted {id}", err=True)
    if len(chosen) > SAID_ALONE:
        click.echo(f"Deleted {many}", err=True)
    click.echo(
        f"Not touched: {NOT_TOUCHED.format(config_folder() / RESPONSES)}", err=True
    )


@sessions.command(short_help="Build the search index anew")
@pass_services
def repair(services: Services) -> None:
    """Build the search index anew and give unused room back; conversations stay.

    An index found broken is mended by itself. This mends what nothing stumbled over
    yet: `doctor` says when there is something.
    """
    store = services.sessions()
    store.mend()
    count = len(store.list())
    many = "1 conversation" if count == 1 else f"{count:,} conversations"
    click.echo(f"The search index of {many} is new: {store.path}", err=True)


def _document(services: Services, id: str, *, as_json: bool) -> str:
    store = services.sessions()
    return _as_json(store.load(id)) + "\n" if as_json else store.markdown(id)


def _table(found: Sequence["ChatSummary"]) -> str:
    rows = [("ID", "LAST USED", "TURNS", "TITLE")]
    for one in found:
        rows.append((one.short_id, _day(one), str(one.turns), _plain(one.title)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)] + [0]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _age(chat: "ChatSummary") -> float:
    """How many days ago a chat was used."""
    return (datetime.now(UTC) - datetime.fromisoformat(chat.updated)) / timedelta(1)


def _day(chat: "ChatSummary") -> str:
    return f"{datetime.fromisoformat(chat.updated).astimezone():%Y-%m-%d %H:%M}"


def _plain(text: str) -> str:
    """What was typed or generated must not move the cursor."""
    return CONTROL.sub("", text)


def _as_json(facts: Any) -> str:
    return json.dumps(facts, indent=2)
