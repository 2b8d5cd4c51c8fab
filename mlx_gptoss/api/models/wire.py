"""The list of models."""

from typing import Literal

from mlx_gptoss.api.wire import ReplyModel


class ModelEntry(ReplyModel):
    """A model; `context_length` is known while it is `loaded`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    context_length: int | None


class ModelList(ReplyModel):
    object: Literal["list"]
    data: list[ModelEntry]


class HealthReply(ReplyModel):
    """Where there is a key, who does not send it gets the `status` only."""

    status: Literal["ok"]
    version: str | None = None
    models: list[str] | None = None
    loaded: list[str] | None = None
    running: int | None = None
