"""Packed documents: each gives what it gives alone, whatever lies beside it."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.model.device import forced_gpu_paths
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors

CONFIG = hf_config(num_hidden_layers=2)  # a window of 8
MODEL = build(CONFIG, random_tensors(CONFIG))
CLOSE = 2e-5  # float32 sums in another order, on logits of size 4


def logits(model: GptOss, documents: list[np.ndarray]) -> np.ndarray:
    ids = mx.array(np.concatenate(documents))[None]
    hidden = model.hidden(ids, lengths=[len(one) for one in documents])
    return np.array(model.logits(hidden)[0])


def draw(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(0, CONFIG["vocab_size"], n) for n in lengths]


@settings(deadline=None, max_examples=6)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_packed_documents_equal_documents_alone(lengths: list[int]) -> None:
    documents = draw(*lengths)
    alone = [np.array(MODEL(mx.array(one)[None])[0]) for one in documents]
    assert np.abs(logits(MODEL, documents) - np.concatenate(alone)).max() < CLOSE


def test_they_do_on_the_paths_of_a_gpu() -> None:
    documents = draw(11, 3, 20)
    with forced_gpu_paths():
        alone = [np.array(MODEL(mx.array(one)[None])[0]) for one in documents]
        found = logits(MODEL, documents)
    assert np.abs(found - np.concatenate(alone)).max() < CLOSE


def test_no_document_sees_another() -> None:
    first, second, third = draw(9, 12, 10)
    other = np.flip(first)
    mine = logits(MODEL, [first, second, third])
    theirs = logits(MODEL, [other, second, third])
    assert np.array_equal(mine[9:], theirs[9:])
    assert not np.array_equal(mine[:9], theirs[:9])


def test_last_is_the_last_token_of_each_document() -> None:
    documents = draw(7, 13)
    ids = mx.array(np.concatenate(documents))[None]
    every = MODEL.hidden(ids, lengths=[7, 13])
    last = MODEL.hidden(ids, lengths=[7, 13], last=True)
    assert np.abs(np.array(last[0]) - np.array(every[0])[[6, 19]]).max() < CLOSE


def test_lengths_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(AssertionError):
        MODEL.hidden(mx.zeros((1, 5), mx.int32), lengths=[2, 2])
