"""`mlx-gptoss pull` in real processes: killed, stopped, run twice at once."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint.hub.repo_folder import RepoFolder
from tests.support.hub_server import HubServer, Odd, etag_of, hub_server

CONFIG = b'{"model_type": "gpt_oss", "num_local_experts": 32}'
NAME = "model.safetensors"
WEIGHTS = os.urandom(1000) * 3000
SIZE = len(WEIGHTS)
FILES = {"config.json": CONFIG, "tokenizer.json": b"{}", NAME: WEIGHTS}
PULL = (sys.executable, "-m", "mlx_gptoss", "pull", "owner/model")


@pytest.fixture(scope="module")
def running() -> Iterator[HubServer]:
    with hub_server({"owner/model": FILES}) as server:
        yield server


@pytest.fixture
def server(running: HubServer) -> HubServer:
    running.forget()
    return running


class Pull:
    """A `mlx-gptoss pull` of its own, as a user starts it."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server = server
        self.process = subprocess.Popen(
            PULL,
            env=os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, signum: int | None = None) -> tuple[int, str, str]:
        if signum is not None:
            self.process.send_signal(signum)
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr


def wait_for_size(path: Path, size: int, pull: Pull) -> None:
    """Return once the server has sent so much and the part on disk holds it."""
    assert pull.server.held.wait(60)
    while path.stat().st_size < size:
        assert pull.process.poll() is None


def test_a_pull_that_is_killed_goes_on_where_it_was(
    server: HubServer, tmp_path: Path
) -> None:
    """No byte comes twice, and nothing is left but the model."""
    repo = RepoFolder(tmp_path / "hub", "owner/model")
    part = repo.partial_file(etag_of(NAME, WEIGHTS))
    server.odd[NAME] = [Odd(hold=1_999_999, cut=1_999_999)]
    pull = Pull(server, tmp_path)
    wait_for_size(part, 1_999_999, pull)
    assert pull.end(signal.SIGKILL)[0] == -signal.SIGKILL
    server.let_go.set()
    assert part.stat().st_size == 1_999_999

    code, stdout, stderr = Pull(server, tmp_path).end()

    assert code == 0, stderr
    assert (Path(stdout.strip()) / NAME).read_bytes() == WEIGHTS
    assert server.ranges == ["", "bytes=1999999-"]
    assert server.served == SIZE
    assert "Downloading owner/model: 3.0 MB, resumed at 2.0 MB\n" in stderr
    assert list(repo.partial_files()) == []


def test_ctrl_c_says_what_stays_and_how_to_go_on(
    server: HubServer, tmp_path: Path
) -> None:
    server.odd[NAME] = [Odd(hold=1_500_000)]
    part = RepoFolder(tmp_path / "hub", "owner/model").partial_file(
        etag_of(NAME, WEIGHTS)
    )
    pull = Pull(server, tmp_path)
    wait_for_size(part, 1_500_000, pull)

    code, stdout, stderr = pull.end(signal.SIGINT)

    assert (code, stdout) == (130, "")
    assert re.search(r"stopped at 1\.\d MB of 3\.0 MB", stderr)  # as last reported
    assert "which stay: the same command goes on there" in stderr
    assert "Traceback" not in stderr
    assert part.stat().st_size == 1_500_000


def test_a_second_pull_waits_for_the_first_and_says_so(
    server: HubServer, tmp_path: Path
) -> None:
    server.odd[NAME] = [Odd(hold=1_000_000)]
    first = Pull(server, tmp_path)
    assert server.held.wait(60)
    second = Pull(server, tmp_path)
    assert second.process.stderr is not None
    line = second.process.stderr.readline()
    assert line == "(`owner/model` is already being downloaded: waiting for it)\n"
    server.let_go.set()

    (code, folder, _), (code_2, folder_2, _) = first.end(), second.end()

    assert (code, code_2, folder) == (0, 0, folder_2)
    assert server.served == SIZE


def test_a_full_disk_keeps_what_fitted_and_says_so(
    server: HubServer, tmp_path: Path
) -> None:
    """With a limit on the size of files, as a disk that is full behaves."""
    limited = f"import resource; {LIMIT}; import mlx_gptoss.cli as c; c.cli()"
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", limited, "pull", "owner/model"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.count("\n") == 1
    assert "the disk is full" in found.stderr
    assert "run the same command again to resume" in found.stderr
    part = RepoFolder(tmp_path / "hub", "owner/model").partial_file(
        etag_of(NAME, WEIGHTS)
    )
    assert part.stat().st_size == 2_000_000
    server.served = 0
    assert Pull(server, tmp_path).end()[0] == 0
    assert server.served == 1_000_000


LIMIT = (
    "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
)
