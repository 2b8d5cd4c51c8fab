"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest

from mlx_gptoss.model.gpt_oss import GptOss
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import write_tokenizer
from tests.support.prompt_files import small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"), seed=1)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model() -> GptOss:
    return small_model()
