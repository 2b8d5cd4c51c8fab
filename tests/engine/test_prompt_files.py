"""The part of the prompt cache on disk: found again, or left out, never half."""

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.engine.prompt_cache import (
    BackgroundPrefill,
    PromptCache,
    PromptFiles,
    cache_digest,
    shrink_files,
)
from mlx_gptoss.engine.prompt_cache.disk import DISK_RETRY_S
from mlx_gptoss.files import draft
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support.build_model import build
from tests.support.checkpoints import hf_config, random_tensors, write_checkpoint
from tests.support.full_disks import fill, small_disk

END = 9
SYSTEM = [*range(20, 35), END]
ASK = [*range(40, 52), END]
OTHER = [*range(60, 66), END]
ROOMY = 10**9


@pytest.fixture(scope="module")
def model() -> GptOss:
    config = hf_config(num_hidden_layers=3)
    return build(config, random_tensors(config, seed=5))


def files(
    model: GptOss, root: Path, cap: int = ROOMY, digest: str = "d"
) -> PromptFiles:
    return PromptFiles(root, digest, model.config, mx.float32, cap)


def opened(model: GptOss, root: Path, **options: Any) -> PromptCache:
    """Open a cache on a folder, as a new process would."""
    on_disk = files(model, root, **options)
    return PromptCache(model.make_cache, message_ends=[END], files=on_disk)


def prepare(model: GptOss, cache: PromptCache, ids: Sequence[int]) -> None:
    work = BackgroundPrefill(model, cache, ids, chunk=11)
    while work.step():
        pass


def stored(model: GptOss, root: Path, *prompts: Sequence[int]) -> list[Path]:
    cache = opened(model, root)
    for ids in prompts:
        prepare(model, cache, ids)
    return sorted(root.glob("*/*.safetensors"))


def ask(model: GptOss, cache: PromptCache, ids: Sequence[int]) -> tuple[int, mx.array]:
    """Read a prompt; return how much was known, and the logits of its end."""
    with cache.acquire(ids) as lease:
        part = list(ids[lease.cached_tokens :])
        logits = model(mx.array([part]), lease.cache)[0, -1]
        mx.eval(logits)
        lease.record(part)
        return lease.cached_tokens, logits


def test_what_was_written_is_found_by_the_next_process(
    model: GptOss, tmp_path: Path
) -> None:
    stored(model, tmp_path, SYSTEM + ASK, SYSTEM + OTHER)
    prompt = [*SYSTEM, *OTHER, 1, 2]

    known, logits = ask(model, opened(model, tmp_path), prompt)

    assert known == len(SYSTEM + OTHER)
    # float32 sums in another order, on logits of size about 4
    np.testing.assert_allclose(logits, model(mx.array([prompt]))[0, -1], atol=5e-4)


def test_each_message_is_a_file_for_its_owner_alone(
    model: GptOss, tmp_path: Path
) -> None:
    paths = stored(model, tmp_path, SYSTEM + ASK, SYSTEM + OTHER)

    tokens = [load_file(path)["tokens"].tolist() for path in paths]

    assert sorted(tokens, key=len) == [SYSTEM, SYSTEM + OTHER, SYSTEM + ASK]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert stat.S_IMODE(paths[0].parent.stat().st_mode) == 0o700


def test_a_branch_within_a_file_uses_what_comes_before(
    model: GptOss, tmp_path: Path
) -> None:
    stored(model, tmp_path, SYSTEM + ASK)
    branch = [*SYSTEM, *ASK[:5], 70, END]
    cache = opened(model, tmp_path)

    prepare(model, cache, branch)

    assert ask(model, cache, [*branch, 1])[0] == len(branch)
    reopened = opened(model, tmp_path)
    assert ask(model, reopened, [*branch, 1])[0] == len(branch)
    assert ask(model, reopened, [*SYSTEM, *ASK, 1])[0] == len(SYSTEM + ASK)


def test_nothing_is_written_twice(model: GptOss, tmp_path: Path) -> None:
    first = stored(model, tmp_path, SYSTEM + ASK)
    written = [path.stat().st_ino for path in first]

    again = stored(model, tmp_path, SYSTEM + ASK)

    assert [path.stat().st_ino for path in again] == written


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": lambda path: flip(path, -1),
    "a flipped token": lambda path: change_token(path),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a cache"),
    "another header": lambda path: flip(path, 0),
    "other tensors": lambda path: save_file({"x": np.zeros(3)}, path),
    "another's name": lambda path: path.rename(path.with_name("0-x.safetensors")),
}


def change_token(path: Path) -> None:
    data = path.read_bytes()
    tokens = np.array(SYSTEM, "<i4").tobytes()
    assert tokens in data
    other = np.array([*SYSTEM[:-1], 7], "<i4").tobytes()
    path.write_bytes(data.replace(tokens, other))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_left_out_with_a_warning(
    damage: Any, model: GptOss, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = stored(model, tmp_path, SYSTEM)
    damage(path)
    prompt = [*SYSTEM, 1]

    known, logits = ask(model, opened(model, tmp_path), prompt)

    assert known == 0
    np.testing.assert_allclose(logits, model(mx.array([prompt]))[0, -1], atol=5e-4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path) in caplog.text


def test_a_file_of_another_model_or_runtime_is_left_out(
    model: GptOss, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = stored(model, tmp_path, SYSTEM)
    foreign = opened(model, tmp_path, digest="e")
    assert ask(model, foreign, [*SYSTEM, 1])[0] == 0
    assert not caplog.records

    path.rename(tmp_path / "e" / path.name)

    assert ask(model, opened(model, tmp_path, digest="e"), [*SYSTEM, 1])[0] == 0
    assert "is not a prompt of this model and runtime" in caplog.text


def test_what_follows_a_lost_file_is_left_out(model: GptOss, tmp_path: Path) -> None:
    first, _ = stored(model, tmp_path, SYSTEM + ASK)
    first.unlink()

    assert ask(model, opened(model, tmp_path), [*SYSTEM, *ASK, 1])[0] == 0


def test_a_file_that_goes_while_it_is_known_is_read_again(
    model: GptOss, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = stored(model, tmp_path, SYSTEM + ASK)
    cache = opened(model, tmp_path)
    paths[1].unlink()

    assert ask(model, cache, [*SYSTEM, *ASK, 1])[0] == len(SYSTEM)
    assert "is missing" in caplog.text


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


def test_what_a_dead_process_left_half_written_is_removed(
    model: GptOss, tmp_path: Path
) -> None:
    [path] = stored(model, tmp_path, SYSTEM)
    with draft(path) as written:  # by a process that lives
        left = written.with_name(f".mlx-gptoss-00.draft{path.suffix}")
        for partial in (left, written):
            partial.write_bytes(path.read_bytes()[:100])

        prepare(model, opened(model, tmp_path), OTHER)

        assert (left.exists(), written.exists()) == (False, True)


FULL = """
import resource, sys
from pathlib import Path
from tests.engine import test_prompt_files as t

config = t.hf_config(num_hidden_layers=3)
model = t.build(config, t.random_tensors(config, seed=5))
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


KILLED = """
import os, signal, sys
from pathlib import Path
import mlx.core as mx
from tests.engine import test_prompt_files as t

config = t.hf_config(num_hidden_layers=3)
model = t.build(config, t.random_tensors(config, seed=5))
cache = t.opened(model, Path(sys.argv[1]))
t.prepare(model, cache, t.SYSTEM)
save = mx.save_safetensors

def save_and_die(file, *rest):
    save(file, *rest)
    file.truncate(file.tell() // 2)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

mx.save_safetensors = save_and_die
t.prepare(model, cache, t.SYSTEM + t.ASK)
"""


def test_a_process_killed_while_it_writes_leaves_a_usable_cache(
    model: GptOss, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == -9, ended.stderr.decode()
    assert len(list(tmp_path.glob("d/.mlx-gptoss-*"))) == 1
    assert ask(model, opened(model, tmp_path), [*SYSTEM, *ASK, 1])[0] == len(SYSTEM)


def test_the_digest_is_of_weights_config_dtype_and_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in "abc"]
    for seed, folder in zip((0, 0, 1), folders, strict=True):
        folder.mkdir()
        write_checkpoint(folder, seed=seed, num_hidden_layers=1)
    one, same, other = map(open_checkpoint, folders)
    for path in (*one.files, *same.files):
        os.utime(path, ns=(0, 0))
    changed = replace(one, raw_config={**one.raw_config, "rms_norm_eps": 1e-6})

    digest = cache_digest(one, mx.float32)

    assert digest == cache_digest(same, mx.float32)
    differing = [
        cache_digest(other, mx.float32),
        cache_digest(changed, mx.float32),
        cache_digest(one, mx.bfloat16),
    ]
    monkeypatch.setattr(
        "mlx_gptoss.engine.prompt_cache.digest.version", lambda name: "0.99"
    )
    differing.append(cache_digest(one, mx.float32))
    assert len({digest, *differing}) == 5


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
