"""One tool of a response: a function, one that takes plain text, or the search.

A `custom` tool such as `apply_patch` is called with text. Its grammar binds what is
sampled where it can be enforced; the model reads it in any case.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.responses.tool_names import SEARCH
from mlx_gptoss.api.responses.wire import ResponsesTool
from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.harmony.constrain.worker import can_enforce
from mlx_gptoss.harmony.messages import TextGrammar, ToolDescription, text_tool
from mlx_gptoss.harmony.openai_chat import read_tool

GRAMMAR_SYNTAXES = ("lark", "regex")
SEARCH_PARAMETERS = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
    "required": ["query"],
}


def read_function(tool: ResponsesTool, where: str) -> ToolDescription:
    """Read a function."""
    return read_tool(tool.model_dump(), where)


def read_search(tool: ResponsesTool) -> ToolDescription:
    """Read the tool that finds others: to the model, a function as any other."""
    return ToolDescription(
        SEARCH, tool.description or "", tool.parameters or SEARCH_PARAMETERS
    )


def read_custom(
    tool: ResponsesTool, where: str, limits: RequestLimits
) -> ToolDescription:
    """Read a tool that takes plain text, with the grammar of it if there is one."""
    assert tool.name
    description = text_tool(tool.name, tool.description or "")
    grammar = _grammar(tool.format or {}, where)
    if grammar is None:
        return description
    if len(grammar.source) > limits.schema_bytes:
        raise bad_request(
            f"the grammar of `{where}` has {len(grammar.source)} characters: this "
            f"server takes {limits.schema_bytes} at most",
            param=f"{where}.format",
        )
    told = f"The input is plain text, not JSON, of this {grammar.kind} grammar:\n"
    text = "\n\n".join(filter(None, [description.description, told + grammar.source]))
    bound = grammar if can_enforce(grammar.kind, grammar.source) else None
    return replace(description, description=text, grammar=bound)


def _grammar(form: Mapping[str, Any], where: str) -> TextGrammar | None:
    if form.get("type", "text") == "text":
        return None
    nested = form.get("grammar")
    found = nested if isinstance(nested, Mapping) else form
    syntax, source = found.get("syntax"), found.get("definition")
    if (
        form["type"] != "grammar"
        or syntax not in GRAMMAR_SYNTAXES
        or type(source) is not str
    ):
        raise bad_request(
            f"`{where}.format` is `text`, or `grammar` with a `definition` and the "
            "`syntax` lark or regex",
            param=f"{where}.format",
        )
    return TextGrammar(syntax, source)
