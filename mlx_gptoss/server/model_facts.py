"""Facts of a model beside its name: sizes, storage, a digest; never a path."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.summary import count_parameters, quantization_by_part
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.format.config import AFFINE, ModelConfig
from mlx_gptoss.format.config.model import count_parameters as parameters_of
from mlx_gptoss.format.layout import EXPERTS

FORMAT = "safetensors"
UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K"))


@dataclass(frozen=True)
class ModelFacts:
    """Facts of a checkpoint; those unknown are None, 0 or empty.

    `storage` is how its experts are stored: MXFP4, BF16, 4bit. `modified` is in seconds
    since 1970. `digest` (hex) changes with the files; another tool computes another.
    """

    config: ModelConfig | None = None
    parameters: int | None = None
    bytes: int = 0
    storage: str = ""
    modified: float | None = None
    digest: str = ""

    @property
    def size_label(self) -> str:
        """The number of parameters, such as 20.9B."""
        for unit, letter in UNITS:
            if (self.parameters or 0) >= unit:
                return f"{(self.parameters or 0) / unit:.1f}{letter}"
        return "" if self.parameters is None else str(self.parameters)


def facts_of_checkpoint(checkpoint: Checkpoint) -> ModelFacts:
    """Describe a checkpoint from its headers."""
    found = {path.name: path.stat() for path in checkpoint.files}
    files = [[name, one.st_size, one.st_mtime_ns] for name, one in found.items()]
    described = [checkpoint.raw_config, sorted(files)]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    return ModelFacts(
        config=checkpoint.config,
        parameters=count_parameters(checkpoint),
        bytes=sum(one.st_size for one in found.values()),
        storage=expert_storage(checkpoint),
        modified=max(one.st_mtime for one in found.values()),
        digest=digest.hexdigest(),
    )


def facts_of_runtime(runtime: Runtime) -> ModelFacts:
    """Describe a loaded model whose files are not known."""
    try:
        config = runtime.config
    except GptOssError:
        return ModelFacts()
    size = runtime.plan.whole_bytes if runtime.plan else 0
    return ModelFacts(config=config, parameters=parameters_of(config), bytes=size)


def expert_storage(checkpoint: Checkpoint) -> str:
    """Name the storage of most matrices of experts."""
    counts = Counter(quantization_by_part(checkpoint)[EXPERTS])
    [(name, _)] = counts.most_common(1)
    if name.startswith(AFFINE):  # `affine 8-bit group 64`
        return name.removeprefix(AFFINE).partition("-bit")[0].strip() + "bit"
    return name.upper()
