"""Many turns of a model, constrained and not, and how many of them are malformed."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import jsonschema

from mlx_gptoss.engine.outputs import Statistics, Step
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.constrain.constraints import Constraints
from mlx_gptoss.harmony.constrain.tool_constraints import (
    close_schema,
    function_constraints,
)
from mlx_gptoss.harmony.events import ToolCall
from mlx_gptoss.harmony.messages import ToolDescription, developer, system, user
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.strict_harmony import faults

FREE = Constraints(enforce="off")
AT_ONCE = 8  # in one batch
SOME_TOOLS = (
    ToolDescription("get_time", "Tells the time."),
    ToolDescription(
        "get_weather",
        "Tells the weather.",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["city"],
        },
    ),
    ToolDescription(
        "plot",
        "Draws.",
        {
            "type": "object",
            "properties": {
                "points": {
                    "type": "array",
                    "items": {"$ref": "#/$defs/point"},
                    "maxItems": 3,
                },
                "title": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "style": {
                    "type": "object",
                    "properties": {"wide": {"type": "boolean"}},
                    "additionalProperties": {"type": "number"},
                },
            },
            "required": ["points", "title"],
            "$defs": {
                "point": {
                    "type": "array",
                    "items": {"type": "number", "minimum": -1e3, "maximum": 1e3},
                    "minItems": 2,
                    "maxItems": 2,
                }
            },
        },
    ),
)


@dataclass
class Count:
    """What came of some turns."""

    turns: int = 0
    malformed: int = 0
    calls: int = 0  # that were finished
    invalid_calls: int = 0
    cut_off: int = 0
    faults: list[str] = field(default_factory=list)


def count_turns(
    runtime: Runtime,
    questions: Iterator[str],
    turns: int,
    *,
    constraints: Constraints,
    params: SamplingParams,
    tools: tuple[ToolDescription, ...],
) -> Count:
    """Let the model answer `turns` questions, some at once, each with its own seed."""
    opening = [system("low", conversation_date="2026-11-22")]
    if tools:
        opening.append(developer(tools=tools))
    room, found = threading.Semaphore(AT_ONCE), Count()
    said: list[list[Step]] = [[] for _ in range(turns)]
    errors: list[BaseException] = []

    def end(stats: Statistics | None, error: BaseException | None) -> None:
        errors.extend([error] if error else [])
        room.release()

    for seed, steps in enumerate(said):
        prompt = [*opening, user(next(questions))]
        room.acquire()
        runtime.submit(
            render_messages(prompt, runtime.tokenizer),
            replace(params, seed=seed),
            guide=runtime.guides.create(constraints, function_constraints(tools)),
            on_step=steps.append,
            on_end=end,
        )
    for _ in range(AT_ONCE):
        room.acquire()
    assert not errors, errors
    for steps in said:
        tokens = [step.token for step in steps]
        cut_off = steps[-1].finish_reason == "length"
        add_turn(found, runtime, tokens, cut_off, tools)
    return found


def add_turn(
    found: Count,
    runtime: Runtime,
    said: list[int],
    cut_off: bool,
    tools: tuple[ToolDescription, ...],
) -> None:
    names = [tool.wire_name for tool in tools]
    wrong = faults(said, runtime.tokenizer, tools=names, cut_off=cut_off)
    found.turns += 1
    found.cut_off += cut_off
    found.malformed += bool(wrong)
    found.faults += [f"{fault}: {runtime.tokenizer.decode(said)!r}" for fault in wrong]
    schemas = {tool.name: close_schema(tool.parameters) for tool in tools}
    parser = Parser(runtime.tokenizer, tools=tools)
    events = [event for token in said for event in parser.feed(token)]
    for call in [event for event in events if isinstance(event, ToolCall)]:
        found.calls += 1
        judge = jsonschema.Draft202012Validator(schemas[call.name])
        found.invalid_calls += not judge.is_valid(json.loads(call.arguments))
