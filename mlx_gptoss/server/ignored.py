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
    "max_tool_calls",
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
    "reasoning.context",
    "repeat_penalty",
    "repetition_penalty",
    "safety_identifier",
    "service_tier",
    "speed",
    "store",
    "stream_options",
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
    "code_execution",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "custom",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "memory",
    "namespace",
    "shell",
    "text_editor",
    "tool_search",
    "web_fetch",
    "web_search",
    "web_search_preview",
}


# Items of an input that belong to such tools, or to other providers; parts of a
# content of which the model is told only that they were there.
ITEMS = {
    "apply_patch_call",
    "apply_patch_call_output",
    "audio",
    "code_interpreter_call",
    "compaction",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "configuration_update",
    "context_compaction",
    "document",
    "file",
    "file_search_call",
    "ghost_snapshot",
    "image",
    "image_generation_call",
    "image_url",
    "input_audio",
    "input_file",
    "input_image",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "video_url",
    "web_search_call",
    # Blocks of Anthropic's
    "bash_code_execution_tool_result",
    "code_execution_tool_result",
    "container_upload",
    "mcp_tool_result",
    "mcp_tool_use",
    "server_tool_use",
    "text_editor_code_execution_tool_result",
    "tool_reference",
    "tool_search_tool_result",
    "web_fetch_tool_result",
    "web_search_tool_result",
}


def ignored(
    fields: Iterable[str] = (), tools: Iterable[str] = (), items: Iterable[str] = ()
) -> dict[str, str]:
    """Return the header that says what was passed over; {} if nothing was.

    x-mlx-gptoss-ignored: fields=store,user; tools=web_search; unknown=1
    """
    parts, unknown = [], 0
    for word, names, known in (
        ("fields", fields, FIELDS),
        ("tools", tools, TOOLS),
        ("items", items, ITEMS),
    ):
        given = list(names)
        unknown += sum(name not in known for name in given)
        if shown := sorted(known & set(given)):
            parts.append(f"{word}={','.join(shown)}")
    if unknown:
        parts.append(f"unknown={unknown}")
    return {HEADER: "; ".join(parts)} if parts else {}
