"""Labels of token classifiers, and the best path of them under constraints."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.workloads.redact.labels import Biases, LabelScheme
from mlx_gptoss.workloads.redact.viterbi import LabelDecoder

SCHEMES = {
    "bioes": "O B-a I-a E-a S-a B-b I-b E-b S-b",
    "bilou": "O B-a I-a L-a U-a",
    "bio": "O B-a I-a B-b I-b",
    "plain": "a O b",
}
LEGAL = {  # written by hand: what may be between two labels, or at the ends (^, $)
    "bioes": "^O ^B ^S OO OB OS BI BE II IE EO EB ES E$ SO SB SS S$ O$",
    "bilou": "^O ^B ^U OO OB OU BI BL II IL LO LB LU L$ UO UB UU U$ O$",
    "bio": "^O ^B OO OB BI BO BB II IO IB O$ B$ I$",
}


def scheme(name: str) -> LabelScheme:
    return LabelScheme.parse(tuple(SCHEMES[name].split()))


def is_legal(name: str, path: list[str]) -> bool:
    """Judge a path of names by the table above."""
    steps = ["^", *path, "$"]
    for before, after in pairwise(steps):
        if before[0] + after[0] not in LEGAL[name].split():
            return False
        inside = after[0] in "IEL"
        if inside and before.partition("-")[2] != after.partition("-")[2]:
            return False
    return True


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(LEGAL)),
    length=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_the_path_is_the_best_legal_one(name: str, length: int, seed: int) -> None:
    labels = SCHEMES[name].split()
    logits = np.random.default_rng(seed).normal(size=(length, len(labels)))
    best = max(
        (
            path
            for path in product(range(len(labels)), repeat=length)
            if is_legal(name, [labels[n] for n in path])
        ),
        key=lambda path: sum(logits[place, n] for place, n in enumerate(path)),
    )
    found = LabelDecoder(scheme(name)).decode(logits.astype(np.float32))
    assert tuple(found) == best


def test_plain_names_are_spans_as_long_as_they_last() -> None:
    own = scheme("plain")
    assert own.spans(np.array([0, 0, 2, 1, 0])) == [
        (0, 2, "a"),
        (2, 3, "b"),
        (4, 5, "a"),
    ]
    assert np.isfinite(own.transitions(Biases())).all()


def test_spans_of_a_path() -> None:
    own = scheme("bioes")
    names = SCHEMES["bioes"].split()
    path = [
        names.index(x)
        for x in ["S-a", "B-a", "I-a", "E-a", "B-b", "E-b", "O", "S-b", "S-b"]
    ]
    spans = own.spans(np.array(path))
    assert spans == [(0, 1, "a"), (1, 4, "a"), (4, 6, "b"), (7, 8, "b"), (8, 9, "b")]


def test_leaning_finds_more_or_less() -> None:
    own, names = scheme("bioes"), SCHEMES["bioes"].split()
    logits = np.zeros((3, len(names)), np.float32)
    logits[:, 0] = 1.0  # outside is a little likelier
    logits[1, names.index("S-a")] = 1.0 - 0.5

    def spans(amount: float) -> int:
        found = LabelDecoder(own, Biases().leaning(amount)).decode(logits)
        return len(own.spans(found))

    assert spans(0) == 0
    assert spans(2) >= 1
    logits[1, names.index("S-a")] = 3.0
    assert (spans(0), spans(-4)) == (1, 0)


def test_long_texts_keep_their_digits() -> None:
    own = scheme("bio")
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3000, 5)).astype(np.float32)
    alone = LabelDecoder(own).decode(logits)
    shifted = LabelDecoder(own).decode(logits + np.float32(4096))  # nothing by itself
    assert (alone == shifted).mean() > 0.99  # but where logits lost digits


def test_labels_without_an_outside_are_refused() -> None:
    with pytest.raises(ConfigError, match="no label `O`"):
        LabelScheme.parse(("B-a", "I-a"))
