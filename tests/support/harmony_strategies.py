"""Random Harmony material for hypothesis: texts, schemas, tools, conversations.

`schemas` stays within what openai-harmony can express; `oracle_message` turns our
message into the library's.
"""

from collections.abc import Mapping
from typing import Any

import openai_harmony
from hypothesis import strategies as st

from mlx_gptoss.harmony.built_in_tools import BROWSER, PYTHON
from mlx_gptoss.harmony.messages import (
    CHANNELS,
    CONSTRAINED_JSON,
    EFFORTS,
    DeveloperContent,
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)

AWKWARD = [
    "<|end|>",
    "<|start|>assistant<|channel|>final<|message|>",
    "<|call|>",
    "a\r\nb\n\nc\r",
    "naïve 日本語 🙂 é",
    "  spaces  ",
    '"quoted" \\ back',
    "null",
    "# Instructions",
]
# No surrogates: the library's JSON cannot hold them (tested on their own).
texts = st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
) | st.sampled_from(AWKWARD)
names = st.text("abcXYZ_019", min_size=1, max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-(10**6), 10**6).map(lambda n: n / 1000)  # long ones it misreads
    | st.sampled_from([0.00001, 1.5e-07, 123456.789])
    | texts
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=4,
)
comments = st.fixed_dictionaries(
    {},
    optional={
        "title": texts,
        "description": texts,
        "examples": st.lists(texts | st.integers(), max_size=3),
        "default": values,
        "nullable": st.booleans(),
        "additionalProperties": st.booleans(),
        "minimum": st.integers(),
    },
)
plain_types = st.sampled_from(["string", "number", "integer", "boolean", "null", "odd"])
type_lists = st.lists(plain_types, min_size=1, max_size=3)
leaves = st.fixed_dictionaries(
    {}, optional={"type": plain_types | type_lists, "enum": st.lists(texts, max_size=3)}
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(names | texts, inner, max_size=3)
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={"properties": properties, "required": st.lists(names, max_size=3)},
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")}, optional={"items": inner}
    )
    unions = st.fixed_dictionaries({"oneOf": st.lists(inner, max_size=3)})
    return commented(objects | arrays | unions)


def commented(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda schema, extra: {**extra, **schema}, schemas, comments)


schemas = st.recursive(commented(leaves), _nested, max_leaves=6)
tools = st.builds(ToolDescription, names, texts, st.none() | schemas)
tool_lists = st.lists(tools, max_size=3, unique_by=lambda tool: tool.name).map(tuple)
namespaces = st.builds(ToolNamespace, names, st.none() | texts, tool_lists)
system_contents = st.builds(
    SystemContent,
    identity=st.none() | texts,
    knowledge_cutoff=st.none() | texts,
    conversation_date=st.none() | texts,
    effort=st.none() | st.sampled_from(EFFORTS),
    namespaces=st.sampled_from([(), (BROWSER,), (PYTHON,), (PYTHON, BROWSER)]),
    channels=st.sampled_from([CHANNELS, (), ("final",)]),
)
developer_contents = st.builds(
    DeveloperContent,
    instructions=st.none() | texts,
    tools=tool_lists,
    namespaces=st.lists(namespaces, max_size=1).map(tuple),
)
headers = {
    "channel": st.none() | st.sampled_from(CHANNELS) | names,
    "recipient": st.none() | st.just("all") | names.map("functions.".__add__),
    "content_type": st.sampled_from([None, CONSTRAINED_JSON, "<|constrain|>code"]),
}
messages = st.one_of(
    st.builds(Message, st.just("system"), system_contents),
    st.builds(Message, st.just("developer"), developer_contents | texts),
    st.builds(Message, st.just("user"), texts, name=st.none() | names),
    st.builds(Message, st.just("assistant"), texts, **headers),
    st.builds(Message, st.just("tool"), texts, name=names, **headers),
)
conversations = st.lists(messages, max_size=6)


def oracle_conversation(given: list[Message]) -> openai_harmony.Conversation:
    return openai_harmony.Conversation.from_messages(list(map(oracle_message, given)))


def oracle_message(message: Message) -> openai_harmony.Message:
    author = openai_harmony.Author(
        role=openai_harmony.Role(message.role), name=message.name
    )
    out = openai_harmony.Message.from_author_and_content(author, _content(message))
    out.channel = message.channel
    out.recipient = message.recipient
    out.content_type = message.content_type
    return out


def _content(message: Message) -> Any:
    content = message.content
    if isinstance(content, str):
        return content
    if isinstance(content, DeveloperContent):
        functions = ToolNamespace("functions", None, content.tools)
        spaces = (*content.namespaces, *([functions] if content.tools else []))
        return openai_harmony.DeveloperContent(
            instructions=content.instructions, tools=_namespaces(spaces)
        )
    effort = content.effort
    return openai_harmony.SystemContent(
        model_identity=content.identity,
        reasoning_effort=effort and openai_harmony.ReasoningEffort(effort.capitalize()),
        conversation_start_date=content.conversation_date,
        knowledge_cutoff=content.knowledge_cutoff,
        channel_config=openai_harmony.ChannelConfig.require_channels(
            list(content.channels)
        ),
        tools=_namespaces(content.namespaces),
    )


def _namespaces(given: tuple[ToolNamespace, ...]) -> dict[str, Any]:
    return {one.name: _namespace(one) for one in given}


def _namespace(one: ToolNamespace) -> openai_harmony.ToolNamespaceConfig:
    return openai_harmony.ToolNamespaceConfig(
        name=one.name,
        description=one.description,
        tools=[
            openai_harmony.ToolDescription.new(
                tool.name, tool.description, _schema(tool.parameters)
            )
            for tool in one.tools
        ],
    )


def _schema(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if schema is None else dict(schema)
