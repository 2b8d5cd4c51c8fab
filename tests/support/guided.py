"""Scripted models and a guide factory for tests of constrained generation."""

from collections.abc import Sequence

from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.tool_constraints import (
    ToolConstraint,
    function_constraints,
)
from mlx_gptoss.harmony.messages import ToolDescription
from tests.support.fakes import SURE, FakeModel, byte_tokenizer, token_ids
from tests.support.generate import generate

TOKENIZER = byte_tokenizer()
GUIDES = GuideFactory(TOKENIZER)
ROWS = 300
PROMPT = [1, 2, 3]
GREEDY = SamplingParams(temperature=0, max_tokens=400)
WEATHER = ToolDescription(
    "get_weather",
    parameters={
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)
TIME = ToolDescription("get_time")
TARGETS = function_constraints([WEATHER, TIME])
NOTE = ToolDescription(
    "note", parameters={"type": "object", "additionalProperties": True}
)
THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
ANSWER = "<|channel|>final<|message|>Yes.<|return|>"
CALL = (
    '<|channel|>commentary to=functions.get_weather<|message|>{"city":"Oslo"}<|call|>'
)


def model_that_prefers(text: str, then: str = "x") -> FakeModel:
    """A model that prefers to generate `text`, and then `then` repeatedly.

    While the preferred token is masked, it generates the highest legal id, which ends
    a message.
    """
    script = token_ids(text, TOKENIZER)
    rest = token_ids(then, TOKENIZER)

    def logits_of(ids: list[int]) -> list[float]:
        answer, at = ids[len(PROMPT) :], 0
        for token in answer:
            at += at < len(script) and token == script[at]
        past = len(answer) - len(script)
        preferred = script[at] if at < len(script) else rest[past % len(rest)]
        return [SURE if token == preferred else token / ROWS for token in range(ROWS)]

    return FakeModel(logits_of)


def generate_text(
    model: FakeModel,
    constraints: Constraints | None = None,
    targets: Sequence[ToolConstraint] = TARGETS,
    params: SamplingParams = GREEDY,
) -> tuple[str, Statistics]:
    """Generate under constraints; return the text and the statistics."""
    guide = GUIDES.create(constraints or Constraints(), targets)
    stream = generate(model, PROMPT, params, guide=guide)
    text = TOKENIZER.decode([step.token for step in stream])
    return text, stream.stats
