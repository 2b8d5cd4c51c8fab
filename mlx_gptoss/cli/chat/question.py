"""Approval questions that only deliberate key presses answer.

A letter answers if it is pressed alone, by somebody who is not typing, after the
question has been on the screen for a moment. Other typed text goes to the next
message; while that is being typed, Enter is needed before a letter answers. Takes keys
and times, returns a choice; knows no terminal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from rich.text import Text

from mlx_gptoss.cli.chat.answer import visible
from mlx_gptoss.cli.chat.approval import ALWAYS, NEVER, NO, ONCE, asks_twice
from mlx_gptoss.cli.chat.keys import typed_text
from mlx_gptoss.cli.chat.pastes import Pastes
from mlx_gptoss.harmony.events import ToolCall

SETTLE = 0.5  # seconds; earlier keys were not meant for the question
ALONE = 0.3  # seconds without another key after which a letter is an answer
ENTER = (Keys.ControlM, Keys.ControlJ)
ERASE = (Keys.Backspace, Keys.ControlH)
ERASE_ALL = Keys.ControlU


class UnsentText:
    """Text typed for the next message; `typing` until it is set aside by Enter.

    It is `shown` with marks for long pastes, which `pastes` keeps.
    """

    def __init__(self, text: str = "", pastes: Pastes | None = None) -> None:
        self._pastes = pastes or Pastes()
        self.shown = self._pastes.fold_again(text)
        self.typing = bool(text.strip())

    @property
    def text(self) -> str:
        """The whole text."""
        return self._pastes.unfold(self.shown)

    def type(self, press: KeyPress) -> None:
        """Append what a key types, or erase."""
        if press.key in ERASE:
            mark = self._pastes.mark_at_end(self.shown)
            self.shown = self.shown[: -(len(mark) or 1)]
        elif press.key == ERASE_ALL:
            self.shown = ""
        else:
            self.shown += self._pastes.fold(typed_text(press))
        self.typing = bool(self.shown.strip())


@dataclass(frozen=True)
class ApprovalChoices:
    """The possible answers: words with their keys marked, and the keys."""

    asks: str
    words: tuple[tuple[str, str, str], ...]
    keys: Mapping[str, str]


FIRST = ApprovalChoices(
    "Run {}?",
    (("", "o", "nce"), ("", "a", "lways"), ("", "n", "o"), ("ne", "v", "er")),
    {"o": ONCE, "y": ONCE, "a": ALWAYS, "n": NO, "v": NEVER},
)
SECOND = ApprovalChoices(
    "Run {} without asking until you leave?",
    (("", "y", "es"), ("", "o", "nce"), ("", "n", "o")),
    {"y": ALWAYS, "o": ONCE, "n": NO},  # not the key that led here
)


class ApprovalQuestion:
    """A question about one call; call `seen` when shown, `look` with new keys."""

    def __init__(self, call: ToolCall, draft: UnsentText) -> None:
        self.call = call
        self.draft = draft
        self.offer = FIRST
        self._open_at = inf  # when keys begin to answer
        self._looked_at = -inf
        self._chosen: tuple[KeyPress, float] | None = None  # may be the start of a word

    @property
    def open(self) -> bool:
        """Whether a key pressed after the last `look` may be an answer."""
        return not self.draft.typing and self._looked_at >= self._open_at

    def seen(self, now: float) -> None:
        """Record that the question is on the screen."""
        if self._open_at == inf:
            self._open_at = now + SETTLE

    def look(self, pressed: Sequence[KeyPress], now: float) -> str | None:
        """Process the keys since the last call; return the choice once made."""
        for press in pressed:
            self._take(press, now)
        self._looked_at = now
        if self._chosen is None or now < self._chosen[1] + ALONE:
            return None
        choice = self.offer.keys[self._chosen[0].key.lower()]
        if choice == ALWAYS and self.offer is FIRST and asks_twice(self.call.name):
            self.offer, self._open_at, self._chosen = SECOND, inf, None
            return None
        return choice

    def text(self) -> Text:
        """The question with its keys; dimmed while they do not answer yet."""
        text = Text(self.offer.asks.format(visible(self.call.name)), style="bold")
        text.append("  Enter, then" if self.draft.typing else "", "not bold")
        for before, key, after in self.offer.words:
            text.append(f"  {before}", "not bold")
            text.append(f"[{key}]", "bold cyan" if self.open else "not bold dim")
            text.append(after, "not bold")
        return text

    def _take(self, press: KeyPress, now: float) -> None:
        chosen = self._chosen
        if chosen is not None and press.key in ENTER:
            return  # some press Enter after the letter
        self._chosen = None
        if self.open and chosen is None and press.key.lower() in self.offer.keys:
            self._chosen = press, now
            return
        if press.key in ENTER:
            self.draft.typing = False
        elif typed_text(press) or press.key in (*ERASE, ERASE_ALL):
            if chosen is not None:
                self.draft.type(chosen[0])
            self.draft.type(press)
        if self._open_at != inf:
            self._open_at = now + SETTLE
