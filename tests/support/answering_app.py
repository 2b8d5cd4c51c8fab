"""An app whose model answers every prompt alike, at once: for tests of everything else.

    with constant() as runtime: ...
    with obliging() as runtime: ...      # calls the first tool where there is one
    with obliging(once=True) as runtime: # and answers once it has the result

The answer is cut or bent as a request asks for it; the model itself never tires.
"""

import re
import time
from collections.abc import Callable, Sequence

from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import SURE, FakeModel, byte_tokenizer, token_ids

ANSWER = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>final<|message|>Yes, it is.<|return|>"
)
CALL = (
    " to=functions.{}<|channel|>commentary <|constrain|>json<|message|>{{{}}}<|call|>"
)
FIRST_TOOL = re.compile(r"type (\w+) = \(_: \{(?:\n//.*)*\n(\w+):")
TURN = "<|start|>assistant"
QUESTION, RESULT = "<|start|>user", "<|start|>functions."
ROWS = 300


def constant(
    answer: str = ANSWER, context: int = 4096, step_seconds: float = 0
) -> Runtime:
    """Return a runtime that says `answer` after any prompt.

    Behind what it did not say itself, as a header that was forced on it, it would
    rather end than anything else.
    """
    script = token_ids(answer, byte_tokenizer())
    return answering_by(lambda _: script, context, step_seconds)


def obliging(context: int = 4096, *, once: bool = False) -> Runtime:
    """Return a runtime that calls the first tool it is offered, or says `ANSWER`.

    With `once` it says `ANSWER` also when the last message but its own is a result.
    """
    tokenizer = byte_tokenizer()

    def script_for(ids: Sequence[int]) -> list[int]:
        prompt = tokenizer.decode(list(ids))
        tool = FIRST_TOOL.search(prompt)
        has_result = RESULT in prompt[prompt.rfind(QUESTION) :]
        if tool is None or (once and has_result):
            return token_ids(ANSWER, tokenizer)
        name, argument = tool.groups()
        return token_ids(CALL.format(name, f'"{argument}":"Paris"'), tokenizer)

    return answering_by(script_for, context)


def answering_by(
    script_for: Callable[[Sequence[int]], list[int]],
    context: int,
    step_seconds: float = 0,
) -> Runtime:
    """Return a runtime that says what `script_for` returns for what it has read."""
    tokenizer = byte_tokenizer()
    turn = token_ids(TURN, tokenizer)
    ends = [tokenizer.special(name) for name in ("<|return|>", "<|call|>", "<|end|>")]

    def logits_of(ids: Sequence[int]) -> list[float]:
        time.sleep(step_seconds)
        script = script_for(ids)
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
        after = begin + len(turn)
        if [*ids[begin:after]] == [*turn] and [*ids[after:]] == [*script[:said]]:
            return said
    return None
