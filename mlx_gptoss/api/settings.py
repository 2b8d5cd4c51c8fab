"""What the operator of a server chose; plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from mlx_gptoss.engine.sampling_params import SamplingParams

REASONING, REASONING_CONTENT, BOTH = "reasoning", "reasoning_content", "both"
REASONING_FIELDS = (REASONING, REASONING_CONTENT, BOTH)
OPENAI, OPEN_RESPONSES = "openai", "open-responses"
REASONING_EVENTS = (OPENAI, OPEN_RESPONSES)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """How much one request may ask; more is refused before any work is done.

    Bytes and counts; times are in seconds. `schema_depth` counts the objects and
    lists around a value, `values` the values in all of a body, `bodies` how many of
    the largest bodies may be under way: smaller ones may be more.
    """

    body_bytes: int = 32 * 2**20
    bodies: int = 8
    values: int = 2**19
    body_seconds: float = 60.0  # for a request's body to arrive
    heartbeat_seconds: float = 15.0  # between signs of life in a silent stream
    messages: int = 10_000
    tools: int = 256
    schema_depth: int = 64
    schema_bytes: int = 512 * 2**10
    choices: int = 16
    prompts: int = 64
    stops: int = 16
    stop_characters: int = 1024


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server answers, and whom.

    `hosts` None trusts every Host header, as is right behind a Unix socket; with
    `any_address` a Host that is an address is trusted, too. `origins` are those of
    web pages that may ask; others may not. `max_reasoning` is "auto",
    which leaves a quarter of the room for the answer, None, or a number of tokens.
    `sampling` is how tokens are chosen where a request does not say.
    `date` None is today's. `store` is the folder of what is kept on disk, None for
    nothing. `log_prompts` writes what is asked into the log, which otherwise never
    has a word of it.
    """

    api_key: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] | None = LOOPBACK_HOSTS
    any_address: bool = False
    origins: tuple[str, ...] = ()
    limits: RequestLimits = field(default_factory=RequestLimits)
    reasoning_field: str = REASONING
    reasoning_events: str = OPENAI
    max_reasoning: int | str | None = "auto"
    loop_guard: bool = True
    sampling: SamplingParams = field(default_factory=SamplingParams)
    reasoning_memory: bool = True
    date: str | None = None
    log_prompts: bool = False
    store: Path | None = None
