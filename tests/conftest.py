"""Imports the package before any test imports MLX: it lends MLX its BLAS.

Files of tests are dealt to processes (pytest-xdist), each with folders of its own, so
that no test meets what another process writes. `-n 0` runs all in this process.

The tests compare Harmony with the library that is installed (oss-harmony). To
compare with OpenAI's own, which has the same module name:

    pip install --no-deps --target FOLDER openai-harmony==0.0.8
    MLX_GPTOSS_ORACLE=FOLDER pytest tests/harmony/test_harmony_*.py
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import mlx_gptoss  # noqa: F401 - see mlx_gptoss/model/blas_library.py
from tests.support.o200k import vocabulary_folder
from tests.support.serve_process import Served, serve

ORACLE = "MLX_GPTOSS_ORACLE"
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
INTERRUPT = {signal.SIGINT: signal.default_int_handler}
PROCESSES = 2  # many tests wait for another process, so also on one core


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes run the tests: none beside this one for one file."""
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and all(name.endswith(".py") for name in files):
        return 0
    return PROCESSES


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write apart; put the other library first, with its vocabulary."""
    # A shell starts what it puts in the background with these ignored, and programs
    # inherit that: tests that interrupt one would wait for ever.
    for ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(ignored) is signal.SIG_IGN:
            signal.signal(ignored, INTERRUPT.get(ignored, signal.SIG_DFL))
    own = tempfile.mkdtemp(prefix="mlx-gptoss-tests-")
    config.add_cleanup(lambda: shutil.rmtree(own, ignore_errors=True))
    os.environ |= {"XDG_DATA_HOME": own, "MLX_GPTOSS_CACHE": f"{own}/prompts"}
    # Readline, which pytest imports, gives other processes the terminal's size.
    for name in ("MLX_GPTOSS_PRIVATE", "COLUMNS", "LINES"):
        os.environ.pop(name, None)
    if folder := os.environ.get(ORACLE):
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(rebuilt(config))
        sys.path.insert(0, folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long tests take the time they take."""
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(scope="session")
def o200k_folder(pytestconfig: pytest.Config) -> Path:
    """The published tokenizer.json of gpt-oss, rebuilt once into pytest's cache."""
    return rebuilt(pytestconfig)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One server of the demo model, a process of its own, for all that ask it."""
    with serve() as server:
        yield server


def rebuilt(config: pytest.Config) -> Path:
    assert config.cache is not None
    return vocabulary_folder(config.cache.mkdir("o200k"))
