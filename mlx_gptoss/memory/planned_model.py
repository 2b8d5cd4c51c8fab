"""The sizes of a model and the options of its user, from which a plan is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory.sizes import FLOAT_BYTES


@dataclass(frozen=True)
class PlannedModel:
    """A model to plan for, with its sizes in memory in bytes.

    `bytes_by_part` is the fully resident size; `expert_bytes` that of one expert, by
    default in MXFP4; `refusal` says why experts cannot be read one by one.
    `adapter_bytes` are those of the adapters that are loaded with it.
    """

    name: str
    config: ModelConfig
    bytes_by_part: Mapping[str, int]
    float_bytes: int = FLOAT_BYTES
    recipe: str | None = None  # of a published model
    expert_bytes: int | None = None
    refusal: str | None = None
    adapter_bytes: int = 0


class StorageOptions(Protocol):
    """The options that a plan depends on, as `LoadOptions` of the engine has them."""

    @property
    def memory(self) -> str | int | None: ...

    @property
    def experts(self) -> str: ...

    @property
    def context(self) -> int | None: ...
