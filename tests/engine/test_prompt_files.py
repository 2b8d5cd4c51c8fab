"""The part of the prompt cache on disk: found again, or left out, never half."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.engine.prompt_cache import (
    cache_digest,
)
from mlx_gptoss.files import draft
from mlx_gptoss.model.gpt_oss import GptOss
from tests.support.checkpoints import write_checkpoint
from tests.support.prompt_files import (
    ASK,
    END,
    OTHER,
    SYSTEM,
    ask,
    opened,
    prepare,
    stored,
)


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


KILLED = """
import os, signal, sys
from pathlib import Path
import mlx.core as mx
from tests.support import prompt_files as t

model = t.small_model()
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
