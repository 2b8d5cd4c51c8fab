"""Commands about earlier messages: retry, edit, branch, undo, copy."""

import re
from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.clipboard import copy as to_clipboard
from mlx_gptoss.cli.chat.commands.command import ChatCommand
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import PromptError

if TYPE_CHECKING:
    from mlx_gptoss.chat import Chat
    from mlx_gptoss.cli.chat.loop import ChatLoop

CODE = re.compile(r"^(`{3,}|~{3,})[^\n]*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
SHORT = 60  # characters of a question in a note


def retry(loop: "ChatLoop", argument: str) -> None:
    """Answer the last question again."""
    loop.answer(loop.conversation.chat.regenerate())


def edit(loop: "ChatLoop", argument: str) -> None:
    """Edit and resend the last or the N-th question; the text may be given."""
    chat = loop.conversation.chat
    number, _, text = argument.partition(" ")
    if number and not number.isdecimal():
        number, text = "", argument
    turn = int(number) if number else len(chat.questions)
    if not 1 <= turn <= len(chat.questions):
        raise PromptError(f"there is no question {turn}, of {len(chat.questions)}")
    changed = text.strip() or loop.interface.compose(chat.questions[turn - 1])
    if changed is None:
        note("Nothing was changed; /edit N TEXT replaces the text directly")
        return
    loop.answer(chat.edit(turn, changed))


def branch(loop: "ChatLoop", argument: str) -> None:
    """Continue in a copy of the conversation."""
    conversation = loop.conversation
    before = conversation.chat
    other = before.branch(_number(argument) if argument else None)
    conversation.adopt(other)
    conversation.save()
    back = f"; /load {before.id[:8]} goes back" if conversation.store else ""
    note(f"This is a branch with {len(other.questions)} questions{back}")


def undo(loop: "ChatLoop", argument: str) -> None:
    """Forget the last question and its answer."""
    question = loop.conversation.chat.undo()
    loop.conversation.measure()
    note(f"Removed: {short(question)}")


def start_anew(loop: "ChatLoop", argument: str) -> None:
    """Start a new conversation; say how to return to the last one, or delete it."""
    conversation = loop.conversation
    chat = conversation.chat
    id, asked = chat.id[:8], bool(chat.messages)
    conversation.start_anew()
    if not asked:
        note("A new conversation")
    elif conversation.store is None:
        note("A new conversation; the last one was not saved, and is gone")
    else:
        note(
            f"A new conversation; the last one stays saved: /load {id} goes back to "
            f"it, `mlx-gptoss sessions delete {id}` deletes it"
        )


def copy(loop: "ChatLoop", argument: str) -> None:
    """Copy the last answer, or the code in it."""
    text = last_answer(loop.conversation.chat)
    if not text:
        raise PromptError("there is no answer yet")
    if argument == "code":
        blocks = CODE.findall(text)
        if not blocks:
            raise PromptError("there is no code in the last answer")
        text = blocks[-1][1]
    elif argument:
        raise PromptError("/copy takes no argument, or `code`")
    note(f"Copied {len(text):,} characters with {to_clipboard(text)}")


def last_answer(chat: "Chat") -> str:
    """Return the model's answer to the last question, or an empty text."""
    for message in reversed(chat.messages):
        if message.role == "user":
            return ""
        if message.role == "assistant" and message.channel == "final":
            return message.text
    return ""


def short(text: str) -> str:
    """Return the start of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHORT else line[:SHORT] + "…"


def _number(text: str) -> int:
    if not text.isdecimal():
        raise PromptError(f"`{text}` is not the number of a question")
    return int(text)


COMMANDS = (
    ChatCommand("retry", "", "answer the last question again", retry),
    ChatCommand(
        "edit", "[N] [TEXT]", "edit and resend the last or the N-th question", edit
    ),
    ChatCommand("branch", "[N]", "continue in a copy, up to question N", branch),
    ChatCommand("undo", "", "forget the last question and its answer", undo),
    ChatCommand(
        "new", "", "start a new conversation; this one stays saved", start_anew
    ),
    ChatCommand("reset", "", "the same as /new", start_anew),
    ChatCommand("clear", "", "the same as /new", start_anew),
    ChatCommand(
        "copy",
        "[code]",
        "copy the last answer, or its code",
        copy,
        lambda _: [("code", "the last code block")],
    ),
)
