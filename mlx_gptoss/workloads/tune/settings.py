"""Settings of a corpus: how its examples are read, rendered and divided."""

from dataclasses import dataclass
from typing import Literal

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import Effort
from mlx_gptoss.harmony.render.pieces import RecipientPosition
from mlx_gptoss.workloads.tune.examples import TRAINED_KINDS, TrainedKind

SHORTEST = 2  # tokens: one to read and one to predict


@dataclass(frozen=True)
class CorpusSettings:
    """Settings of `read_corpus`.

    length: the most tokens of one document; `too_long` says what happens to a
        conversation that has more. Plain text is divided instead.
    train_on: the kinds of assistant messages that are learned.
    effort, date: of conversations that do not name their own.
    pairs: a `prompt` and `completion` of text are plain text, or a chat.
    recipient_in: the part of the header in which a call names its tool.
    valid_share: the share of the rows that is kept for validation.
    """

    length: int = 2048
    too_long: Literal["refuse", "cut"] = "refuse"
    train_on: tuple[TrainedKind, ...] = TRAINED_KINDS
    effort: Effort = "medium"
    date: str | None = None
    pairs: Literal["text", "chat"] = "text"
    recipient_in: RecipientPosition = "role"
    valid_share: float = 0.05

    def __post_init__(self) -> None:
        unknown = set(self.train_on) - set(TRAINED_KINDS)
        if unknown or not self.train_on:
            named = ", ".join(sorted(unknown)) or "nothing"
            raise PromptError(
                f"`{named}` cannot be learned: use {', '.join(TRAINED_KINDS)}"
            )
        if self.length < SHORTEST:
            raise PromptError(f"a document needs {SHORTEST} tokens, not {self.length}")
        if not 0 <= self.valid_share < 1:
            raise PromptError(
                f"{self.valid_share} of the rows cannot be kept for validation: give "
                "a share from 0 to below 1"
            )
