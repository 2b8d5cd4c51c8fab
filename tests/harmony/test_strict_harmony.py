"""Tests of the judges that other tests use: what they accept and reject."""

import pytest

from tests.support.fakes import byte_tokenizer, token_ids
from tests.support.strict_harmony import faults

TOKENIZER = byte_tokenizer()
FINAL = "<|channel|>final<|message|>x<|return|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}"


@pytest.mark.parametrize(
    "stream",
    [
        FINAL,
        f"<|channel|>analysis<|message|>x<|end|><|start|>assistant{FINAL}",
        f"{CALL}<|call|>",
        f"{CALL}<|end|><|start|>assistant{CALL}<|call|>",
        " to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
    ],
)
def test_well_formed_turns_have_no_faults(stream: str) -> None:
    assert faults(token_ids(stream, TOKENIZER), TOKENIZER, tools=["f"]) == []


@pytest.mark.parametrize(
    "stream",
    [
        "",
        "hi<|return|>",
        "<|channel|>fin<|message|>x<|return|>",
        "<|channel|>analysis<|message|>x<|return|>",
        "<|channel|>analysis<|channel|>final<|message|>x<|return|>",
        "<|channel|>final<|message|>x<|channel|>y<|return|>",
        "<|channel|>final<|message|>x<|message|>y<|return|>",
        f"{FINAL}<|end|>",
        f"{CALL}<|call|>".replace("functions.f", "functions.g"),
        f"{CALL}<|call|>".replace("functions.f", "f"),
        f"<|channel|>analysis<|message|>x<|end|>{FINAL}",
        "<|channel|>final<|message|><|endoftext|>",
    ],
)
def test_malformed_turns_have(stream: str) -> None:
    assert faults(token_ids(stream, TOKENIZER), TOKENIZER, tools=["f"])


@pytest.mark.parametrize(
    "stream",
    [
        "<|channel|>ana",
        "<|channel|>final<|message|>x",
        "<|channel|>analysis<|message|>x",
        "<|channel|>analysis<|message|>x<|end|>",
        f"{CALL}<|end|><|start|>assi",
        CALL,
    ],
)
def test_a_turn_that_was_cut_off_is_judged_as_far_as_it_goes(stream: str) -> None:
    ids = token_ids(stream, TOKENIZER)

    assert faults(ids, TOKENIZER, tools=["f"], cut_off=True) == []
    wrong = token_ids("<|channel|>fnal<|message|>", TOKENIZER)
    assert faults([*wrong, *ids], TOKENIZER, tools=["f"], cut_off=True)
