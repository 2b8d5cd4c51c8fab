"""The settings of a server's operator; plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from mlx_gptoss.engine.sampling_params import SamplingParams

REASONING, REASONING_CONTENT, BOTH = "reasoning", "reasoning_content", "both"
OPENAI, OPEN_RESPONSES = "openai", "open-responses"
REASONING_EVENTS = (OPENAI, OPEN_RESPONSES)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Limits of one request, which is refused beyond them before any work is done.

    Bytes and counts; times are in seconds. `schema_depth` counts the objects and lists
    around a value, `values` the JSON values of a body. `bodies` bounds the bodies being
    read at a time, in units of the largest allowed body.
    """

    body_bytes: int = 32 * 2**20
    bodies: int = 8
    values: int = 2**19
    body_seconds: float = 60.0  # for a body to arrive
    heartbeat_seconds: float = 15.0  # between comments in an idle stream
    messages: int = 10_000
    tools: int = 256
    schema_depth: int = 64
    schema_bytes: int = 512 * 2**10
    choices: int = 16
    prompts: int = 64
    stops: int = 16
    stop_characters: int = 1024
    prompt_logprobs: int = 2**18  # entries in a reply
    socket_seconds: float = 3600.0  # of one WebSocket; Open Responses' own limit
    socket_waiting: int = 16  # messages that may wait on one WebSocket

    @property
    def all_body_bytes(self) -> int:
        """The memory for the bodies of all requests together."""
        return self.bodies * self.body_bytes


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server answers, and which clients it serves.

    `hosts` None trusts every Host header, as behind a Unix socket; `any_address` also
    trusts a Host that is an IP address. `origins` are those of web pages that may send
    requests. `max_reasoning` is a number of tokens, None for no limit, or "auto", which
    reserves a quarter of the room for the answer. `sampling` applies to fields that a
    request leaves out. `date` None is today. `store` is the folder for files, None for
    no files. `log_prompts` writes prompts to the log, which otherwise has none.
    `ollama` serves Ollama's API, too. Without `stream_comments` an idle stream sends
    empty lines, for clients that take every other line for JSON.
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
    ollama: bool = True
    stream_comments: bool = True
