"""Files attached to a message come back as they were."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.harmony.attached_files import file_label, split_files, with_file

TEXTS = st.text(st.sampled_from("ab `\n~:"), max_size=40)
NAMES = TEXTS.map(file_label)


@given(TEXTS, st.lists(st.tuples(NAMES, TEXTS), max_size=3))
def test_files_come_back_with_their_names_and_texts(
    question: str, files: list[tuple[str, str]]
) -> None:
    message = question = f"Read this.{question}".rstrip() + "."
    for name, text in files:
        message = with_file(message, name, text)

    assert split_files(message) == (
        question,
        [(name, text.rstrip()) for name, text in files],
    )


def test_a_message_that_only_shows_code_has_no_file() -> None:
    for message in ("", "x", "Look:\n```\ncode\n```", "\n\n`a`:\n```\nx", "```\n```"):
        assert split_files(message) == (message, [])
