"""The settings of a conversation, and the bodies of the page's requests.

`effort`, `system` and the adapter are saved as every chat has them; the model, the
temperature and the tools are notes of the page.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from mlx_gptoss.harmony.messages import Effort
from mlx_gptoss.server.web.approvals import Decision

if TYPE_CHECKING:
    from mlx_gptoss.server.web.page import WebPage

LONGEST = 2 * 2**20  # characters of a file or a question
MOST_FILES = 32
MODEL, TEMPERATURE, TOOLS = "model", "temperature", "tools"


class PageBody(BaseModel):
    """A body that the page sends: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class ChatSettings(PageBody):
    """How a conversation is answered.

    `model` is a name that requests may give, with its adapter behind a colon; None is
    the first. `tools` are names that the operator offers.
    """

    model: str | None = Field(default=None, max_length=300)
    effort: Effort = "medium"
    temperature: float = Field(default=1.0, ge=0, le=2)
    system: str = Field(default="", max_length=LONGEST)
    tools: list[str] = Field(default_factory=list, max_length=256)

    @classmethod
    def of(cls, data: Mapping[str, Any], defaults: Self) -> Self:
        """Read the settings of a saved chat; what it has none of is the default."""
        notes = data.get("notes", {})
        model = notes.get(MODEL)
        return cls(
            model=model if isinstance(model, str) else defaults.model,
            effort=data["effort"],
            temperature=_number(notes.get(TEMPERATURE), defaults.temperature),
            system=data["system"] or "",
            tools=_names(notes.get(TOOLS), defaults.tools),
        )

    @property
    def notes(self) -> dict[str, Any]:
        """The settings that are notes of a saved chat."""
        return {
            MODEL: self.model,
            TEMPERATURE: self.temperature,
            TOOLS: list(self.tools),
        }


def settings_of(data: Mapping[str, Any], page: "WebPage") -> ChatSettings:
    """Return the settings of a saved chat, of what this server has."""
    settings = ChatSettings.of(data, page.defaults)
    adapter = data.get("adapter")
    if settings.model is None and adapter:
        settings.model = f"{page.models.names[0]}:{adapter}"
    if settings.model not in page.model_names:
        settings.model = page.model_names[0]
    settings.tools = [one for one in settings.tools if one in page.offer.tools]
    return settings


class SentFile(PageBody):
    """A text file beside a question."""

    name: str = Field(max_length=300)
    text: str = Field(max_length=LONGEST)


class SentQuestion(PageBody):
    """A question; the first of a conversation may have its settings."""

    text: str = Field(max_length=LONGEST)
    files: list[SentFile] = Field(default_factory=list, max_length=MOST_FILES)
    settings: ChatSettings | None = None


class EditedQuestion(PageBody):
    """Another question, or another answer to the same one, at a turn (from 1)."""

    turn: int = Field(ge=1)
    text: str | None = Field(default=None, max_length=LONGEST)
    files: list[SentFile] = Field(default_factory=list, max_length=MOST_FILES)


class BranchedTurn(PageBody):
    """The turn (from 1) behind which a new conversation goes on."""

    turn: int = Field(ge=1)


class SentDecision(PageBody):
    """A decision about a call that waits."""

    call: str = Field(max_length=100)
    choice: Decision


class ChangedChat(PageBody):
    """A new title, or new settings."""

    title: str | None = Field(default=None, max_length=300)
    settings: ChatSettings | None = None


class SentKey(PageBody):
    """The key of a link."""

    key: str = Field(max_length=200)


class ChosenModel(PageBody):
    """A model to serve or to download."""

    model: str = Field(max_length=300)
    action: Literal["serve", "download"] = "serve"


class MeasuredText(PageBody):
    """Text whose tokens are counted, for a model's tokenizer."""

    text: str = Field(max_length=LONGEST)
    model: str | None = Field(default=None, max_length=300)


def _number(value: Any, default: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 2 else default


def _names(value: Any, default: list[str]) -> list[str]:
    if not isinstance(value, list):
        return list(default)
    return [name for name in value if isinstance(name, str)][:256]
