"""Settings that fine-tuning leaves in a `tokenizer.json` do not change a prompt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import CheckpointError
from tests.support.fakes import byte_vocabulary, write_tokenizer

Json = dict[str, Any]
TEXT = "  Where is a  <|end|> cafe\u0301?\n" + 100 * "so " + "é"
BYTES = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {
        "<|startoftext|>": {
            "id": "<|startoftext|>",
            "ids": [256],
            "tokens": ["<|startoftext|>"],
        }
    },
}
TRUNCATION = {
    "direction": "Right",
    "max_length": 48,
    "strategy": "LongestFirst",
    "stride": 0,
}
PADDING = {
    "strategy": {"Fixed": 4000},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 257,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}
LEFTOVERS: dict[str, tuple[Json, str]] = {
    "truncation": ({"truncation": TRUNCATION}, "cuts prompts to 48 tokens"),
    "left-truncation": (
        {"truncation": TRUNCATION | {"direction": "Left"}},
        "cuts prompts to 48 tokens",
    ),
    "padding": ({"padding": PADDING}, "pads prompts with a token"),
    "padding-to-the-longest": (
        {"padding": PADDING | {"strategy": "BatchLongest", "pad_to_multiple_of": 999}},
        "pads prompts with a token",
    ),
    "template": ({"post_processor": TEMPLATE}, "`post_processor` TemplateProcessing"),
    "template-in-a-sequence": (
        {
            "post_processor": {
                "type": "Sequence",
                "processors": [{"type": "ByteLevel", **BYTES}, TEMPLATE],
            }
        },
        "`post_processor` TemplateProcessing",
    ),
    "nfc": ({"normalizer": {"type": "NFC"}}, "changes text (`normalizer` NFC)"),
    "lowercase-in-a-sequence": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}],
            }
        },
        "changes text (`normalizer` NFKC, Lowercase)",
    ),
    "prefix-space": (
        {"pre_tokenizer": {"type": "ByteLevel", **BYTES, "add_prefix_space": True}},
        "puts a space before text (`add_prefix_space`)",
    ),
    "prefix-space-in-a-sequence": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", **BYTES, "add_prefix_space": True},
                ],
            }
        },
        "puts a space before text (`add_prefix_space`)",
    ),
    "dropout": ({"model": {"dropout": 0.5}}, "cuts words at random (`dropout` 0.5)"),
}


def edit(folder: Path, changes: Json) -> None:
    """Write a byte-level vocabulary with Harmony's tokens and odd settings."""
    write_tokenizer(folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    model = raw["model"] | changes.get("model", {})
    path.write_text(json.dumps(raw | changes | {"model": model}))


@pytest.mark.parametrize(("changes", "says"), LEFTOVERS.values(), ids=LEFTOVERS)
def test_a_prompt_is_its_text_whatever_training_left(
    changes: Json, says: str, tmp_path: Path
) -> None:
    edit(tmp_path, changes)

    tokenizer = Tokenizer.open(tmp_path)

    assert tokenizer.encode(TEXT) == list(TEXT.encode())
    (note,) = tokenizer.notices
    assert says in note
    assert note.endswith(": turned off")


def test_all_leftovers_at_once_are_turned_off_and_named(tmp_path: Path) -> None:
    names = ("truncation", "padding", "template", "nfc", "prefix-space", "dropout")
    everything = [LEFTOVERS[name][0] for name in names]
    edit(tmp_path, {key: value for x in everything for key, value in x.items()})

    tokenizer = Tokenizer.open(tmp_path)

    assert tokenizer.encode(TEXT) == list(TEXT.encode())
    assert len(tokenizer.notices) == len(names)


@given(st.text())
def test_any_text_survives_greedy_control_tokens(text: str) -> None:
    assert GREEDY.decode(GREEDY.encode(text)) == text


def greedy_tokenizer() -> Tokenizer:
    vocabulary = byte_vocabulary()
    vocabulary.add_special_tokens([AddedToken("<|message|>", lstrip=True, rstrip=True)])
    vocabulary.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True)])
    return Tokenizer(vocabulary, "greedy")


GREEDY = greedy_tokenizer()


def test_white_space_beside_added_tokens_stays() -> None:
    text = "a  <tool> \n<|message|>  b"

    assert GREEDY.decode(GREEDY.encode(text)) == text
    assert GREEDY.notices == (
        "`tokenizer.json` drops white space beside `<|message|>` and 1 more "
        "(`lstrip`, `rstrip`): turned off",
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda vocabulary: setattr(vocabulary, "pre_tokenizer", None),
        lambda vocabulary: setattr(
            vocabulary,
            "pre_tokenizer",
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.WhitespaceSplit(),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
        ),
    ],
    ids=["no-pre-tokenizer", "white-space-dropped"],
)
def test_a_harmony_vocabulary_that_loses_text_is_refused(
    change: Callable[[tokenizers.Tokenizer], None],
) -> None:
    vocabulary = byte_vocabulary()
    change(vocabulary)

    with pytest.raises(CheckpointError, match="changes or drops some text"):
        Tokenizer(vocabulary, "lossy")


def test_a_vocabulary_without_harmony_keeps_what_it_was_trained_with() -> None:
    vocabulary = byte_vocabulary(())
    vocabulary.normalizer = normalizers.Lowercase()
    vocabulary.enable_truncation(4)

    tokenizer = Tokenizer(vocabulary, "lower")

    assert tokenizer.decode(tokenizer.encode("ABC def")) == "abc def"
    assert [
        note.partition("`tokenizer.json` ")[2][:7] for note in tokenizer.notices
    ] == [
        "cuts pr",
        "changes",
    ]


def test_byte_level_normalizers_are_the_vocabulary_itself() -> None:
    vocabulary = byte_vocabulary()
    vocabulary.normalizer = normalizers.ByteLevel()
    vocabulary.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")

    tokenizer = Tokenizer(vocabulary, "new style")

    assert (tokenizer.encode("a é"), tokenizer.notices) == ([*"a é".encode()], ())


@pytest.mark.parametrize(
    "harmless",
    [
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="$A", pair="$A $B"),  # transformers 5's
        processors.Sequence([processors.ByteLevel(trim_offsets=False)]),
    ],
)
def test_a_post_processor_that_adds_nothing_needs_no_note(harmless: Any) -> None:
    vocabulary = byte_vocabulary()
    vocabulary.post_processor = harmless

    assert Tokenizer(vocabulary, "harmless").notices == ()


def test_other_kinds_of_model_have_no_dropout() -> None:
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))

    with pytest.raises(CheckpointError, match="not byte-level"):
        Tokenizer(words, "words")
