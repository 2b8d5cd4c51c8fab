"""A server's URL, model name and key, as agents' settings need them."""

from dataclasses import dataclass

DEFAULT_URL = "http://127.0.0.1:8080"
CONTEXT_TOKENS = 131_072  # tokens: the context length of gpt-oss
NO_KEY = "none"  # for agents that require a key where the server does not


@dataclass(frozen=True)
class Endpoint:
    """A server and its model; `url` has no path."""

    url: str = DEFAULT_URL
    model: str = "demo"
    key: str | None = None
    context: int = CONTEXT_TOKENS

    @property
    def v1(self) -> str:
        """The base URL for OpenAI clients. Anthropic clients take `url`."""
        return self.url.rstrip("/") + "/v1"

    @property
    def key_or_none(self) -> str:
        """The key, or a placeholder that is never empty."""
        return self.key or NO_KEY
