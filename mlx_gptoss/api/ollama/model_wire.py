"""Wire types of Ollama's lists and descriptions of models."""

from typing import Literal

from mlx_gptoss.api.ollama.wire import OllamaModelBody
from mlx_gptoss.api.wire import JsonObject, ReplyModel

OllamaCapability = Literal["completion", "tools", "thinking"]


class OllamaDetails(ReplyModel):
    """Facts of a model; those unknown are empty. An adapter's parent is its model."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaListedModel(ReplyModel):
    """A model of `/api/tags`; `size` is in bytes, 0 if it is not downloaded."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails
    capabilities: list[OllamaCapability]


class OllamaModelList(ReplyModel):
    models: list[OllamaListedModel]


class OllamaLoadedModel(ReplyModel):
    """A model of `/api/ps`: the bytes its memory plan gives it, and when it ends."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: OllamaDetails
    expires_at: str
    context_length: int


class OllamaLoadedModels(ReplyModel):
    models: list[OllamaLoadedModel]


class OllamaShowRequest(OllamaModelBody):
    """The body of `/api/show`."""


class OllamaPullRequest(OllamaModelBody):
    """The body of `/api/pull`."""

    stream: bool | None = None


class OllamaShownModel(ReplyModel):
    """A model of `/api/show`; `model_info` has the keys of GGUF files."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: JsonObject
    capabilities: list[OllamaCapability]
    modified_at: str


class OllamaVersion(ReplyModel):
    """The version of Ollama whose API this is: clients ask for a least one."""

    version: str


class OllamaStatus(ReplyModel):
    status: Literal["success"]
