"""Batches hold every document once an epoch, in an order that a position repeats."""

import json
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import ExamplesError
from mlx_gptoss.workloads.tune.batches import (
    TrainingBatch,
    TrainingBatches,
    packed_in_order,
)
from mlx_gptoss.workloads.tune.corpus import read_corpus
from mlx_gptoss.workloads.tune.document_index import TrainingDocuments
from mlx_gptoss.workloads.tune.documents import TrainingDocument
from mlx_gptoss.workloads.tune.settings import CorpusSettings

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
MOST = 100
sizes = st.lists(st.integers(2, MOST), min_size=1, max_size=80)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> TrainingDocuments:
    path = tmp_path_factory.mktemp("batches") / "a.jsonl"
    rows = [json.dumps({"text": "word " * (1 + n % 7)}) for n in range(30)]
    path.write_text("\n".join(rows))
    settings = CorpusSettings(valid_share=0, length=MOST)
    return read_corpus(path, Tokenizer.open(DEMO), settings).train


def ids(batch: TrainingBatch) -> list[list[int]]:
    return [document.ids.tolist() for document in batch.documents]


@given(sizes, st.randoms(use_true_random=False))
def test_every_document_is_in_one_batch_that_it_fits(
    sizes: list[int], random: Random
) -> None:
    order = random.sample(range(len(sizes)), len(sizes))
    plan = packed_in_order(sizes, order, MOST)

    assert sorted(n for batch in plan for n in batch) == list(range(len(sizes)))
    assert all(0 < sum(sizes[n] for n in batch) <= MOST for batch in plan)


def test_small_documents_fill_the_batches() -> None:
    plan = packed_in_order([7] * 200, range(200), 70)

    assert [len(batch) for batch in plan] == [10] * 20


def test_a_position_repeats_what_follows_it(documents: TrainingDocuments) -> None:
    batches = TrainingBatches(documents, tokens=40, seed=3)
    whole = list(islice(batches.start(), 3 * batches.count()))
    again = TrainingBatches(documents, tokens=40, seed=3)
    for place in (1, batches.count() - 1, batches.count(), batches.count() + 2):
        rest = islice(again.start(*whole[place - 1].following), 4)

        assert [ids(one) for one in rest] == [
            ids(one) for one in whole[place : place + 4]
        ]


def test_epochs_and_seeds_have_orders_of_their_own(
    documents: TrainingDocuments,
) -> None:
    first, other = (TrainingBatches(documents, tokens=40, seed=s) for s in (0, 1))
    orders = [first.plan(0), first.plan(1), other.plan(0)]
    everything = [sorted(n for batch in plan for n in batch) for plan in orders]

    assert everything == [list(range(len(documents)))] * 3
    assert orders[0] != orders[1] and orders[0] != orders[2]


def test_without_shuffling_every_epoch_is_the_same(
    documents: TrainingDocuments,
) -> None:
    batches = TrainingBatches(documents, tokens=40, shuffle=False)

    assert batches.plan(0) == batches.plan(5)
    assert [batch.index for batch in batches.epoch()] == list(range(batches.count()))


def test_packed_tokens_predict_within_their_document() -> None:
    made = [
        TrainingDocument(np.array(ids, np.int32), np.array(learned, bool))
        for ids, learned in (([5, 6, 7], [0, 0, 1]), ([8, 9], [0, 1]))
    ]
    packed = TrainingBatch(tuple(made), 0, 0, (0, 1)).packed()

    assert packed.inputs.tolist() == [5, 6, 8]
    assert packed.targets.tolist() == [6, 7, 9]
    assert packed.learned.tolist() == [False, True, True]
    assert packed.positions.tolist() == [0, 1, 0]
    assert packed.segments.tolist() == [0, 0, 1]
    assert packed.lengths == (2, 1)
    assert {packed.inputs.dtype, packed.targets.dtype} == {np.dtype(np.int32)}


def test_a_batch_smaller_than_a_document_is_refused(
    documents: TrainingDocuments,
) -> None:
    with pytest.raises(ExamplesError, match=r"a.jsonl:7 has \d+ tokens and a batch"):
        TrainingBatches(documents, tokens=5)
