"""An app whose model answers every prompt alike, at once: for tests of everything else.

    with constant() as runtime: ...

The answer is cut or bent as a request asks for it; the model itself never tires.
"""

import time
from collections.abc import Sequence

from mlx_gptoss.prompt_cache import CacheOptions
from mlx_gptoss.runtime import Runtime
from tests.fakes import SURE, FakeModel, byte_tokenizer, token_ids

ANSWER = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Yes, it is.<|return|>"
)
TURN = "<|start|>assistant"
ROWS = 300


def constant(
    answer: str = ANSWER, context: int = 4096, step_seconds: float = 0
) -> Runtime:
    """Return a runtime that says `answer` after any prompt.

    Behind what it did not say itself, as a header that was forced on it, it would
    rather end than anything else.
    """
    tokenizer = byte_tokenizer()
    script, turn = token_ids(answer, tokenizer), token_ids(TURN, tokenizer)
    ends = [tokenizer.special(name) for name in ("<|return|>", "<|call|>", "<|end|>")]

    def logits_of(ids: Sequence[int]) -> list[float]:
        time.sleep(step_seconds)
        said = position(ids, turn, script)
        wish = ends if said is None else [script[said]]
        return [SURE if token in wish else 0.0 for token in range(ROWS)]

    model = FakeModel(logits_of)
    options = CacheOptions(idle=False)
    return Runtime(model, tokenizer=tokenizer, context=context, cache=options)


def position(
    ids: Sequence[int], turn: Sequence[int], script: Sequence[int]
) -> int | None:
    """How much of `script` stands at the end of `ids`, behind the turn's mark."""
    for said in range(len(script) - 1, -1, -1):
        begin = len(ids) - said - len(turn)
        if begin < 0:
            continue
        if list(ids[begin:]) == [*turn, *script[:said]]:
            return said
    return None
