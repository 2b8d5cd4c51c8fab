"""Describe one tool to the model: a function, a custom tool, or the tool search.

A `custom` tool such as `apply_patch` is called with plain text. Its grammar constrains
sampling if it can be enforced; the model reads it in any case.
"""

from collections.abc import Mapping
from dataclasses import replace

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.responses.tool_names import SEARCH
from mlx_gptoss.api.responses.wire import ResponsesTool
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.harmony.constrain.worker import can_enforce
from mlx_gptoss.harmony.json_text import Json
from mlx_gptoss.harmony.messages import TextGrammar, ToolDescription, text_tool
from mlx_gptoss.harmony.openai_chat import read_tool

GRAMMAR_SYNTAXES = ("lark", "regex")
SEARCH_PARAMETERS = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
    "required": ["query"],
}


def read_function(tool: ResponsesTool, path: str) -> ToolDescription:
    return read_tool(tool.model_dump(), path)


def read_search(tool: ResponsesTool) -> ToolDescription:
    """Describe the tool that finds others: to the model, it is a function."""
    return ToolDescription(
        SEARCH, tool.description or "", tool.parameters or SEARCH_PARAMETERS
    )


def read_custom(
    tool: ResponsesTool, path: str, limits: RequestLimits
) -> ToolDescription:
    """Describe a tool that takes plain text, and its grammar if it has one."""
    assert tool.name
    description = text_tool(tool.name, tool.description or "")
    grammar = _read_grammar(tool.format or {}, path)
    if grammar is None:
        return description
    if len(grammar.source) > limits.schema_bytes:
        raise bad_request(
            f"the grammar of `{path}` has {len(grammar.source)} characters: this "
            f"server takes {limits.schema_bytes} at most",
            param=f"{path}.format",
        )
    intro = f"The input is plain text, not JSON, of this {grammar.kind} grammar:\n"
    text = "\n\n".join(filter(None, [description.description, intro + grammar.source]))
    enforced = grammar if can_enforce(grammar.kind, grammar.source) else None
    return replace(description, description=text, grammar=enforced)


def _read_grammar(text_format: Json, path: str) -> TextGrammar | None:
    if text_format.get("type", "text") == "text":
        return None
    nested = text_format.get("grammar")
    fields = nested if isinstance(nested, Mapping) else text_format
    syntax, source = fields.get("syntax"), fields.get("definition")
    if (
        text_format["type"] != "grammar"
        or syntax not in GRAMMAR_SYNTAXES
        or type(source) is not str
    ):
        raise bad_request(
            f"`{path}.format` is `text`, or `grammar` with a `definition` and the "
            "`syntax` lark or regex",
            param=f"{path}.format",
        )
    return TextGrammar(syntax, source)
