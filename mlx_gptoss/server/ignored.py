"""What a request asks for and does not get, named in a header of the reply.

Only names from the lists here are written: what a client sent is never echoed, so
that nothing can be smuggled into a header or a log. Others are counted.
"""

from collections.abc import Iterable

HEADER = "x-mlx-gptoss-ignored"

# Fields of OpenAI's and Anthropic's APIs, and of common servers, without effect here.
FIELDS = {
    "audio",
    "background",
    "betas",
    "cache_control",
    "client_metadata",
    "container",
    "context_management",
    "conversation",
    "enable_thinking",
    "frequency_penalty",
    "function_call",
    "functions",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "keep_alive",
    "mcp_servers",
    "metadata",
    "mirostat",
    "modalities",
    "moderation",
    "num_ctx",
    "options",
    "output_config",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "provider",
    "repeat_penalty",
    "repetition_penalty",
    "safety_identifier",
    "service_tier",
    "speed",
    "store",
    "stream_obfuscation",
    "thinking",
    "tool_resources",
    "top_a",
    "transforms",
    "truncation",
    "typical_p",
    "user",
    "verbosity",
    "web_search_options",
}
# Tools that a provider would run itself, or that only Responses know.
TOOLS = {
    "apply_patch",
    "bash",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "custom",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "namespace",
    "shell",
    "text_editor",
    "tool_search",
    "web_fetch",
    "web_search",
    "web_search_preview",
}


def ignored(fields: Iterable[str] = (), tools: Iterable[str] = ()) -> dict[str, str]:
    """Return the header that says what was passed over; {} if nothing was.

    x-mlx-gptoss-ignored: fields=store,user; tools=web_search; unknown=1
    """
    fields, tools = list(fields), list(tools)
    parts = []
    for word, given, known in (("fields", fields, FIELDS), ("tools", tools, TOOLS)):
        if names := sorted(known & set(given)):
            parts.append(f"{word}={','.join(names)}")
    unknown = sum(name not in FIELDS for name in fields)
    unknown += sum(name not in TOOLS for name in tools)
    if unknown:
        parts.append(f"unknown={unknown}")
    return {HEADER: "; ".join(parts)} if parts else {}
