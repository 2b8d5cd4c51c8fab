"""Time streamed completions of any OpenAI-compatible server.

Knows the streaming format of OpenAI's completions and chat completions, and what
servers make of it: usage that is missing, `timings` of llama-server, reasoning under
several names, errors inside a stream, no `[DONE]`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.http_client import HttpClient, Refused, Unreachable
from mlx_gptoss.errors import GptOssError

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MODELS, VERSION = "/v1/models", "/v1"
LOOPBACK = "127.0.0.1"
REPLY_TIMEOUT_S = 3600.0
ATTEMPTS = 5  # to have a connection accepted; the time that takes counts
END_OF_STREAM = "[DONE]"
TEXT_FIELDS = ("content", "reasoning", "reasoning_content")  # of a chat's delta


@dataclass(frozen=True)
class ServerAddress:
    """A server, by the name shown in results.

    `url` may end with `/v1` or not. `model` is sent with every request if it is given.
    `harmony` says that its chat template takes an assistant's text as Harmony.
    """

    name: str
    url: str
    key: str | None = None
    model: str | None = None
    harmony: bool = False
    timeout: float = REPLY_TIMEOUT_S  # seconds without a byte

    @classmethod
    def on_loopback(
        cls, name: str, port: int, key: str | None = None, *, harmony: bool = False
    ) -> "ServerAddress":
        """Return the address of a server on this machine."""
        return cls(name, f"http://{LOOPBACK}:{port}", key, harmony=harmony)

    def client(self, *, attempts: int = ATTEMPTS) -> HttpClient:
        """Return a client that waits long enough for a benchmark."""
        url = self.url.rstrip("/").removesuffix(VERSION)
        return HttpClient(url, self.key, self.timeout, attempts)


@dataclass(frozen=True)
class StreamTiming:
    """Clock times of one answer, in seconds of `time.perf_counter`, and its tokens.

    `arrivals` are the times of the events that had text. `read_tokens` are the tokens
    of the prompt that were not in the server's cache, None if it does not say.
    `counted` is False if the server said no numbers: then each event is a token.
    """

    asked: float
    first: float
    ended: float
    prompt_tokens: int
    completion_tokens: int
    read_tokens: int | None = None
    arrivals: tuple[float, ...] = ()
    text: str = field(default="", repr=False)
    counted: bool = True


def find_model(address: ServerAddress) -> str | None:
    """Return the model that a server offers, None if it does not list any.

    Raises EngineFailure if it offers several, or does not answer.
    """
    try:
        listed = address.client().get(MODELS)
        names = [str(model["id"]) for model in listed["data"]]
    except Refused:
        return None  # a server of one model need not list it
    except Unreachable as error:
        raise _unreachable(address, error) from error
    except (GptOssError, KeyError, TypeError):
        return None
    if len(names) > 1:
        offered = ", ".join(f"`{name}`" for name in names)
        raise EngineFailure(
            f"{address.name} offers several models: choose one with `--against-model` "
            f"({offered})"
        )
    return names[0] if names else None


def time_stream(
    address: ServerAddress,
    body: Mapping[str, Any],
    *,
    path: str = COMPLETIONS,
    on_first: Callable[[], None] = lambda: None,
) -> StreamTiming:
    """Time one completion as a stream; `on_first` is called at its first text.

    Raises EngineFailure, in one line, if there is no whole answer.
    """
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    if address.model is not None:
        streamed["model"] = address.model
    answer = _Answer(address.name)
    asked = time.perf_counter()
    try:
        for event in address.client().stream(path, streamed):
            if event.data == END_OF_STREAM:
                answer.complete = True
                break  # a server may keep the connection open
            if answer.take(event.data) and len(answer.arrivals) == 1:
                on_first()
    except Unreachable as error:
        raise _unreachable(address, error) from error
    except GptOssError as error:
        hint = ""
        if isinstance(error, Refused) and address.model is None:
            hint = "; if it needs a model's name, give `--against-model`"
        raise EngineFailure(f"{address.name}: {error}{hint}") from error
    return answer.timing(asked, time.perf_counter())


class _Answer:
    """The events of one stream."""

    def __init__(self, server: str) -> None:
        self.arrivals: list[float] = []
        self.complete = False
        self._server = server
        self._texts: list[str] = []
        self._usage: Mapping[str, Any] = {}
        self._timings: Mapping[str, Any] = {}

    def take(self, data: Any) -> bool:
        """Take the JSON of an event; return whether it had text.

        Raises EngineFailure for an event that is an error, or no completion.
        """
        try:
            return self._take(data, time.perf_counter())
        except (AttributeError, TypeError) as error:
            raise EngineFailure(
                f"{self._server} sent an event that is no completion: {data!r:.80}"
            ) from error

    def _take(self, data: Any, now: float) -> bool:
        if error := data.get("error"):
            message = error.get("message") if isinstance(error, Mapping) else error
            raise EngineFailure(f"{self._server}: {_one_line(message or error)}")
        self._usage = data.get("usage") or self._usage
        self._timings = data.get("timings") or self._timings
        found = False
        for choice in data.get("choices") or ():
            self.complete = self.complete or choice.get("finish_reason") is not None
            delta = choice.get("delta") or {}
            texts = [choice.get("text"), *(delta.get(name) for name in TEXT_FIELDS)]
            # Only an answer's own text is said again in the next turn.
            self._texts += [text for text in texts[:2] if text]
            found = found or any(texts) or bool(delta.get("tool_calls"))
        if found:
            self.arrivals.append(now)
        return found

    def timing(self, asked: float, ended: float) -> StreamTiming:
        """Return the times. Raises EngineFailure if the answer is empty or cut off."""
        if not (self.complete or self._usage):
            raise EngineFailure(f"{self._server} broke off a stream")
        said = self._usage.get("completion_tokens")
        if not self.arrivals and not said:
            raise EngineFailure(f"{self._server} answered without any text")
        prompt = self._usage.get("prompt_tokens") or 0
        return StreamTiming(
            asked,
            self.arrivals[0] if self.arrivals else ended,
            ended,
            prompt,
            len(self.arrivals) if said is None else said,
            self._read_tokens(prompt),
            tuple(self.arrivals),
            "".join(self._texts),
            counted=said is not None,
        )

    def _read_tokens(self, prompt: int) -> int | None:
        """Return the tokens of the prompt that were computed."""
        cached = (self._usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is not None:
            return prompt - cached
        if (read := self._timings.get("prompt_n")) is not None:  # llama-server
            return read
        return self._usage.get("prompt_eval_count")  # Ollama


def _unreachable(address: ServerAddress, error: Unreachable) -> EngineFailure:
    reason = error.__cause__ or error
    if isinstance(reason, TimeoutError):
        return EngineFailure(f"{address.name} sent nothing for {address.timeout:g} s")
    return EngineFailure(f"{address.name} does not answer: {_one_line(reason)}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
