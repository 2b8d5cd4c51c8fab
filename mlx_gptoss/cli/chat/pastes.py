"""Long pasted text, shown in the editor as one line until it is sent.

    pastes = Pastes()
    pastes.fold(text)                # "[paste 1: 120 lines]", or `text` if it is short
    pastes.unfold("see [paste 1: 120 lines]")                # the whole text again

Knows text only.
"""

LONG_LINES = 10
LONG_CHARACTERS = 2000
SHOWN_LINES = 10  # of a long message that is printed
MORE = "… {} more lines"


class Pastes:
    """The long texts pasted so far, by the marks that stand for them."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def fold(self, text: str) -> str:
        """Return a mark for a long text, which is kept; a short one as it is."""
        lines = text.count("\n") + 1
        if lines > LONG_LINES:
            size = f"{lines:,} lines"
        elif len(text) > LONG_CHARACTERS:
            size = f"{len(text):,} characters"
        else:
            return text
        mark = f"[paste {len(self._texts) + 1}: {size}]"
        self._texts[mark] = text
        return mark

    def unfold(self, text: str) -> str:
        """Replace every mark by its text."""
        for mark, pasted in self._texts.items():
            text = text.replace(mark, pasted)
        return text

    def fold_again(self, text: str) -> str:
        """Replace every kept text by its mark, also without the blanks at its ends.

        A message that is sent loses those.
        """
        for mark, pasted in self._texts.items():
            for kept in (pasted, pasted.strip()):
                text = text.replace(kept, mark) if kept else text
        return text

    def mark_at_end(self, text: str) -> str:
        """Return the mark that `text` ends with, or an empty text."""
        return next((mark for mark in self._texts if text.endswith(mark)), "")


def shortened(lines: list[str]) -> list[str]:
    """Return the first lines of a long message, and how many more there are."""
    if len(lines) <= SHOWN_LINES + 1:
        return lines
    return [*lines[:SHOWN_LINES], MORE.format(f"{len(lines) - SHOWN_LINES:,}")]
