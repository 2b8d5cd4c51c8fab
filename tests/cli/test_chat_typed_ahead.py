"""Text typed while an answer is written, and long pastes: keys in, lines out."""

from io import StringIO
from time import monotonic

from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys

from mlx_gptoss.cli.chat.layout import ScreenLayout
from mlx_gptoss.cli.chat.pastes import LONG_LINES, Pastes, shortened
from mlx_gptoss.cli.chat.typed_ahead import TypedAhead

LAYOUT = ScreenLayout(StringIO())
ENTER, ESCAPE = KeyPress(Keys.ControlM), KeyPress(Keys.Escape)
BACKSPACE = KeyPress(Keys.ControlH)


def typed(*keys: str | KeyPress) -> TypedAhead:
    ahead = TypedAhead()
    ahead.type(presses(*keys))
    return ahead


def presses(*keys: str | KeyPress) -> list[KeyPress]:
    return [
        press
        for key in keys
        for press in (
            [KeyPress(letter, letter) for letter in key]
            if isinstance(key, str)
            else [key]
        )
    ]


def test_enter_ends_a_message_and_the_rest_is_unfinished() -> None:
    ahead = typed("one", ENTER, ENTER, "two", ENTER, "thr")
    assert (list(ahead.waiting), ahead.draft.text) == (["one", "two"], "thr")
    assert ahead.lines(LAYOUT, 40) == ["Next: one", "Next: two", "> thr"]
    assert [ahead.next_message() for _ in range(3)] == ["one", "two", None]


def test_a_message_can_have_several_lines() -> None:
    ahead = typed("a\\", ENTER, "b", ESCAPE, ENTER, "c", ENTER)
    assert list(ahead.waiting) == ["a\nb\nc"]


def test_escape_alone_is_not_taken() -> None:
    assert TypedAhead().type(presses("a", ESCAPE, "b")) == [ESCAPE]
    assert TypedAhead().type([ESCAPE]) == [ESCAPE]


def test_what_waits_is_taken_back_in_order() -> None:
    ahead = typed("one", ENTER, "two", ENTER, "thr")
    ahead.take_back("zero")
    assert (list(ahead.waiting), ahead.take_draft()) == ([], "zero\none\ntwo\nthr")
    assert ahead.lines(LAYOUT, 40) == []


def test_a_long_draft_shows_its_end_and_many_messages_their_number() -> None:
    ahead = typed(*(letter for n in range(5) for letter in (f"m{n}", ENTER)), "x" * 200)
    lines = ahead.lines(LAYOUT, 40)
    assert lines[:4] == ["Next: m0", "Next: m1", "Next: m2", "and 2 more"]
    assert len(lines) == 8 and lines[-1].endswith("x")


def test_a_long_paste_is_one_line_until_it_is_sent() -> None:
    pastes = Pastes()
    text = "\n".join(f"line {n}" for n in range(120))
    shown = f"look: {pastes.fold(text)} ok"
    assert shown == "look: [paste 1: 120 lines] ok"
    assert pastes.unfold(shown) == f"look: {text} ok"
    assert pastes.fold_again(f"look: {text} ok") == shown
    assert pastes.mark_at_end("x [paste 1: 120 lines]") == "[paste 1: 120 lines]"
    assert pastes.fold("y" * 5000) == "[paste 2: 5,000 characters]"
    assert pastes.fold("short\ntext") == "short\ntext"


def test_a_paste_that_comes_back_without_its_last_line_end_is_folded_again() -> None:
    pastes = Pastes()
    shown = pastes.fold("line of a file\n" * 40)
    assert pastes.fold_again(pastes.unfold(shown).strip()) == shown
    assert pastes.fold_again(f"see {pastes.unfold(shown)}") == f"see {shown}"
    blank = Pastes()
    blank.fold("\n" * 40)
    assert blank.fold_again("a b") == "a b"


def test_a_long_paste_ahead_is_a_mark_until_its_turn_comes() -> None:
    pasted = "\n".join(f"line {n}" for n in range(60))
    paste = KeyPress(Keys.BracketedPaste, pasted.replace("\n", "\r"))
    ahead = typed("see ", paste, " please", ENTER, paste, "x")
    assert ahead.lines(LAYOUT, 60) == [
        "Next: see [paste 1: 60 lines] please",
        "> [paste 2: 60 lines]x",
    ]
    ahead.type(presses(BACKSPACE, BACKSPACE, paste))
    assert ahead.lines(LAYOUT, 60)[1:] == ["> [paste 3: 60 lines]"]
    assert ahead.next_message() == f"see {pasted} please"
    ahead.take_back("again")
    assert ahead.lines(LAYOUT, 60) == ["> again", "  [paste 3: 60 lines]"]
    assert ahead.take_draft() == f"again\n{pasted}"


def test_a_draft_of_any_length_is_laid_out_quickly() -> None:
    ahead = typed(ENTER)
    ahead.draft.shown = "word " * 1_000_000
    began = monotonic()
    assert len(ahead.lines(LAYOUT, 60)) == 4
    assert monotonic() - began < 5


@given(st.lists(st.text(max_size=12), max_size=3 * LONG_LINES))
def test_what_is_folded_unfolds_to_itself(lines: list[str]) -> None:
    pastes = Pastes()
    text = "\n".join(lines)
    assert pastes.unfold(pastes.fold(text)) == text


def test_a_long_message_is_printed_in_part() -> None:
    assert shortened(["a"] * 11) == ["a"] * 11
    assert shortened(["a"] * 30) == [*["a"] * 10, "… 20 more lines"]
