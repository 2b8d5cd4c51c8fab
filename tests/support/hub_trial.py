"""A Hub of three small repositories, and a record of a download from it."""

from pathlib import Path

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.checkpoint.hub.repo_folder import RepoFolder
from tests.support.hub_server import HubServer, etag_of

CONFIG = b'{"model_type": "gpt_oss", "num_local_experts": 32}'
NAME = "model.safetensors"
WEIGHTS = bytes(range(251)) * 1200  # 301,200 bytes without repetition at nearby offsets
SIZE = len(WEIGHTS)
ETAG = etag_of(NAME, WEIGHTS)
REPOS = {
    "owner/model": {"config.json": CONFIG, "tokenizer.json": b"{}", NAME: WEIGHTS},
    "owner/gguf": {"a.gguf": WEIGHTS},
    "owner/outside": {"../../../a.gguf": WEIGHTS},
}


class Trial:
    """A Hub to download from, with its messages, delays and progress."""

    def __init__(self, server: HubServer, cache: Path) -> None:
        self.server = server
        self.waits: list[float] = []
        self.said: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.hub = Hub(server.url, cache, sleep=self.waits.append)
        self.repo = RepoFolder(cache, "owner/model")
        self.part = self.repo.partial_file(ETAG)

    def pull(self) -> Path:
        return self.hub.pull(
            "owner/model",
            progress=lambda *now: self.counts.append(now),
            notify=self.said.append,
        )

    def begin(self, content: bytes) -> None:
        """Write the partial file of an earlier download."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.part.write_bytes(content)


def is_whole(folder: Path) -> bool:
    return (folder / NAME).read_bytes() == WEIGHTS


def left_over(trial: Trial) -> list[str]:
    """Return the names in the cache that are not blobs, links, refs or locks."""
    known = {"blobs", "snapshots", "refs"}
    found = [path.name for path in trial.repo.path.iterdir() if path.name not in known]
    return found + [path.name for path in trial.repo.partial_files()]
