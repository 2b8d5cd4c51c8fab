"""Where a server answers and by which name its model goes."""

from dataclasses import dataclass

DEFAULT_URL = "http://127.0.0.1:8080"
CONTEXT_TOKENS = 131_072  # tokens gpt-oss was published for
NO_KEY = "none"  # for tools that insist on a key where the server wants none


@dataclass(frozen=True)
class Endpoint:
    """A server as a tool's settings name it; `url` without a path."""

    url: str = DEFAULT_URL
    model: str = "demo"
    key: str | None = None
    context: int = CONTEXT_TOKENS

    @property
    def v1(self) -> str:
        """The base URL of OpenAI's clients; Anthropic's take `url`."""
        return self.url.rstrip("/") + "/v1"

    @property
    def key_or_none(self) -> str:
        """A key that is never empty."""
        return self.key or NO_KEY
