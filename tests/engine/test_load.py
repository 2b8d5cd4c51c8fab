"""Load a model: what is refused, and before what is read."""

import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_gptoss.engine.load import load
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import (
    CheckpointError,
    ConfigError,
    GptOssError,
    HubError,
    MemoryBudgetError,
    PromptError,
)
from mlx_gptoss.model.device import choose_dtype
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import write_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=6)
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]  # longer than the window of the checkpoint
PATIENCE = 60  # seconds, for work that is done at once


def test_a_folder_without_tokenizer_still_computes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, num_hidden_layers=1)

    with load(folder) as runtime:
        assert runtime.logits([1]).shape == (1, 301)
        assert [step.token for step in runtime.generate([1], GREEDY)]
        assert runtime.stop_tokens == {2: "stop"}
        with pytest.raises(CheckpointError, match=r"has no `tokenizer.json`"):
            _ = runtime.tokenizer


def test_bfloat16_can_be_asked_for(folder: Path) -> None:
    with load(folder, dtype="bfloat16") as runtime:
        dtype = runtime.model.lm_head.weight.dtype
        logits = runtime.logits(IDS)

    assert (dtype, logits.dtype) == (mx.bfloat16, mx.float32)


def test_the_context_can_be_shortened(folder: Path) -> None:
    with load(folder, context=len(IDS) + 2) as runtime:
        steps = list(runtime.generate(IDS, GREEDY))
        with pytest.raises(PromptError, match="the context holds 13: shorten it"):
            runtime.generate([1] * 13)

    assert [step.finish_reason for step in steps] == [None, "length"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "int8"}, ConfigError, "dtype `int8` is unknown"),
        ({"wired": "much"}, ConfigError, "wired `much` is not known"),
        ({"experts": "both"}, ConfigError, "`both` is unknown: use one of auto"),
        ({"memory": "16 apples"}, MemoryBudgetError, "`16 apples` is not a size"),
        ({"memory": "1MB"}, MemoryBudgetError, r"needs at least .*; there are 1.0 MB"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_reading(
    folder: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    reports: list[int] = []

    with pytest.raises(error, match=message):
        load(folder, progress=lambda done, total: reports.append(done), **options)

    assert reports == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="nothing-here"):
        load(tmp_path / "nothing-here")


def test_a_relative_path_is_a_folder_and_not_a_hub_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)

    with load(Path(folder.name), offline=True) as runtime:
        assert runtime.config.vocab_size == 301


@pytest.mark.parametrize(
    ("specials", "message"),
    [(None, "has no `tokenizer.json`"), (["<|endoftext|>"], "generate --raw")],
)
def test_what_cannot_chat_is_refused_before_its_weights_are_read(
    tmp_path: Path, specials: list[str] | None, message: str
) -> None:
    write_checkpoint(tmp_path)
    if specials is not None:
        write_tokenizer(tmp_path, specials)
    reports: list[tuple[int, int]] = []

    with pytest.raises(GptOssError, match=message):
        load(tmp_path, harmony=True, progress=lambda *at: reports.append(at))

    assert reports == []


def test_a_context_that_the_model_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"200,000 tokens is more than the 131,072"):
        load(folder, context=200_000)


def test_progress_counts_the_bytes_of_the_weights(folder: Path) -> None:
    reports: list[tuple[int, int]] = []

    load(folder, progress=lambda *at: reports.append(at)).close()

    assert reports[-1][0] == reports[-1][1] > 0


def test_an_interrupted_load_gives_its_thread_back(folder: Path) -> None:
    threads: list[int] = []

    def interrupt(done: int, total: int) -> None:
        threads.append(threading.get_ident())
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            load(folder, progress=interrupt)

    assert threads[0] == threads[1] != threading.get_ident()


def test_the_default_dtype_follows_the_device() -> None:
    on_gpu = mx.default_device() == mx.gpu
    assert choose_dtype(None) == (mx.bfloat16 if on_gpu else mx.float32)
