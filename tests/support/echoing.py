"""A model that says each question back, so that many can be told apart.

    with echoing() as runtime:
        Chat(runtime, date="").ask("hi").answer      # "hi"

A question with Harmony's tokens is said as these tokens, for example a call
(`calling`); behind the results of tools the answer is `DONE`. The answer to `TALK` is
`LONG`.
"""

import time
from random import Random
from string import ascii_lowercase

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

DONE, TALK = "Done.", "talk"
LONG = "".join(Random(7).choices(ascii_lowercase, k=2000))  # without a loop
FINAL = "<|channel|>final<|message|>"
RESULT = as_characters(token_ids("to=assistant"))
TEXT, END = (as_characters(token_ids(name)) for name in ("<|message|>", "<|end|>"))


def calling(name: str, arguments: str = "{}") -> str:
    """Return a question that makes the model call a function."""
    header = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    return f"{header}{arguments}<|call|>"


def echoing(step_seconds: float = 0, context: int = 8192) -> Runtime:
    """Return the runtime; a token of each row takes `step_seconds`."""
    scripts: dict[str, list[int]] = {}

    def logits_of(ids: list[int]) -> list[float]:
        time.sleep(step_seconds)
        read = as_characters(ids)
        asked = read.rfind(QUESTION)
        result = read.rfind(RESULT, asked + 1)
        begin = read.find(TEXT, asked) + len(TEXT)
        question = DONE if result > asked else read[begin : read.find(END, begin)]
        opening = read.find(OPENING, max(asked, result))
        said = len(ids) - opening - len(OPENING) if opening >= 0 else -1
        if question not in scripts:
            scripts[question] = script_of(question)
        script = scripts[question]
        token = script[said] if 0 <= said < len(script) else script[-1]
        return [SURE if n == token else 0.0 for n in range(VOCABULARY)]

    model, cache = FakeModel(logits_of), CacheOptions(idle=False)
    return Runtime(model, tokenizer=TOKENIZER, context=context, cache=cache)


def script_of(question: str) -> list[int]:
    """Return what is said; `question` has a character for each token, or is DONE."""
    text = question if question == DONE else TOKENIZER.decode(list(map(ord, question)))
    text = LONG if text == TALK else text
    return token_ids(text if text.startswith("<|") else f"{FINAL}{text}<|return|>")
