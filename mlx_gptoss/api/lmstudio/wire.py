"""Wire types of LM Studio's REST API, `/api/v0` and `/api/v1`."""

from typing import Literal

from mlx_gptoss.api.chat.wire import ChatCompletion, ChatCompletionChunk
from mlx_gptoss.api.completions.wire import CompletionReply
from mlx_gptoss.api.wire import ReplyModel, RequestModel

StopReason = Literal[
    "eosFound",
    "stopStringFound",
    "toolCalls",
    "maxPredictedTokensReached",
    "contextLengthReached",
]


class StudioStatistics(ReplyModel):
    """Times in seconds; `generation_time` is from the first token to the last."""

    tokens_per_second: float
    time_to_first_token: float
    generation_time: float
    stop_reason: StopReason


class StudioModelInfo(ReplyModel):
    arch: str
    quant: str
    format: str
    context_length: int | None


class StudioRuntime(ReplyModel):
    name: str
    version: str
    supported_formats: list[str]


class StudioFields(ReplyModel):
    """What a reply has beside the fields of OpenAI's, in a stream its last chunk."""

    stats: StudioStatistics | None = None
    model_info: StudioModelInfo | None = None
    runtime: StudioRuntime | None = None


class StudioChatCompletion(ChatCompletion, StudioFields):
    pass


class StudioChatChunk(ChatCompletionChunk, StudioFields):
    pass


class StudioCompletion(CompletionReply, StudioFields):
    """A raw completion, or a chunk of one."""


class StudioModel(ReplyModel):
    """A model of `/api/v0/models`; `loaded_context_length` only if it is loaded."""

    id: str
    object: Literal["model"]
    type: Literal["llm"]
    publisher: str
    arch: str
    compatibility_type: str
    quantization: str
    state: Literal["loaded", "not-loaded"]
    max_context_length: int | None
    loaded_context_length: int | None = None
    capabilities: list[str]


class StudioModelList(ReplyModel):
    object: Literal["list"]
    data: list[StudioModel]


class StudioQuantization(ReplyModel):
    name: str | None
    bits_per_weight: float | None


class StudioInstanceConfig(ReplyModel):
    context_length: int | None


class StudioInstance(ReplyModel):
    id: str
    config: StudioInstanceConfig


class StudioReasoning(ReplyModel):
    allowed_options: list[str]
    default: str


class StudioCapabilities(ReplyModel):
    vision: bool
    trained_for_tool_use: bool
    reasoning: StudioReasoning


class StudioKey(ReplyModel):
    """A model of `/api/v1/models`; the name of an instance is that of its model."""

    type: Literal["llm"]
    publisher: str
    key: str
    display_name: str
    architecture: str
    quantization: StudioQuantization | None
    size_bytes: int
    params_string: str | None
    loaded_instances: list[StudioInstance]
    max_context_length: int | None
    format: str
    capabilities: StudioCapabilities
    description: None = None


class StudioKeyList(ReplyModel):
    models: list[StudioKey]


class StudioLoadRequest(RequestModel):
    """The body of `/api/v1/models/load`; how a model is loaded, its operator says."""

    model: str
    echo_load_config: bool | None = None


class StudioLoaded(ReplyModel):
    type: Literal["llm"]
    instance_id: str
    load_time_seconds: float
    status: Literal["loaded"]
    load_config: StudioInstanceConfig | None = None


class StudioUnload(RequestModel):
    """The body of `/api/v1/models/unload`."""

    instance_id: str


class StudioUnloaded(ReplyModel):
    instance_id: str


class StudioChatItem(ReplyModel):
    type: Literal["reasoning", "message"]
    content: str


class StudioChatStatistics(ReplyModel):
    """Counts and times of `/api/v1/chat`; the last one only if a model was loaded."""

    input_tokens: int
    total_output_tokens: int
    reasoning_output_tokens: int
    tokens_per_second: float
    time_to_first_token_seconds: float
    model_load_time_seconds: float | None = None


class StudioChatResult(ReplyModel):
    """A chat, with the id that continues it if it is stored."""

    model_instance_id: str
    output: list[StudioChatItem]
    stats: StudioChatStatistics
    response_id: str | None = None
