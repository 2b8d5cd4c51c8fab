"""Guided rows of a batch: the tokens of each are exactly those it gets alone.

The model's logits are a pure function of the ids, so a batch has no rounding to excuse
a difference: settings, seeds and guides of the other rows must not matter at all.
"""

import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampler import Sampler
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import ModelError
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import Constraints
from tests.support.fakes import FakeModel
from tests.support.guided import GUIDES, ROWS, TARGETS, TOKENIZER
from tests.support.submit import Submission

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0.0, 0.8, 1.0, 1.5]),
    top_p=st.sampled_from([0.6, 1.0]),
    top_k=st.sampled_from([0, 5]),
    min_p=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 2**64 - 1),
    top_logprobs=st.sampled_from([0, 2]),
    logit_bias=st.sampled_from([None, {TOKENIZER.special("<|end|>"): 4.0}]),
)
GUIDED = st.sampled_from(
    [
        None,
        (Constraints(), ()),
        (Constraints(max_reasoning_tokens=3), TARGETS),
        (Constraints(tool_choice="required"), TARGETS[:1]),
        (Constraints(response_format=AnswerFormat.regex("[a-z]{2,9}")), ()),
    ]
)
REQUEST = st.tuples(
    st.lists(st.integers(1, 255), min_size=1, max_size=3), PARAMS, GUIDED
)


def logits_of(ids: list[int]) -> Any:
    return np.random.default_rng(ids).normal(0, 3, ROWS)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    model = FakeModel(logits_of)
    with Runtime(model, tokenizer=TOKENIZER, cache=CacheOptions(idle=False)) as runtime:
        yield runtime


def guide_of(how: Any) -> Guide | None:
    return None if how is None else GUIDES.create(*how)


@given(st.lists(REQUEST, min_size=2, max_size=4), st.integers(0, 99))
@settings(deadline=None, max_examples=5)
def test_a_row_gets_what_it_gets_alone(
    runtime: Runtime, requests: list[Any], order: int
) -> None:
    alone = [
        list(runtime.generate(ids, params, guide=guide_of(how)))
        for ids, params, how in requests
    ]
    release = threading.Event()
    runtime._thread.post(release.wait)
    together: dict[int, Submission] = {}
    for n in Random(order).sample(range(len(requests)), len(requests)):
        ids, params, how = requests[n]
        together[n] = Submission(runtime, ids, params, guide=guide_of(how))
    release.set()

    assert [together[n].wait() for n in range(len(requests))] == alone


def test_a_failure_to_sample_ends_the_rows_of_that_pass_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, failures = Sampler.sample, [MemoryError("no room for the noise")]

    def sample(self: Sampler, inputs: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(self, inputs)

    monkeypatch.setattr(Sampler, "sample", sample)
    with Runtime(FakeModel(logits_of), batch=BatchOptions(max_running=1)) as runtime:
        release = threading.Event()
        runtime._thread.post(release.wait)
        params = SamplingParams(max_tokens=3, seed=1)
        failing, waiting = (Submission(runtime, [7], params) for _ in range(2))
        release.set()

        with pytest.raises(ModelError, match="while it sampled: no room"):
            failing.wait()
        assert len(waiting.wait()) == 3
