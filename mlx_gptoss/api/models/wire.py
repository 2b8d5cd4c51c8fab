"""Wire types of the list of models and of `/health`."""

from typing import Literal

from mlx_gptoss.api.wire import ReplyModel


class ListedModel(ReplyModel):
    """A model; `context_length` is null until it is `loaded`.

    `parent` is the model of an adapter, null for a model itself.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    context_length: int | None
    parent: str | None = None


class ModelList(ReplyModel):
    object: Literal["list"]
    data: list[ListedModel]


class HealthReply(ReplyModel):
    """The state of the server; without the key, if there is one, only `status`."""

    status: Literal["ok"]
    version: str | None = None
    models: list[str] | None = None
    loaded: list[str] | None = None
    running: int | None = None
