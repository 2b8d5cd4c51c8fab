"""Write the text of system and developer messages, in the order of the training."""

from collections.abc import Iterable

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.messages import (
    FUNCTIONS,
    DeveloperContent,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)
from mlx_gptoss.harmony.render.typescript import typescript

CHANNEL_REQUIRED = "Channel must be included for every message."
FUNCTIONS_LINE = "Calls to these tools must go to the commentary channel: 'functions'."
SECTION_GAP = "\n\n"


def system_text(content: SystemContent, *, has_function_tools: bool = False) -> str:
    """Write the system message: identity, dates, effort, tools, channels."""
    top = []
    if content.identity is not None:
        top.append(content.identity)
    if content.knowledge_cutoff is not None:
        top.append(f"Knowledge cutoff: {content.knowledge_cutoff}")
    if content.conversation_date is not None:
        top.append(f"Current date: {content.conversation_date}")
    sections = ["\n".join(top)] if top else []
    if content.effort is not None:
        sections.append(f"Reasoning: {content.effort}")
    if content.namespaces:
        sections.append(tools_section(content.namespaces))
    if content.channels:
        line = f"# Valid channels: {', '.join(content.channels)}. {CHANNEL_REQUIRED}"
        sections.append(f"{line}\n{FUNCTIONS_LINE}" if has_function_tools else line)
    return SECTION_GAP.join(sections)


def developer_text(content: DeveloperContent) -> str:
    """Write the developer message: instructions, tools, response formats."""
    sections = []
    if content.instructions is not None:
        sections += ["# Instructions", content.instructions]
    namespaces = list(content.namespaces)
    if content.tools:
        namespaces.append(ToolNamespace(FUNCTIONS, None, content.tools))
    if namespaces:
        sections.append(tools_section(namespaces))
    if content.response_formats:
        sections.append(_formats_section(content.response_formats))
    return SECTION_GAP.join(sections)


def tools_section(namespaces: Iterable[ToolNamespace]) -> str:
    """Write `# Tools` with the namespaces sorted by name."""
    ordered = sorted(namespaces, key=lambda namespace: namespace.name)
    return SECTION_GAP.join(["# Tools", *map(_namespace, ordered)])


def _namespace(namespace: ToolNamespace) -> str:
    lines = [f"## {namespace.name}\n"]
    mark = "// " if namespace.tools else ""
    lines += [mark + line for line in text_lines(namespace.description or "")]
    if namespace.tools:
        _check_unique_names(namespace)
        lines.append(f"namespace {namespace.name} {{\n")
        lines += [line for tool in namespace.tools for line in _tool(tool)]
        lines.append(f"}} // namespace {namespace.name}")
    return "\n".join(lines)


def _tool(tool: ToolDescription) -> list[str]:
    arguments = ""
    if tool.parameters is not None:
        arguments = f"_: {typescript(tool.parameters)}"
    comments = [f"// {line}" for line in text_lines(tool.description)]
    return [*comments, f"type {tool.wire_name} = ({arguments}) => any;\n"]


def _check_unique_names(namespace: ToolNamespace) -> None:
    names = [tool.wire_name for tool in namespace.tools]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise PromptError(f"two tools are named `{doubles[0]}`: rename one")


def _formats_section(formats: Iterable[ResponseFormat]) -> str:
    sections = ["# Response Formats"]
    for one in formats:
        sections.append(f"## {one.name}")
        comments = [f"// {line}\n" for line in text_lines(one.description)]
        sections.append("".join(comments) + json_text(one.schema))
    return SECTION_GAP.join(sections)


def text_lines(text: str) -> list[str]:
    """Split at `\n` or `\r\n` only, without an empty last line."""
    lines = text.split("\n")
    last = lines.pop()
    return [line.removesuffix("\r") for line in lines] + ([last] if last else [])
