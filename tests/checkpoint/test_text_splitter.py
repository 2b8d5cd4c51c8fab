"""Split texts have the token ids of the whole; long ones do not block threads."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_gptoss
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.checkpoint.tokenizer.text_splitter import (
    LONGEST_WORD,
    PIECE_CHARACTERS,
    TextSplitter,
    make_splitter,
)
from mlx_gptoss.errors import LongPromptError, PromptError
from mlx_gptoss.harmony.render.encode import SHORT_PROMPT, encode_pieces, encode_within
from mlx_gptoss.harmony.render.pieces import Piece

DEMO = Path(mlx_gptoss.__file__).parent / "demo"
CONTEXT = 4096
# What words begin, go on and end with; phrases of the demo model's; names of tokens;
# characters whose kind has changed between versions of Unicode.
ATOMS = [
    *("a", "B", "ab ", "1", "23", ".", ",", "'", "'s", "'S", "don't", "_", "//", "!"),
    *(" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\x00", "\u200d"),
    *(
        "é",
        "e\u0301",
        "\u0301",
        "漢",
        "、",
        "ʰ",
        "ǅ",
        "ß",
        "\u017f",
        "\u2019",
        "😀",
        "²",
        "Ⅷ",
    ),
    *("\u0660", "\U0001d7d8", "\u1885", "\u0b83", "\U00020000", " the", "Reasoning: "),
    *("Current date: ", "\nReasoning: ", " carry ", "<|end|>", "<|start|>", "gpt-4o"),
    "# Tools\n\n## functions\n\nnamespace functions {\n\n",
]
TEXTS = st.lists(st.sampled_from(ATOMS) | st.characters(), max_size=60).map("".join)


@pytest.fixture(scope="module", params=["demo", "gpt-oss"])
def tokenizer(request: pytest.FixtureRequest, o200k_folder: Path) -> Tokenizer:
    return Tokenizer.open(DEMO if request.param == "demo" else o200k_folder)


def cutter(tokenizer: Tokenizer) -> TextSplitter:
    found = make_splitter(tokenizer._vocabulary)
    assert found is not None
    return found


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, size=st.integers(1, 12))
def test_pieces_have_the_tokens_of_the_whole(
    tokenizer: Tokenizer, text: str, size: int
) -> None:
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    pieces = list(cutter(tokenizer).split(text, size))

    ids = [token for piece in pieces for token in tokenizer.encode(piece)]

    assert "".join(pieces) == text
    assert ids == tokenizer.encode(text)


@settings(max_examples=15, deadline=None)
@given(text=TEXTS)
def test_a_text_has_no_fewer_tokens_than_is_said(
    tokenizer: Tokenizer, text: str
) -> None:
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    loosely, closely = (
        tokenizer.min_token_count(text),
        tokenizer.min_token_count(text, tight=True),
    )

    assert loosely <= closely <= len(tokenizer.encode(text))


def test_a_long_text_is_encoded_in_pieces_as_it_is_whole(tokenizer: Tokenizer) -> None:
    text = Path(__file__).read_text() * 20
    whole = tokenizer._vocabulary.encode(text, add_special_tokens=False).ids

    assert len(text) > 2 * PIECE_CHARACTERS
    assert max(map(len, tokenizer.split(text))) <= PIECE_CHARACTERS
    assert tokenizer.encode(text) == whole
    assert encode_within([Piece(text)], tokenizer, 10**9) == whole


def test_english_is_cut_at_every_word(tokenizer: Tokenizer) -> None:
    text = "So it goes, on and on: 12 times 3 is 36."

    pieces = list(cutter(tokenizer).split(text, 1))

    assert pieces[:4] == ["So", " it", " goes", ","]


@pytest.mark.parametrize("begins", ["word ", "a1", "a", " ", "漢", "\u0301"])
def test_what_cannot_fit_is_refused_before_all_of_it_is_encoded(
    tokenizer: Tokenizer, begins: str
) -> None:
    text = begins * (CONTEXT * 300 // len(begins.encode()))

    with pytest.raises(LongPromptError, match=r"at least .* tokens") as found:
        encode_within([Piece("hi"), Piece(text)], tokenizer, CONTEXT)

    assert found.value.tokens >= CONTEXT


def test_what_fills_the_context_is_encoded_no_further(tokenizer: Tokenizer) -> None:
    text = "so it goes " * (SHORT_PROMPT // 5)

    with pytest.raises(LongPromptError) as found:
        encode_within([Piece(text)], tokenizer, CONTEXT)

    assert CONTEXT <= found.value.tokens < CONTEXT + PIECE_CHARACTERS


def test_what_is_only_counted_may_fill_the_context(tokenizer: Tokenizer) -> None:
    text = "so it goes " * (SHORT_PROMPT // 5)
    whole = encode_pieces([Piece(text)], tokenizer)

    found = encode_within(
        [Piece(text)], tokenizer, CONTEXT * 9, count_to=len(whole) + 1
    )

    assert found == whole


def test_a_word_without_an_end_is_refused_in_words(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="without the end of a word: shorten"):
        tokenizer.encode("a" * (LONGEST_WORD + 1))
