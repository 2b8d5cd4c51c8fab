"""Faults of the machine, the network or the cache give one line and no traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.checkpoint.hub.repo_folder import RepoFolder
from mlx_gptoss.errors import HubError
from mlx_gptoss.files.atomic import DRAFT, PREFIX
from tests.support.hub_server import COMMIT, HubServer

CONFIG = b'{"model_type": "gpt_oss", "num_local_experts": 32}'
NAME = "model.safetensors"
FILES = {"config.json": CONFIG, "empty.json": b"", NAME: b"w" * 1000}
MODEL = "owner/model"
REPOS = {MODEL: FILES}


# What another program, a crash or a full disk left in the cache


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda ref: ref.write_bytes(b""),
    "not text": lambda ref: ref.write_bytes(b"\xff\xfe\0"),
    "a path": lambda ref: ref.write_text("../.."),
    "too long": lambda ref: ref.write_text("a" * 5000),
    "gone": lambda ref: ref.unlink(),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_name_of_a_commit_is_mended_by_a_pull(
    hub: Hub, server: HubServer, name: str
) -> None:
    hub.pull(MODEL)
    ref = hub.folder / "models--owner--model" / "refs" / "main"
    DAMAGE[name](ref)
    [listed] = [model for model in hub.list_models() if model.name == MODEL]
    assert not listed.complete
    with pytest.raises(HubError, match="only partly on this machine and downloads"):
        hub.resolve(MODEL, offline=True)
    served = server.served
    hub.pull(MODEL)
    assert (ref.read_text(), server.served) == (COMMIT, served)
    assert hub.resolve(MODEL, offline=True).name == COMMIT


def test_another_revision_alone_is_not_the_model(hub: Hub) -> None:
    """As `hf download --revision` leaves it; what is listed as whole can be used."""
    folder = RepoFolder(hub.folder, MODEL)
    hub.pull(MODEL)
    (folder.path / "refs" / "main").rename(folder.path / "refs" / "v1")
    assert [model.complete for model in hub.list_models()][1:] == [False]
    assert hub.cached(MODEL) is None


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"\xff",
        json.dumps({"weight_map": {"a": "x" * 5000}}).encode(),
        json.dumps({"weight_map": {"a": "\0"}, "metadata": {"total_size": 9}}).encode(),
    ],
    ids=["deep", "not text", "a long name", "no name"],
)
def test_a_damaged_index_is_a_model_in_part(hub: Hub, content: bytes) -> None:
    index = hub.pull(MODEL) / "model.safetensors.index.json"
    index.write_bytes(content)
    assert [model.complete for model in hub.list_models()][1:] == [False]
    assert hub.cached(MODEL) is None


@pytest.mark.parametrize("makes", ["loop", "nowhere"])
def test_a_cache_that_is_no_folder_is_named(
    server: HubServer, tmp_path: Path, makes: str
) -> None:
    cache = tmp_path / "cache"
    cache.symlink_to(cache if makes == "loop" else tmp_path / "not" / "here")
    with pytest.raises(HubError, match=r"cannot be written `.*cache.*or set `HF_HOME`"):
        Hub(server.url, cache).pull(MODEL)


def test_a_killed_pulls_drafts_are_used_up_by_the_next(hub: Hub) -> None:
    repo = RepoFolder(hub.folder, MODEL)
    repo.path.mkdir(parents=True)
    (repo.path / "refs").mkdir()
    for draft in (".mlx-gptoss.link", f"{PREFIX}1{DRAFT}", f"refs/{PREFIX}2{DRAFT}"):
        (repo.path / draft).write_text("half of it")
    hub.pull(MODEL)
    assert sorted(path.name for path in repo.path.iterdir()) == [
        "blobs",
        "refs",
        "snapshots",
    ]
    assert [path.name for path in (repo.path / "refs").iterdir()] == ["main"]


# What comes instead of the Hub's answer


FACTS = {"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": NAME, "size": 1}]}


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Log in</html>",
        b"[]",
        json.dumps(FACTS | {"siblings": [{"x": 1}]}).encode(),
        json.dumps(FACTS | {"siblings": [{"rfilename": "a", "size": "12"}]}).encode(),
        json.dumps(FACTS | {"siblings": [{"rfilename": "a\0b", "size": 1}]}).encode(),
        json.dumps(FACTS | {"siblings": [{"rfilename": "a", "size": -1}]}).encode(),
        json.dumps(FACTS | {"config": [1]}).encode(),
    ],
    ids=["a page", "a list", "no name", "no size", "no path", "less than none", "kind"],
)
def test_an_answer_that_is_none_is_said(
    hub: Hub, server: HubServer, answer: bytes
) -> None:
    server.answers[MODEL] = answer
    with pytest.raises(HubError, match="whether this network requires a login"):
        hub.pull(MODEL)
    assert not hub.folder.exists()


# Variables, in a process of its own: they are read once


PULLS = """
import json, os, sys
from mlx_gptoss.errors import HubError
from mlx_gptoss.checkpoint.hub import Hub
for setting, _ in json.loads(sys.argv[1]):
    before = dict(os.environ)
    os.environ.update(setting)
    for name in [x for x in sys.modules if x.startswith("huggingface_hub")]:
        del sys.modules[name]
    try:
        Hub().pull("owner/model")
    except HubError as error:
        print(error)
    os.environ.clear()
    os.environ.update(before)
"""
SETTINGS = [
    ({"HF_ENDPOINT": "localhost:80"}, "`localhost:80` is not a web address"),
    ({"HF_ENDPOINT": "http://[x"}, "check `HF_ENDPOINT`"),
    ({"HF_ENDPOINT": "http://a:99999"}, "check `HF_ENDPOINT`"),
    ({"HF_ENDPOINT": "http://a b"}, "is not a web address"),
    ({"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, "that begin with `HF_HUB_`"),
    ({"ALL_PROXY": "ftp://127.0.0.1:1"}, "a proxy cannot be used (Unknown scheme"),
    ({"SSL_CERT_FILE": "/not/here"}, "the certificates cannot be read (No such file"),
    ({"HF_TOKEN": "tök"}, "the Hub token contains an invalid character"),
]


def test_a_variable_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    quiet = {"NO_PROXY": "", "no_proxy": "", "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", PULLS, json.dumps(SETTINGS)],
        env=os.environ | quiet | {"HF_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = found.stdout.splitlines()
    assert len(said) == len(SETTINGS), found.stdout
    for line, (_, expected) in zip(said, SETTINGS, strict=True):
        assert expected in line
