"""Text typed while an answer is written: messages that wait, and an unfinished one.

Enter ends a message, which is sent when the answer is complete; Alt-Enter, or a
backslash before Enter, starts a new line in it. A long paste is shown as a mark. Takes
keys, returns lines to display; knows no terminal.
"""

from collections import deque
from collections.abc import Sequence

from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from rich.cells import cell_len
from rich.text import Text

from mlx_gptoss.cli.chat.layout import ScreenLayout, clean, dim, on_one_line
from mlx_gptoss.cli.chat.pastes import Pastes
from mlx_gptoss.cli.chat.prompt import GOES_ON, MARK
from mlx_gptoss.cli.chat.question import ENTER, UnsentText

DRAFT_LINES = 4  # shown of the unfinished message
SHOWN_CHARACTERS = 4000  # most that are laid out of a message
WAITING_SHOWN = 3  # messages
CONTINUES = "\\"  # before Enter


class TypedAhead:
    """Waiting messages, and the text of the next one; `pastes` are folded in both."""

    def __init__(self, pastes: Pastes | None = None) -> None:
        self._pastes = pastes or Pastes()
        self.waiting: deque[str] = deque()
        self.draft = UnsentText(pastes=self._pastes)

    def next_message(self) -> str | None:
        """Return the first message that waits, None if none does."""
        return self._pastes.unfold(self.waiting.popleft()) if self.waiting else None

    def take_draft(self) -> str:
        """Return the unfinished message, and begin another."""
        text = self.draft.text.lstrip("\n")
        self.draft = UnsentText(pastes=self._pastes)
        return text

    def take_back(self, text: str = "") -> None:
        """Make `text` and all that waits part of the unfinished message."""
        parts = [text, *self.waiting, self.draft.shown]
        self.waiting.clear()
        self.draft = UnsentText("\n".join(filter(None, parts)), self._pastes)

    def type(self, pressed: Sequence[KeyPress]) -> list[KeyPress]:
        """Take keys; return those that are neither text nor Enter."""
        others: list[KeyPress] = []
        escaped: KeyPress | None = None
        for press in pressed:
            if escaped is not None and press.key in ENTER:
                self.draft.shown += "\n"
                escaped = None
                continue
            others += [escaped] if escaped is not None else []
            escaped = press if press.key == Keys.Escape else None
            if press.key in ENTER:
                self._enter()
            elif escaped is None:
                self.draft.type(press)
        return [*others, escaped] if escaped is not None else others

    def _enter(self) -> None:
        draft = self.draft
        if draft.shown.endswith(CONTINUES):
            draft.shown = draft.shown.removesuffix(CONTINUES) + "\n"
            return
        self.draft = UnsentText(pastes=self._pastes)
        if draft.text.strip():
            self.waiting.append(draft.shown.strip())

    def lines(self, layout: ScreenLayout, columns: int) -> list[str]:
        """Lay out the waiting messages, one line each, and the end of the draft."""
        found: list[str] = []
        for message in list(self.waiting)[:WAITING_SHOWN]:
            line = dim(f"Next: {' '.join(message[:SHOWN_CHARACTERS].split())}")
            found += layout.content(on_one_line(line), columns)
        if len(self.waiting) > WAITING_SHOWN:
            more = len(self.waiting) - WAITING_SHOWN
            found += layout.content(dim(f"and {more} more"), columns)
        if self.draft.shown.strip():
            text = clean(self.draft.shown[-SHOWN_CHARACTERS:])
            text = text.replace("\n", "\n" + GOES_ON)
            shown = Text.assemble((MARK, "bold cyan"), text, overflow="fold")
            found += layout.content(shown, columns)[-DRAFT_LINES:]
        return found

    def blocking_line(self, layout: ScreenLayout, columns: int) -> list[str]:
        """Return the end of the draft, while it blocks answers to a question."""
        if not self.draft.typing:
            return []
        line = clean(self.draft.shown.rpartition("\n")[2][-SHOWN_CHARACTERS:])
        while cell_len(line) > columns - len(MARK) - 2:
            line = line[1:]
        return layout.content(Text.assemble((MARK, "bold cyan"), line), columns)
