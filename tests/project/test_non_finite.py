"""Logits that are no numbers end the answer they belong to, with a name, and no other.

Faults are put into the weights of real models, into one row of a batch, and into what
the prompt cache holds.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.chat import Chat
from mlx_gptoss.engine.load import MIN_FILE_TOKENS, load
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import ModelError, NonFiniteError, PromptError
from mlx_gptoss.harmony.constrain.constraints import Constraints
from tests.support.checkpoints import hf_config, random_tensors, write_folder
from tests.support.fakes import (
    FakeModel,
    byte_tokenizer,
    noisy,
    token_ids,
    write_tokenizer,
)
from tests.support.submit import Submission

IDS = [3, 1, 4, 1, 5]
GREEDY = SamplingParams(temperature=0, max_tokens=12)
SAMPLED = SamplingParams(seed=1, max_tokens=12, top_p=0.9)
POISON = 7  # a token whose row of the head or of the embedding is broken
V = 270
CONFIG = hf_config(num_hidden_layers=2, vocab_size=V)
TENSORS = random_tensors(CONFIG, seed=2)


def broken(folder: Path, name: str, value: float, row: int | None = None) -> Path:
    """Write a checkpoint in which one value of a tensor is `value`."""
    tensors = dict(TENSORS)
    tensors[name] = tensors[name].copy()
    tensors[name][(0,) if row is None else (row, 0)] = value
    write_folder(folder, CONFIG, tensors)
    write_tokenizer(folder)
    return folder


FAULTS: dict[str, tuple[str, float, int | None]] = {
    "NaN in a norm": ("model.layers.0.input_layernorm.weight", np.nan, None),
    "NaN in the head": ("lm_head.weight", np.nan, POISON),
    "NaN in a router": ("model.layers.1.mlp.router.weight", np.nan, 0),
    "overflow behind a norm": ("model.norm.weight", 3e38, None),
}


@pytest.fixture(params=FAULTS)
def damaged(request: Any, tmp_path: Path) -> Iterator[Runtime]:
    with load(broken(tmp_path, *FAULTS[request.param])) as runtime:
        yield runtime


def test_a_damaged_model_says_so_instead_of_anything_else(damaged: Runtime) -> None:
    guided = {"guide": damaged.guides.create(Constraints())}
    ways: list[dict[str, Any]] = [{}, guided, {"reuse": True}]
    for params in (GREEDY, SAMPLED):
        for options in ways:
            with pytest.raises(NonFiniteError, match="token 1 of the answer"):
                list(damaged.generate(IDS, params, **options))
    with pytest.raises(NonFiniteError, match="token 1 of the answer"):
        Submission(damaged, IDS, SAMPLED).wait()
    with pytest.raises(ModelError, match="not finite: its weights are damaged"):
        list(Chat(damaged, params=GREEDY).send("Hi"))


def set_row(runtime: Runtime, row: int, value: float) -> None:
    """Break the embedding of one token, or mend it."""

    def work() -> None:
        embedding = runtime.model.model.embed_tokens
        embedding.weight[row] = value
        mx.eval(embedding.weight)

    runtime.run(work)


@pytest.fixture
def sound(tmp_path: Path) -> Iterator[Runtime]:
    write_folder(tmp_path, CONFIG, TENSORS)
    write_tokenizer(tmp_path)
    disk = CacheOptions(disk="1GB", folder=tmp_path / "prompts", idle=False)
    with load(tmp_path, cache=disk, dtype="float32") as runtime:
        yield runtime


def test_one_row_of_a_batch_ends_and_the_others_are_as_they_were(
    sound: Runtime,
) -> None:
    prompts = [[5, 9, n, 11, 2 + n] for n in range(20, 24)]
    alone = [[s.token for s in sound.generate(ids, SAMPLED)] for ids in prompts]
    set_row(sound, POISON, np.nan)
    release = threading.Event()
    sound._thread.post(release.wait)
    asked = [Submission(sound, ids, SAMPLED) for ids in prompts]
    bad = Submission(sound, [5, 9, POISON], SAMPLED)
    late = Submission(
        sound, [8, 8], SamplingParams(logit_bias={POISON: 1e4}, max_tokens=9)
    )
    release.set()

    with pytest.raises(NonFiniteError, match="token 1 of"):
        bad.wait()
    with pytest.raises(NonFiniteError, match="token 2 of"):  # behind the first one
        late.wait()
    assert [step.token for step in late.steps] == [POISON]
    for one, expected in zip(asked, alone, strict=True):
        assert one.tokens == expected
    assert sound.batch_statistics.failed == 2


@pytest.mark.parametrize("way", ["generate", "submit"])
def test_what_broke_is_not_kept_for_later_prompts(sound: Runtime, way: str) -> None:
    """Once the model is sound again, so is every answer."""
    end = sound.tokenizer.special("<|end|>")
    good, prompt = [5, 6, end], [5, 6, end, *[POISON] * 70, end, 9]
    list(sound.generate([*good, 1], GREEDY, reuse=True))
    set_row(sound, POISON, np.nan)
    with pytest.raises(NonFiniteError):
        if way == "submit":
            Submission(sound, prompt, GREEDY).wait()
        else:
            list(sound.generate(prompt, GREEDY, reuse=True))
    set_row(sound, POISON, 0.5)

    stream = sound.generate(prompt, GREEDY, reuse=True)
    again = [step.token for step in stream]

    assert again == [step.token for step in sound.generate(prompt, GREEDY)]
    assert stream.stats.cached_tokens <= len(good)


def test_what_was_read_ahead_while_it_was_broken_is_forgotten(tmp_path: Path) -> None:
    write_folder(tmp_path, CONFIG, TENSORS)
    write_tokenizer(tmp_path)
    disk = CacheOptions(disk="1GB", folder=tmp_path / "prompts")
    with load(tmp_path, cache=disk, dtype="float32") as runtime:
        end = runtime.tokenizer.special("<|end|>")
        prompt = [5, 6, end, *[POISON] * MIN_FILE_TOKENS, end]
        set_row(runtime, POISON, np.nan)
        done = runtime.prepare(prompt)
        assert done is not None
        done.result(60)
        files = set((tmp_path / "prompts").rglob("*.safetensors"))
        set_row(runtime, POISON, 0.5)
        with pytest.raises(NonFiniteError):
            Submission(runtime, [*prompt, 9], GREEDY).wait()
        left = [path for path in files if path.exists()]

        asked = Submission(runtime, [*prompt, 9], GREEDY)
        fresh = [step.token for step in runtime.generate([*prompt, 9], GREEDY)]
        assert asked.tokens == fresh
        assert asked.stats.cached_tokens <= 3
    assert (len(files), left) == (1, [])


TURN = "<|channel|>final<|message|>Hello"
TOKENIZER = byte_tokenizer()


def saying(text: str, then: float) -> Runtime:
    """A runtime that says `text` after any prompt, and then has logits of `then`."""
    script, start = token_ids(text, TOKENIZER), token_ids("<|start|>", TOKENIZER)

    def logits_of(ids: list[int]) -> list[float]:
        place = len(ids) - 1 - max(n for n, i in enumerate(ids) if i == start[0])
        said = place - len("assistant")
        if said >= len(script):
            return [then] * 300
        return [20.0 if token == script[said] else 0.0 for token in range(300)]

    model = FakeModel(logits_of)
    return Runtime(model, tokenizer=TOKENIZER, cache=CacheOptions(idle=False))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_chat_keeps_what_came_and_names_the_error(value: float) -> None:
    with saying(TURN, value) as runtime:
        chat = Chat(runtime, params=SamplingParams(temperature=0))
        with pytest.raises(NonFiniteError, match="token 13 of the answer"):
            list(chat.send("Hi"))
        assert chat.messages[-1].text == "Hello"


class Masking:
    """A guide that allows the tokens of a range."""

    needs_last_token, pending_mask = False, None
    finish_reason, finish_details = None, ()

    def __init__(self, legal: range) -> None:
        self.legal = legal

    def mask(self, size: int) -> np.ndarray:
        return np.isin(np.arange(size), self.legal)

    def advance(self, state: object) -> None: ...
    def accept_token(self, token: int) -> bool:
        return False


def drawn(
    logits: Callable[[list[int]], Any], guide: Any = None, **params: Any
) -> list[int]:
    with Runtime(FakeModel(logits)) as runtime:
        how = SamplingParams(max_tokens=2, **params)
        return [step.token for step in runtime.generate(IDS, how, guide=guide)]


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 3}])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_logit_counts_even_where_its_token_is_illegal(
    params: dict[str, Any], bad: float
) -> None:
    with pytest.raises(NonFiniteError):
        drawn(lambda ids: [1.0, 2.0, bad, 0.0], Masking(range(2)), **params)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 3}])
def test_tokens_that_are_ruled_out_are_no_fault(params: dict[str, Any]) -> None:
    never = -np.inf
    legal = Masking(range(1, 2))

    assert drawn(lambda ids: [1.0, 2.0, 1.0], legal, **params) == [1, 1]
    assert drawn(lambda ids: [never, 2.0, never], legal, **params) == [1, 1]


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 3}])
def test_nothing_left_to_draw_is_named(params: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="allow no token at position 1 of"):
        drawn(lambda ids: [1.0, 2.0], Masking(range(0)), **params)


def test_a_bias_that_overflows_is_only_a_large_one() -> None:
    ruled_out = dict.fromkeys(range(11), -1e308)
    with Runtime(noisy()) as runtime:
        params = SamplingParams(max_tokens=3, logit_bias=ruled_out)
        assert len(list(runtime.generate(IDS, params))) == 3
        params = SamplingParams(max_tokens=3, logit_bias={4: 1e308})
        assert {step.token for step in runtime.generate(IDS, params)} == {4}
