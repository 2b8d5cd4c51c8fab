"""The list of models."""

from typing import Literal

from mlx_gptoss.server.schema.base import Reply


class ModelReply(Reply):
    """A model; `context_length` is known while it is `loaded`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    context_length: int | None


class ModelList(Reply):
    object: Literal["list"]
    data: list[ModelReply]


class Health(Reply):
    status: Literal["ok"]
    version: str
    models: list[str]
    loaded: list[str]
    running: int
