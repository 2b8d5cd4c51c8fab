"""Request fields that several APIs share: sampling, token limits, streams."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mlx_gptoss.api.alias_values import NO_LIMIT
from mlx_gptoss.api.wire import FailFastList, RequestBody, RequestModel

RANDOM_SEED = -1  # as other servers have it
NEVER = -100.0  # the bias of a token that is never sampled


def normalize_token_limit(value: int) -> int | None:
    """Return a number of tokens, or None for no limit."""
    if value == 0:
        raise PydanticCustomError("limit", "give 1 or more, or -1 for no limit")
    return None if value == NO_LIMIT else value


def normalize_seed(seed: int) -> int | None:
    """Return a seed, or None for a random one."""
    return None if seed == RANDOM_SEED else seed


def normalize_biases(value: Any) -> Any:
    """Read llama.cpp's forms of a bias: a list of pairs, and false for never."""
    pairs = value.items() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return value
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return value
    return {
        str(token) if type(token) is int else token: NEVER if bias is False else bias
        for token, bias in pairs
    }


PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
# -1 is no limit, as other servers have it.
TokenLimitNumber = Annotated[int, Field(ge=-1, json_schema_extra={"not": {"const": 0}})]
TokenLimit = Annotated[TokenLimitNumber, AfterValidator(normalize_token_limit)]
RawTokenLimit = Annotated[int, Field(ge=-1)]
ReasoningTokenLimit = Annotated[int, Field(ge=0)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=-1), AfterValidator(lambda k: max(k, 0))]  # -1 is off
Seed = Annotated[int, AfterValidator(normalize_seed)]
Biases = Annotated[dict[str, float], BeforeValidator(normalize_biases)]


class StreamOptions(RequestModel):
    include_usage: bool | None = None


class SamplingFields(RequestBody):
    """A request body with the sampling fields that OpenAI's routes share."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    logit_bias: Biases | None = None
    stop: str | FailFastList[str] | None = None
