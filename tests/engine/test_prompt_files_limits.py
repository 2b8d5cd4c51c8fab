"""Saved prompts within limits: what makes room, and a disk that is full."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_gptoss.engine.prompt_cache import (
    shrink_files,
)
from mlx_gptoss.engine.prompt_cache.disk import DISK_RETRY_S
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support.full_disks import fill, small_disk
from tests.support.prompt_files import (
    ASK,
    OTHER,
    SYSTEM,
    ask,
    opened,
    prepare,
    stored,
)


def test_the_least_recently_used_files_make_room(model: GptOss, tmp_path: Path) -> None:
    prompts = [[n, *SYSTEM] for n in range(4)]
    one = stored(model, tmp_path, prompts[0])[0].stat().st_size
    cache = opened(model, tmp_path, cap=3 * one + 100)
    for ids in prompts[1:3]:
        prepare(model, cache, ids)
    ask(model, cache, [*prompts[0], 1])  # from disk: used just now

    prepare(model, cache, prompts[3])

    reopened = opened(model, tmp_path)
    known = [ask(model, reopened, [*ids, 1])[0] > 0 for ids in prompts]
    assert known == [True, False, True, True]
    assert cache.statistics.disk_bytes <= 3 * one + 100


FULL = """
import resource, sys
from pathlib import Path
from tests.support import prompt_files as t

model = t.small_model()
cache = t.opened(model, Path(sys.argv[1]))
t.prepare(model, cache, t.SYSTEM)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
t.prepare(model, cache, t.SYSTEM + t.ASK)
t.prepare(model, cache, t.SYSTEM + t.OTHER)
print(t.ask(model, cache, [*t.SYSTEM, *t.ASK, 1])[0])
"""


def test_a_disk_that_takes_no_more_is_one_warning(
    model: GptOss, tmp_path: Path
) -> None:
    """In the real process: a file may not grow past 5,000 bytes there."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, f"{len(SYSTEM + ASK)}\n")
    assert ended.stderr.count("prompts are no longer saved in") == 1
    assert list(tmp_path.glob("d/.mlx-gptoss-*")) == []
    assert ask(model, opened(model, tmp_path), [*SYSTEM, *ASK, 1])[0] == len(SYSTEM)


def test_a_lower_bound_takes_the_oldest_away_at_the_start(
    model: GptOss, tmp_path: Path
) -> None:
    prompts = [[n, *SYSTEM] for n in range(3)]
    one = stored(model, tmp_path, prompts[0])[0].stat().st_size
    stored(model, tmp_path, *prompts[1:])

    opened(model, tmp_path, digest="of another model", cap=2 * one)

    assert len(list(tmp_path.glob("d/*"))) == 2
    known = [ask(model, opened(model, tmp_path), [*ids, 1])[0] > 0 for ids in prompts]
    assert known == [False, True, True]


def test_what_is_stored_can_be_brought_under_any_bound(
    model: GptOss, tmp_path: Path
) -> None:
    sizes = [p.stat().st_size for p in stored(model, tmp_path, SYSTEM, OTHER)]

    assert shrink_files(sum(sizes), tmp_path) == 0
    freed = shrink_files(sum(sizes) - 1, tmp_path)
    assert freed in sizes
    assert shrink_files(0, tmp_path) == sum(sizes) - freed
    assert shrink_files(0, tmp_path / "none") == 0


def test_a_folder_that_is_removed_meanwhile_is_made_again(
    model: GptOss, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(model, tmp_path)
    prepare(model, cache, SYSTEM)
    shutil.rmtree(tmp_path / "d")

    prepare(model, cache, SYSTEM + ASK)

    assert caplog.messages == []
    assert len(list(tmp_path.glob("d/*"))) == 1


def test_a_full_disk_names_its_reason_and_is_tried_again(
    model: GptOss,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        cache = opened(model, disk)
        prepare(model, cache, SYSTEM)
        filled = fill(disk)
        prepare(model, cache, SYSTEM + ASK)

        [warning] = caplog.messages
        assert warning.endswith("cannot be written: the disk is full: make room")
        assert len(list(disk.glob("d/*"))) == 1
        assert ask(model, opened(model, disk), [*SYSTEM, 1])[0] == len(SYSTEM)
        filled.unlink()
        later = time.monotonic() + DISK_RETRY_S
        monkeypatch.setattr(time, "monotonic", lambda: later)
        prepare(model, cache, SYSTEM + ASK)
        assert len(list(disk.glob("d/*"))) == 2
        assert caplog.messages[1:] == [f"prompts are saved in `{disk}` again"]
