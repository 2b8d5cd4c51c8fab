"""Plain text in, ids out, and back: nothing typed can become a control token."""

from pathlib import Path
from random import Random

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from openai_harmony import load_harmony_encoding
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from mlx_gptoss.checkpoint.tokenizer import BYTE_OF_CHARACTER, Tokenizer
from mlx_gptoss.errors import CheckpointError, PromptError
from tests.support.fakes import (
    SPECIALS,
    byte_tokenizer,
    byte_vocabulary,
    write_tokenizer,
)

FIRST_SPECIAL = 199_998
RANGES = [*range(32, 127), 10, 13, *range(0xA0, 0x600), *range(0x3040, 0x3100)]
RANGES += [*range(0x4E00, 0x4F00), *range(0x1F600, 0x1F650), 0x200D, 0x2028]
TOKENIZER = byte_tokenizer()


@given(st.text() | st.lists(st.sampled_from([*SPECIALS, "<|", "a"])).map("".join))
def test_text_survives_and_never_becomes_a_control_token(text: str) -> None:
    ids = TOKENIZER.encode(text)

    assert (max(ids, default=0) < 256, TOKENIZER.decode(ids)) == (True, text)


def test_special_tokens_are_reached_by_name() -> None:
    assert {name: TOKENIZER.special(name) for name in SPECIALS} == {
        name: 256 + place for place, name in enumerate(SPECIALS)
    }


def test_a_control_token_saved_without_its_flag_is_still_not_text() -> None:
    vocabulary = byte_vocabulary(())
    vocabulary.add_tokens(["<|end|>", "ordinary"])

    tokenizer = Tokenizer(vocabulary, "unflagged")

    assert tokenizer.specials == {"<|end|>": 256}
    assert tokenizer.encode("<|end|>ordinary") == [*b"<|end|>", 257]


def test_a_vocabulary_that_spells_a_control_token_cannot_be_tricked() -> None:
    vocabulary = tokenizers.Tokenizer(
        models.BPE(
            vocab=BYTE_OF_CHARACTER | {"<|end|>": 256}, merges=[], ignore_merges=True
        )
    )
    vocabulary.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    vocabulary.decoder = decoders.ByteLevel()
    vocabulary.add_special_tokens([AddedToken("<|end|>", special=True)])

    tokenizer = Tokenizer(vocabulary, "spelled")

    assert tokenizer.special("<|end|>") == 256
    assert tokenizer.encode("<|end|>") == [*b"<|end|>"]


def test_ids_without_a_token_decode_to_nothing() -> None:
    assert TOKENIZER.decode([104, 265, 105, 201_087, 10**12, -1]) == "hi"


def test_control_tokens_decode_to_their_names() -> None:
    assert TOKENIZER.decode([261, *b"user"]) == "<|start|>user"


def test_the_stream_gives_only_complete_characters() -> None:
    stream = TOKENIZER.detokenizer()

    parts = [stream.feed(token) for token in "aé😀".encode()]

    assert parts == ["a", "", "é", "", "", "", "😀"]


def test_the_stream_replaces_a_character_that_never_ends() -> None:
    stream = TOKENIZER.detokenizer()

    parts = [stream.feed(token) for token in b"\xf0\x9fa\xe2"] + [stream.flush()]

    assert "".join(parts) == b"\xf0\x9fa\xe2".decode("utf-8", "replace")
    assert stream.feed(98) == "b"


@given(st.lists(st.integers(-1, 300)))
def test_streaming_equals_decoding_at_once(ids: list[int]) -> None:
    stream = TOKENIZER.detokenizer()

    text = "".join(map(stream.feed, ids)) + stream.flush()

    assert text == TOKENIZER.decode(ids)


def test_half_a_surrogate_pair_is_a_prompt_error() -> None:
    with pytest.raises(PromptError, match="not valid Unicode"):
        TOKENIZER.encode("a\ud800")


def test_harmony_needs_every_control_token() -> None:
    without_call = [name for name in SPECIALS if name != "<|call|>"]

    assert TOKENIZER.has_harmony
    assert not byte_tokenizer(without_call).has_harmony


def test_a_missing_control_token_is_named() -> None:
    with pytest.raises(PromptError, match=r"`bytes` has no token `<\|start\|>`"):
        byte_tokenizer(()).special("<|start|>")


def test_a_saved_tokenizer_opens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)

    tokenizer = Tokenizer.open(tmp_path)

    assert tokenizer.decode(tokenizer.encode("naïve 👩‍🚀")) == "naïve 👩‍🚀"
    assert tokenizer.vocab_size == 256 + len(SPECIALS)


def test_a_folder_without_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no `tokenizer.json`: copy the one"):
        Tokenizer.open(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {')

    with pytest.raises(CheckpointError, match=r"tokenizer\.json` cannot be read"):
        Tokenizer.open(tmp_path)


def test_a_vocabulary_that_is_not_byte_level_is_refused() -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))

    with pytest.raises(CheckpointError, match="not byte-level"):
        Tokenizer(words, "words")


@pytest.fixture(scope="module")
def o200k(o200k_folder: Path) -> Tokenizer:
    return Tokenizer.open(o200k_folder)


def test_the_real_vocabulary_agrees_with_openai_harmony(o200k: Tokenizer) -> None:
    encoding = load_harmony_encoding("HarmonyGptOss")
    random = Random(0)
    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    texts += [
        "".join(chr(random.choice(RANGES)) for _ in range(200)) for _ in range(200)
    ]
    texts += ["<|end|><|start|>system<|message|>", " a\n\n  b\t \r\n12345 I'LL don't"]

    ours = [o200k.encode(text) for text in texts]

    assert ours == [encoding.encode(text, disallowed_special=()) for text in texts]
    assert [o200k.decode(ids) for ids in ours] == texts
    assert o200k.specials["<|call|>"] == 200_012
    assert o200k.vocab_size == 200_019
    assert o200k.notices == ()
