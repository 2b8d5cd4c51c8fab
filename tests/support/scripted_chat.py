"""A model that follows a script, in Harmony, on the real Runtime.

    runtime = scripted_runtime("<|channel|>final<|message|>Hello<|return|>", ...)

It gives the n-th reply to the n-th question. `model.text_read` is the text of all
tokens it was fed, so that a test can check what the model was shown.
"""

from collections.abc import Mapping
from pathlib import Path
from time import sleep

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.scheduler import BatchOptions
from tests.support.fakes import SURE, FakeModel, byte_tokenizer

TOKENIZER = byte_tokenizer()
START = TOKENIZER.special("<|start|>")
VOCABULARY = 300


def as_characters(ids: list[int]) -> str:
    """Return a string with one character per id, to search in."""
    return "".join(map(chr, ids))


OPENING = as_characters([START, *TOKENIZER.encode("assistant")])
QUESTION = as_characters([START, *TOKENIZER.encode("user")])


def token_ids(text: str) -> list[int]:
    """Return the ids of a text in which `<|...|>` are special tokens."""
    ids: list[int] = []
    while text:
        name = next((n for n in TOKENIZER.specials if text.startswith(n)), None)
        ids += [TOKENIZER.special(name)] if name else TOKENIZER.encode(text[0])
        text = text[len(name or " ") :]
    return ids


class ScriptedModel(FakeModel):
    """Generates the reply to the last question, token by token."""

    def __init__(
        self,
        replies: tuple[str, ...],
        pause: float = 0,
        gates: Mapping[str, Path | str] | None = None,
    ) -> None:
        super().__init__(self._logits_of)
        self.pause = pause  # seconds before each token
        self.stop_at: int | None = None  # tokens; it reads no further, while set
        # Behind a text it waits until a file exists.
        self.gates = {
            as_characters(token_ids(text)): Path(path)
            for text, path in (gates or {}).items()
        }
        self.replies = [token_ids(reply) for reply in replies]

    @property
    def text_read(self) -> str:
        """The text of all tokens it was fed."""
        return TOKENIZER.decode([token for feed in self.feeds for token in feed])

    def _logits_of(self, ids: list[int]) -> list[float]:
        sleep(self.pause)
        while self.stop_at is not None and len(ids) > self.stop_at:
            sleep(0.01)
        read = as_characters(ids)
        for text, path in self.gates.items():
            while read.endswith(text) and not path.exists():
                sleep(0.01)
        opening = read.find(OPENING, read.rfind(QUESTION))
        said = len(ids) - opening - len(OPENING) if opening >= 0 else -1
        turn = read.count(QUESTION) - 1
        reply = self.replies[min(max(turn, 0), len(self.replies) - 1)]
        token = reply[said] if 0 <= said < len(reply) else 0
        return [SURE if n == token else 0.0 for n in range(VOCABULARY)]


def scripted_runtime(
    *replies: str,
    pause: float = 0,
    gates: Mapping[str, Path | str] | None = None,
    context: int | None = None,
    batch: BatchOptions | None = None,
) -> Runtime:
    """Return a runtime that answers the n-th question with the n-th reply."""
    model = ScriptedModel(replies, pause, gates)
    cache = CacheOptions(idle=False)
    return Runtime(
        model, tokenizer=TOKENIZER, context=context, cache=cache, batch=batch
    )
