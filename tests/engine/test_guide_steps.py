"""A guide and the sampler, step by step: lookahead, waits, seeds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.token_table import TokenMask
from mlx_gptoss.harmony.constrain.constraints import Constraints
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors
from tests.support.fakes import SURE, FakeModel, token_ids
from tests.support.generate import generate
from tests.support.guided import (
    ANSWER,
    CALL,
    GREEDY,
    GUIDES,
    PROMPT,
    ROWS,
    TARGETS,
    THINK,
    TOKENIZER,
    generate_text,
    model_that_prefers,
)


class Recorder(Guide):
    """A guide that records its calls."""

    def __init__(self, guide: Guide) -> None:
        vars(self).update(vars(guide))
        self.log: list[str] = []

    def mask(self, size: int) -> TokenMask:
        self.log.append("draw")
        return super().mask(size)

    def accept_token(self, token: int) -> bool:
        again = super().accept_token(token)
        self.log.append("again" if again else "read")
        return again


def record_calls(text: str, constraints: Constraints | None = None) -> str:
    """Return the order of calls while `text` is generated: d, r, and a (again)."""
    guide = GUIDES.create(constraints or Constraints(), TARGETS)
    assert guide is not None
    recorder = Recorder(guide)
    list(generate(model_that_prefers(text), PROMPT, GREEDY, guide=recorder))
    return "".join(entry[0] for entry in recorder.log)


def length(text: str) -> int:
    return len(token_ids(text, TOKENIZER))


def test_headers_and_free_text_are_drawn_a_step_ahead() -> None:
    """Each token is drawn before the one before it is read; only what was drawn behind
    the end of a message, as if that went on, is drawn again."""
    thought, rest = THINK.partition("<|end|>")[::2]
    first, second = length(thought + "<|end|>"), length(rest + ANSWER)

    log = record_calls(THINK + ANSWER)

    assert log == "d" + "dr" * (first - 1) + "dad" + "dr" * (second - 1) + "da"


def test_only_arguments_are_waited_for() -> None:
    header, arguments = CALL.partition("<|message|>")[::2]

    log = record_calls(CALL)

    # What was drawn behind `<|message|>` is drawn again; then each waits for the last.
    assert (
        log
        == "d" + "dr" * length(header) + "dad" + "ad" * (length(arguments) - 1) + "r"
    )


@contextmanager
def counting_syncs() -> Iterator[list[str]]:
    """Count how often Python waits for the device."""
    found: list[str] = []
    real_item, real_list, real_eval = mx.array.item, mx.array.tolist, mx.eval

    def item(self: mx.array) -> Any:
        found.append("item")
        return real_item(self)

    def tolist(self: mx.array) -> Any:
        found.append("tolist")
        return real_list(self)

    def evaluate(*arrays: Any) -> None:
        found.append("eval")
        real_eval(*arrays)

    mx.array.item, mx.array.tolist, mx.eval = item, tolist, evaluate
    try:
        yield found
    finally:
        mx.array.item, mx.array.tolist, mx.eval = real_item, real_list, real_eval


def test_a_guide_adds_no_wait_for_the_device() -> None:
    """A real model; each step waits for the pass before, its token and its logprob."""
    config = hf_config(vocab_size=ROWS)
    model = build(config, random_tensors(config, seed=3))

    def syncs(guide: Guide | None, tokens: int) -> int:
        params = SamplingParams(seed=1, max_tokens=tokens)
        with counting_syncs() as found:
            steps = list(generate(model, PROMPT, params, guide=guide))
        assert len(steps) == tokens
        return len(found)

    free = syncs(None, 30) - syncs(None, 10)
    guided = [syncs(GUIDES.create(Constraints()), tokens) for tokens in (10, 30)]

    assert free == guided[1] - guided[0] == 20 * 3


def test_the_vocabulary_is_read_once_for_all_guides() -> None:
    guides, sent = GuideFactory(TOKENIZER), []
    serialized = TOKENIZER.serialized

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Tokenizer, "serialized", lambda own: sent.append(own) or serialized()
        )
        for _ in range(2):
            guide = guides.create(Constraints(), TARGETS)
            list(generate(model_that_prefers(CALL), PROMPT, GREEDY, guide=guide))

    assert sent == [TOKENIZER]
    guides.close()


def test_the_same_seed_says_the_same_with_a_guide() -> None:
    def talk() -> str:
        params = SamplingParams(seed=5, max_tokens=40)
        noise = FakeModel(
            lambda ids: [((len(ids) * 7 + n) % 11) / 5 for n in range(ROWS)]
        )
        return generate_text(noise, params=params)[0]

    assert talk() == talk()


def test_unlikely_legal_tokens_are_drawn_before_likely_illegal_ones() -> None:
    """Even where the model gives every legal token no chance at all."""
    bad = TOKENIZER.special("<|endoftext|>")

    def logits_of(ids: list[int]) -> list[float]:
        return [SURE if token == bad else -float("inf") for token in range(ROWS)]

    text, _ = generate_text(
        FakeModel(logits_of), params=SamplingParams(seed=0, max_tokens=30, top_p=0.9)
    )

    assert "<|endoftext|>" not in text
    assert text.startswith(("<|channel|>", " to=functions."))
