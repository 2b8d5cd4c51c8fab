"""Keys pressed at a question about a call, and when: nothing is decided by accident."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys

from mlx_gptoss.cli.chat.question import (
    ALONE,
    FIRST,
    SECOND,
    SETTLE,
    ApprovalQuestion,
    UnsentText,
)
from mlx_gptoss.harmony.events import ToolCall

PYTHON = ToolCall("call_1", "python", "print(1)")
SEARCH = ToolCall("call_2", "browser.search", "{}")
FRAME = 0.05
ENTER = KeyPress(Keys.ControlM)
BACKSPACE = KeyPress(Keys.ControlH)
LEFT = KeyPress(Keys.Left)


class Person:
    """Looks at a question every FRAME, and presses keys between two looks."""

    def __init__(self, call: ToolCall = PYTHON, draft: str = "") -> None:
        self.draft = UnsentText()
        for letter in draft:
            self.draft.type(KeyPress(letter, letter))
        self.question = ApprovalQuestion(call, self.draft)
        self.now = 100.0
        self.choice: str | None = None

    def press(self, *keys: str | KeyPress) -> None:
        """Press all between this look and the next."""
        pressed = [KeyPress(k, k) if isinstance(k, str) else k for k in keys]
        self.now += FRAME
        self.choice = self.choice or self.question.look(pressed, self.now)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / FRAME)):
            self.question.seen(self.now)
            self.press()


def asked(call: ToolCall = PYTHON, draft: str = "") -> Person:
    """Someone who has looked at a question for long enough."""
    person = Person(call, draft)
    person.wait(SETTLE + 2 * FRAME)
    return person


@pytest.mark.parametrize(
    ("key", "choice"),
    [("o", "once"), ("y", "once"), ("O", "once"), ("n", "no"), ("v", "never")],
)
def test_a_letter_alone_answers(key: str, choice: str) -> None:
    person = asked()
    person.press(key)
    assert person.choice is None  # it may begin a word
    person.wait(ALONE + FRAME)
    assert (person.choice, person.draft.text) == (choice, "")


def test_enter_behind_a_letter_changes_nothing() -> None:
    person = asked()
    person.press("o", ENTER)
    person.wait(ALONE + FRAME)
    assert (person.choice, person.draft.text) == ("once", "")


@pytest.mark.parametrize("pause", [0, SETTLE, 10])
def test_letters_of_somebody_who_types_do_not_answer(pause: float) -> None:
    person = asked()
    for key in "way":
        person.press(key)
        person.wait(pause)
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "way")


@pytest.mark.parametrize("keys", ["and", "on", "oo", "no", "a", "o"])
def test_letters_typed_as_the_question_comes_up_do_not_answer(keys: str) -> None:
    person = Person()
    person.press(*keys)  # before it was seen
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, keys)


@pytest.mark.parametrize("seconds", [0.0, SETTLE / 2, SETTLE - FRAME])
def test_a_letter_in_the_very_moment_does_not_answer(seconds: float) -> None:
    person = Person()
    person.question.seen(person.now)
    person.wait(seconds)
    person.press("a")
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "a")


def test_a_word_that_begins_with_an_answer_is_none() -> None:
    person = asked()
    for key in "and so on":
        person.press(key)
        person.wait(ALONE - 2 * FRAME)
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "and so on")


def test_a_program_that_slept_does_not_take_old_keys_for_answers() -> None:
    """The key may have been pressed right after the last look, before it was open."""
    person = Person()
    person.question.seen(person.now)
    person.press()
    person.now += 60
    person.press("a")
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "a")


@pytest.mark.parametrize("how", ["enter", "erased", "line"])
def test_who_has_done_typing_may_answer(how: str) -> None:
    person = asked(draft="so")
    person.press("a")
    if how == "enter":
        person.press(ENTER)
    elif how == "erased":
        person.press(BACKSPACE, BACKSPACE, BACKSPACE)
    else:
        person.press(KeyPress(Keys.ControlU))
    person.press("o")  # too soon
    left = {"enter": "soao", "erased": "o", "line": "o"}[how]
    assert (person.choice, person.draft.text) == (None, left)
    person.press(ENTER)
    person.wait(SETTLE + FRAME)
    person.press("o")
    person.wait(ALONE + FRAME)
    assert (person.choice, person.draft.text) == ("once", left)


def test_a_draft_of_before_comes_first() -> None:
    person = asked(draft="and in Berg")
    person.press("o")
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "and in Bergo")
    assert "Enter, then" in person.question.text().plain


def test_a_draft_that_was_put_aside_stays_there() -> None:
    person = asked(draft="so")
    person.press(ENTER)
    later = ApprovalQuestion(PYTHON, person.draft)
    assert "Enter, then" not in later.text().plain


def test_pasted_text_does_not_answer() -> None:
    person = asked()
    person.press(KeyPress(Keys.BracketedPaste, "a"))
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "a")


@pytest.mark.parametrize("key", [LEFT, BACKSPACE])
def test_a_letter_can_be_taken_back_by_another_key(key: KeyPress) -> None:
    person = asked()
    person.press("a", key)
    person.wait(10)
    assert (person.choice, person.draft.text) == (None, "")
    person.press("n")
    person.wait(ALONE + FRAME)
    assert person.choice == "no"


def test_always_is_asked_again_of_what_may_run_code_or_touch_files() -> None:
    person = asked()
    person.press("a")
    person.wait(ALONE + FRAME)
    assert (person.choice, person.question.offer) == (None, SECOND)
    person.press("y")  # too soon
    person.wait(10)
    assert person.choice is None
    person.press(BACKSPACE)
    person.wait(SETTLE + FRAME)
    person.press("a")  # no answer to this question
    person.wait(10)
    assert person.choice is None
    person.press(BACKSPACE)
    person.wait(SETTLE + FRAME)
    person.press("y")
    person.wait(ALONE + FRAME)
    assert (person.choice, person.draft.text) == ("always", "")


@pytest.mark.parametrize(("key", "choice"), [("o", "once"), ("n", "no")])
def test_who_thinks_better_of_always_can_say_less(key: str, choice: str) -> None:
    person = asked()
    person.press("a")
    person.wait(ALONE + SETTLE + 3 * FRAME)
    person.press(key)
    person.wait(ALONE + FRAME)
    assert person.choice == choice


def test_always_is_asked_once_of_what_only_reads() -> None:
    person = asked(SEARCH)
    person.press("a")
    person.wait(ALONE + FRAME)
    assert (person.choice, person.question.offer) == ("always", FIRST)


KEYS = st.sampled_from([*"oanvyw \t", ENTER, BACKSPACE, LEFT])


@settings(deadline=None)
@given(
    st.text("onavyws ", min_size=1, max_size=4),
    st.lists(st.tuples(KEYS, st.sampled_from([0, 0.1, 0.3, 0.6, 2])), max_size=12),
)
def test_nothing_decides_while_a_draft_stands(draft: str, keys: list[Any]) -> None:
    """Whatever is pressed when, save Enter and what erases the draft."""
    person = asked(draft=f"w{draft}")
    for key, pause in keys:
        if isinstance(key, str) or key is LEFT:
            person.press(key)
            person.wait(pause)
    person.wait(5)
    assert person.choice is None
    typed = "".join(key for key, _ in keys if isinstance(key, str))
    assert person.draft.text == f"w{draft}{typed}"
