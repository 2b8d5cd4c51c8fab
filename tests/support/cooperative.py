"""A scripted model that does what suites and programs ask for, where that is plain.

    with prompted(cooperate, context=131_072) as runtime: ...

It calls the tool that a question names, else the first one, until the question has a
result; ends an agent that ends by a tool; gives JSON of a schema; recalls a name.
"""

import json
import re
from typing import Any

from tests.support.answering_app import CALL, QUESTION, RESULT

ENDS = "final_answer"  # the tool by which agents of smolagents end
TEMPERATURE = "-17 degrees"  # what a tool of a test returns, in whatever form
SAID = "It has -17 degrees."
SCHEMA = re.compile(r"# Response Formats\n\n## \w+\n\n(\{.*\})<\|end\|>")
TOOL = re.compile(r"type (\w+) = \(_: \{\n(.*?)\n\}\) => any;", re.S)
FIELD = re.compile(r"^(\w+)\??: (.+?),?$", re.M)
EXACTLY = re.compile(r"exactly: *\n?(.+)")
NAME = re.compile(r"My name is (\w+)")
PERSON = '{"name": "Ada", "age": 36}'
OF_TYPES = {"number": 4, "boolean": True}


def cooperate(prompt: str) -> str:
    """Return Harmony text that continues a prompt."""
    question = prompt[prompt.rfind(QUESTION) :]
    asked = question.partition("<|message|>")[2].partition("<|end|>")[0]
    tools: dict[str, str] = dict(TOOL.findall(prompt))
    if TEMPERATURE in question and RESULT + ENDS not in question:
        if ENDS in tools:
            return called(ENDS, {"answer": SAID})
        return answered(SAID)
    if tools and RESULT not in question:
        return call_for(asked, tools)
    if schema := SCHEMA.search(prompt):
        return answered(json.dumps(instance_of(json.loads(schema[1]))))
    return answered(text_for(prompt, asked), think="Hm.")


def answered(text: str, think: str = "") -> str:
    before = f"<|channel|>analysis<|message|>{think}<|end|><|start|>assistant"
    return f"{before if think else ''}<|channel|>final<|message|>{text}<|return|>"


def called(tool: str, arguments: dict[str, Any]) -> str:
    return CALL.format(tool, json.dumps(arguments)[1:-1])


def text_for(prompt: str, asked: str) -> str:
    if "JSON object" in asked:
        return PERSON
    if "is my name" in asked and (name := NAME.search(prompt)):
        return name[1]
    exact = EXACTLY.search(asked)
    return exact[1] if exact else "Yes, it is."


def call_for(asked: str, tools: dict[str, str]) -> str:
    """Call the tool with a word of its name in the question, with all its arguments."""
    words = {name: name.replace("get_", "").split("_") for name in tools}
    fits = [name for name in tools if any(word in asked for word in words[name])]
    tool = [*fits, *tools][0]
    fields = dict(FIELD.findall(tools[tool]))
    arguments = {name: argument(kind) for name, kind in fields.items()}
    if "content" in arguments and (exact := EXACTLY.search(asked)):
        arguments["content"] = exact[1]
    return called(tool, arguments)


def argument(kind: str) -> Any:
    """Return a value of a type of TypeScript, as tools are declared with."""
    literal = re.match(r'"[^"]*"', kind)
    return json.loads(literal[0]) if literal else OF_TYPES.get(kind, "Paris")


def instance_of(schema: dict[str, Any]) -> Any:
    """Return a value of a schema of objects, enums, texts and numbers."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: instance_of(one) for name, one in schema["properties"].items()}
    return {"string": "Ada", "integer": 36, "number": 36.5}[schema["type"]]
