"""The program that runs a token classifier in its own process.

    python -m mlx_gptoss.diagnostics.bench.redact_main SIDE FOLDER

SIDE is `mlx_gptoss`, `mlx-embeddings` or `transformers`. Reads one JSON object a line
from stdin, replies with one on stdout; what libraries print goes to stderr. The first
line is `{"package": ...}`, or `{"error": ...}`.

    {"texts": [[1, 2], [3]]}  ->  {"seconds": 0.1, "labels": [[0, 0], [4]]}

Every side computes in float32 and gets the texts as they are: ours puts short ones
together and cuts long ones, the others take them one by one.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mlx_gptoss.model.blas import preload_blas

OURS, EMBEDDINGS, TRANSFORMERS = "mlx_gptoss", "mlx-embeddings", "transformers"
Texts = Sequence[Sequence[int]]
Compute = Callable[[Texts], list[np.ndarray]]  # logits (L, labels) of each text


def load_ours(folder: Path) -> Compute:
    from mlx_gptoss.engine.load_options import LoadOptions  # noqa: PLC0415
    from mlx_gptoss.workloads.redact.labeler import Labeler  # noqa: PLC0415

    return Labeler.open(folder, LoadOptions(dtype="float32")).logits


def load_embeddings(folder: Path) -> Compute:
    import mlx.core as mx  # noqa: PLC0415

    peer: Any = import_module("mlx_embeddings.models.openai_privacy_filter")
    config = json.loads((folder / "config.json").read_text())
    model = peer.Model(peer.ModelArgs.from_dict(config))
    weights: dict[str, mx.array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        loaded: Any = mx.load(str(file))
        weights |= loaded
    floats = {name: value.astype(mx.float32) for name, value in weights.items()}
    model.load_weights(list(model.sanitize(floats).items()), strict=True)
    mx.eval(model.parameters())

    def compute(texts: Texts) -> list[np.ndarray]:
        found = [model(mx.array([ids])).logits[0] for ids in texts]
        mx.eval(found)
        return [np.array(one) for one in found]

    return compute


def load_transformers(folder: Path) -> Compute:
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )

    def compute(texts: Texts) -> list[np.ndarray]:
        with torch.no_grad():
            made = (model(input_ids=torch.tensor([list(ids)])) for ids in texts)
            return [one.logits[0].numpy() for one in made]

    return compute


SIDES = {
    OURS: load_ours,
    EMBEDDINGS: load_embeddings,
    TRANSFORMERS: load_transformers,
}


def main(side: str, folder: str) -> None:
    """Load the classifier, then process requests until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes stdin instead
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        preload_blas()
        compute = SIDES[side](Path(folder))
        _write(replies, {"package": f"{side} {_version(side)}"})
        for line in sys.stdin:
            _write(replies, _timed(compute, json.loads(line)["texts"]))
    except Exception as error:  # the edge of the process: reported, then raised
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        _write(replies, {"error": said})
        raise


def _timed(compute: Compute, texts: Texts) -> dict[str, Any]:
    begun = time.perf_counter()
    logits = compute(texts)
    seconds = time.perf_counter() - begun
    labels = [one.argmax(axis=1).tolist() for one in logits]
    return {"seconds": seconds, "labels": labels}


def _version(package: str) -> str:
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "from its sources"


def _write(replies: TextIO, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
