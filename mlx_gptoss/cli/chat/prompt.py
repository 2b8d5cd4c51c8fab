"""The message editor: several lines, history, completion, a status line.

Enter sends; Alt-Enter, Esc Enter or a backslash before Enter starts a new
line, and pasted text keeps its lines; a long one is shown as one line until it is sent.
Ctrl-Z suspends. Knows nothing of models and chats.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import Completer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from mlx_gptoss.cli.chat.completion import is_completed
from mlx_gptoss.cli.chat.pastes import Pastes
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.files import explain_os_error

MARK = "> "
GOES_ON = "  "  # before continuation lines
MENU_LINES = 8
STYLE = Style.from_dict(
    {
        "mark": "bold ansicyan",
        "bottom-toolbar": "noreverse fg:ansibrightblack",
        "completion-menu": "noreverse bg:default",
        "completion-menu.completion": "bg:default fg:default",
        "completion-menu.completion.current": "bg:default fg:ansicyan bold noreverse",
        "completion-menu.meta.completion": "bg:default fg:ansibrightblack",
        "completion-menu.meta.completion.current": "bg:default fg:ansibrightblack",
        "scrollbar.background": "bg:default",
        "scrollbar.button": "bg:ansibrightblack",
    }
)


class MessagePrompt:
    """Read messages; `history` is a file, or None to store none.

    `pastes` are the long ones so far.
    """

    def __init__(self, *, history: Path | None, completer: Completer) -> None:
        self.pastes = Pastes()
        self._history = _UnfoldedHistory(_open_history(history), self.pastes)
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            enable_suspend=True,
            history=self._history,
            completer=completer,
            complete_while_typing=Condition(self._completes),
            complete_in_thread=True,
            prompt_continuation=GOES_ON,
            style=STYLE,
            reserve_space_for_menu=MENU_LINES,
            output=_open_output(),
            include_default_pygments_style=False,
        )

    def read(
        self, begin: str, *, status: Callable[[], str], recall: Callable[[], None]
    ) -> str:
        """Return a message; `begin` is its initial text.

        `status` is shown below; Ctrl-O calls `recall`. Raises EOFError and
        KeyboardInterrupt.
        """
        text = self._session.prompt(
            [("class:mark", MARK)],
            default=self.pastes.fold_again(begin),
            bottom_toolbar=lambda: [("class:bottom-toolbar", status())],
            key_bindings=_keys(recall, self.pastes),
        )
        return self.pastes.unfold(text)

    @property
    def unsent(self) -> str:
        """The text in the editor when it was interrupted."""
        return self._session.default_buffer.text

    def remember(self, text: str) -> None:
        """Add a message to the history that was typed elsewhere."""
        self._history.append_string(text)

    def _completes(self) -> bool:
        return is_completed(self._session.default_buffer.document.text_before_cursor)


def _keys(recall: Callable[[], None], pastes: Pastes) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    @keys.add("c-j")  # Enter pressed before the prompt appeared
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.BracketedPaste)
    def _(event: KeyPressEvent) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        event.current_buffer.insert_text(pastes.fold(text))

    @keys.add("backspace")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        mark = pastes.mark_at_end(buffer.document.text_before_cursor)
        buffer.delete_before_cursor(len(mark) or event.arg)

    @keys.add("c-o")
    def _(event: KeyPressEvent) -> None:
        run_in_terminal(recall)

    return keys


class _Output(Vt100_Output):
    """A terminal that is not queried for its cursor position.

    Nothing then waits for its reply, and the status is right below the message.
    """

    def get_rows_below_cursor_position(self) -> int:
        return 1


class _UnfoldedHistory(History):
    """A history that stores the whole text of pastes."""

    def __init__(self, stored: History, pastes: Pastes) -> None:
        super().__init__()
        self._stored = stored
        self._pastes = pastes

    def append_string(self, string: str) -> None:
        super().append_string(self._pastes.unfold(string))

    def load_history_strings(self) -> Iterable[str]:
        return self._stored.load_history_strings()

    def store_string(self, string: str) -> None:
        self._stored.store_string(string)


class _TypedLines(FileHistory):
    """A history file, or memory if the disk cannot take it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._writes = True

    def store_string(self, string: str) -> None:
        """Store a line; only in memory if the file cannot be written."""
        if not self._writes:
            return
        try:
            super().store_string(string)
        except OSError as error:
            self._writes = False
            why = explain_os_error(error)
            run_in_terminal(
                lambda: note(f"The history of typed lines is not saved: {why}")
            )


def _open_output() -> _Output:
    def size() -> Size:
        columns, rows = shutil.get_terminal_size()
        return Size(rows=rows, columns=columns)

    return _Output(
        sys.stdout,
        size,
        term=os.environ.get("TERM"),
        default_color_depth=ColorDepth.from_env(),  # NO_COLOR
    )


def _open_history(path: Path | None) -> History:
    """Open the private history file; use memory if it cannot be written."""
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _TypedLines(path)
