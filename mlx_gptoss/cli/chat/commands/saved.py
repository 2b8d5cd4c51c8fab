"""Commands about files and saved chats."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.commands.command import PATH, ChatCommand, Word
from mlx_gptoss.cli.chat.commands.history import last_answer, short
from mlx_gptoss.cli.chat.files import NO_PICTURES
from mlx_gptoss.cli.chat.layout import clean
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.engine.finish_reasons import describe_cause
from mlx_gptoss.errors import PromptError
from mlx_gptoss.files import write

if TYPE_CHECKING:
    from mlx_gptoss.chat.sessions import ChatSummary
    from mlx_gptoss.cli.chat.interface import ChatInterface
    from mlx_gptoss.cli.chat.loop import ChatLoop
    from mlx_gptoss.cli.chat.session import ChatSession

LISTED = 20  # chats listed by /sessions


def file(loop: "ChatLoop", argument: str) -> None:
    """Attach a file to the next message."""
    if not argument:
        raise PromptError("name a file: /file PATH")
    note(loop.conversation.attach(Path(argument).expanduser()))


def image(loop: "ChatLoop", argument: str) -> None:
    raise PromptError(NO_PICTURES)


def save(loop: "ChatLoop", argument: str) -> None:
    """Save the chat, with a title if given; every turn is saved automatically."""
    conversation = loop.conversation
    store, chat = conversation.saved, conversation.chat
    if not chat.messages:
        raise PromptError("there is nothing to save yet")
    if argument:
        chat.title = argument
    conversation.save()
    note(f"Kept as {chat.id[:8]}, “{short(clean(chat.title))}”, in {store.path}")


def load(loop: "ChatLoop", argument: str) -> None:
    """Resume a saved chat by the start of its id."""
    if not argument:
        raise PromptError("name a chat by its id: /load ID; /sessions lists them")
    loop.conversation.load(argument)
    show_where(loop.conversation, loop.interface)


def sessions(loop: "ChatLoop", argument: str) -> None:
    chats = loop.conversation.saved.list(LISTED)
    here = loop.conversation.chat.id
    note("\n".join(_line(one, here) for one in chats) or "No chat is saved yet")


def search(loop: "ChatLoop", argument: str) -> None:
    """List the chats that contain all the words."""
    if not argument:
        raise PromptError("give a text to search for: /search TEXT")
    here = loop.conversation.chat.id
    lines = [
        f"{_line(one.chat, here)}\n          {clean(one.snippet)}"
        for one in loop.conversation.saved.search(argument)
    ]
    note("\n".join(lines[:LISTED]) or f"No chat has “{clean(argument)}”")


def export(loop: "ChatLoop", argument: str) -> None:
    """Write the chat to a new file: Markdown, or JSON if it ends in .json."""
    from mlx_gptoss.chat.sessions import as_markdown

    chat = loop.conversation.chat
    if not chat.messages:
        raise PromptError("there is nothing to write yet")
    path = Path(argument or f"chat-{chat.id[:8]}.md").expanduser()
    data = chat.to_json()
    if path.suffix == ".json":
        text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    else:
        text = as_markdown(data)
    if path.exists():
        raise PromptError(f"`{path}` exists: name another file")
    write(path, text, replace=False)
    note(f"Written to {path}")


def show_where(conversation: "ChatSession", interface: "ChatInterface") -> None:
    """Show the end of a resumed chat."""
    from mlx_gptoss.chat.history import cut_reason

    chat = conversation.chat
    asked = len(chat.questions)
    turns = "1 question" if asked == 1 else f"{asked} questions"
    note(f"Going on with {chat.id[:8]}, “{short(clean(chat.title))}”, {turns}")
    if chat.questions:
        interface.replay(chat.questions[-1], last_answer(chat))
    if why := cut_reason(chat.messages):
        note(f"({describe_cause(why)}; /retry answers again)")
    if lost := conversation.lost_adapter:
        now = chat.adapter or "the model without an adapter"
        note(f"(its adapter `{lost}` is not loaded: {now} answers; see --adapter)")


def _line(chat: "ChatSummary", here: str) -> str:
    mark = "*" if chat.id == here else " "
    when = datetime.fromisoformat(chat.updated).astimezone()
    title = short(clean(chat.title))
    return f"{mark} {chat.short_id}  {when:%Y-%m-%d %H:%M}  {chat.turns:>3}  {title}"


def _chats(conversation: "ChatSession") -> Iterator[Word]:
    known: Iterable[ChatSummary] = ()
    if conversation.store is not None:
        known = conversation.store.list(LISTED)
    return ((one.short_id, one.title) for one in known)


COMMANDS = (
    ChatCommand(
        "file", "PATH", "attach a file to the next message, like @PATH", file, PATH
    ),
    ChatCommand("image", "PATH", "refused: gpt-oss reads only text", image, PATH),
    ChatCommand(
        "save", "[TITLE]", "name the chat; every turn is saved automatically", save
    ),
    ChatCommand("load", "ID", "resume a saved chat", load, _chats),
    ChatCommand("sessions", "", "list the saved chats", sessions),
    ChatCommand("search", "TEXT", "find chats that contain all the words", search),
    ChatCommand(
        "export", "[FILE]", "write the chat to a file: Markdown, or .json", export, PATH
    ),
)
