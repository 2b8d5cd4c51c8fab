"""Recorded prompts: a conversation as a user writes it, and the text the model reads.

`tests/golden/prompts/NAME.json` gives `NAME.txt`. To accept a change:
MLX_GPTOSS_UPDATE_GOLDEN=1 pytest tests/harmony/test_harmony_prompts.py
"""

import os
from pathlib import Path

import openai_harmony
import pytest

from mlx_gptoss.chat.conversation_file import read_conversation
from mlx_gptoss.harmony.render.pieces import pieces_text
from mlx_gptoss.harmony.render.prompt import history_pieces, render_messages
from tests.support.harmony_strategies import oracle_conversation
from tests.support.vocabulary import SPECIALS, O200k, is_oss_harmony, oracle

FOLDER = Path(__file__).parents[1] / "golden" / "prompts"
GOLDEN = sorted(FOLDER.glob("*.json"))
UPDATE = "MLX_GPTOSS_UPDATE_GOLDEN"
VOCABULARY = O200k()
KEEP = openai_harmony.RenderConversationConfig(auto_drop_analysis=False)
# Deliberately different from the library, see harmony/README.md.
DIFFERENT = {"resolved-schema", "response-format", "typed-marks"}
OSS_DIFFERENT = DIFFERENT | {"saved-chat"}  # writes `code` as a constraint


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_recorded_conversation_gives_the_recorded_prompt(path: Path) -> None:
    text = pieces_text(history_pieces(read_conversation(path.read_text()))) + "\n"
    golden = path.with_suffix(".txt")
    if os.environ.get(UPDATE):
        golden.write_text(text)

    assert text == golden.read_text()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_its_ids_are_that_text_and_marks_come_from_structure(path: Path) -> None:
    messages = read_conversation(path.read_text())
    pieces = history_pieces(messages)
    ids = render_messages(messages, VOCABULARY)
    marks = [SPECIALS[piece.text] for piece in pieces if piece.special]

    assert VOCABULARY.decode(ids) == pieces_text(pieces)
    assert [token for token in ids if token in SPECIALS.values()] == marks


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_it_is_what_the_library_writes(path: Path) -> None:
    messages = read_conversation(path.read_text())
    theirs = oracle().render_conversation_for_completion(
        oracle_conversation(messages), openai_harmony.Role.ASSISTANT, KEEP
    )
    form = "channel" if is_oss_harmony() else "role"
    ours = render_messages(messages, VOCABULARY, keep_analysis=True, recipient_in=form)

    differs = path.stem in (OSS_DIFFERENT if is_oss_harmony() else DIFFERENT)

    assert (ours != theirs) == differs
