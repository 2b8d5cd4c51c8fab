"""A model that judges: texts with `bad` in them violate any policy.

    with judging() as runtime:
        verdict = asyncio.run(Classifier(runtime).classify("bad", policy))

Of the labels `0` and `1`, the right one has a logit that is higher by `GAP`. What has
no policy is answered with `FINE`.
"""

import math

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import SURE, FakeModel
from tests.support.scripted_chat import (
    OPENING,
    QUESTION,
    TOKENIZER,
    VOCABULARY,
    as_characters,
    token_ids,
)

BAD, FINE, THOUGHT = "bad", "Fine.", "The policy says so."
GAP = 1.5
SURENESS = 1 / (1 + math.exp(-GAP))  # of each verdict
POLICY = """# Manners

## VIOLATES (1)
M1.a Whatever is bad.

## SAFE (0)
M0.a Anything else.
"""
ASKED = as_characters(TOKENIZER.encode("## OUTPUT"))
RATIONALE = as_characters(TOKENIZER.encode('"rationale"'))
MARK = as_characters(TOKENIZER.encode(BAD))
THINKING = token_ids(
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
)
START = token_ids('<|channel|>final<|message|>{"label": "')
ZERO, ONE = (TOKENIZER.encode(label)[0] for label in "01")


def judging() -> Runtime:
    """Return the runtime."""

    def logits_of(ids: list[int]) -> list[float]:
        read = as_characters(ids)
        asked = read.rfind(QUESTION)
        opening = read.find(OPENING, asked)
        if opening < 0:
            return [0.0] * VOCABULARY
        said = ids[opening + len(OPENING) :]
        if ASKED not in read[:asked]:
            script = token_ids(f"<|channel|>final<|message|>{FINE}<|return|>")
            return only(script[min(len(said), len(script) - 1)])
        is_bad = MARK in read[asked:opening]
        before = [*THINKING, *START]
        if len(said) < len(before):
            return only(before[len(said)])
        if len(said) == len(before):
            right, wrong = (ONE, ZERO) if is_bad else (ZERO, ONE)
            given = {right: SURE + GAP, wrong: SURE}
            return [given.get(token, -SURE) for token in range(VOCABULARY)]
        rule = "M1.a" if is_bad else "M0.a"
        end = f'", "rule": "{rule}"'
        end += ', "rationale": "So."' if RATIONALE in read[:asked] else ""
        script = token_ids(f"{end}}}<|return|>")
        return only(script[min(len(said) - len(before) - 1, len(script) - 1)])

    model, cache = FakeModel(logits_of), CacheOptions(idle=False)
    return Runtime(model, tokenizer=TOKENIZER, context=8192, cache=cache)


def only(token: int) -> list[float]:
    return [SURE if one == token else 0.0 for one in range(VOCABULARY)]
