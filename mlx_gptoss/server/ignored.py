"""What a request asks for and does not get, named in a header of the reply.

Only names from the lists here are written: what a client sent is never echoed, so
that nothing can be smuggled into a header or a log. Others are counted.
"""

from collections.abc import Iterable, Mapping, Sequence

from mlx_gptoss.server.spellings import PATHS

HEADER = "x-mlx-gptoss-ignored"
MOST_KEYWORDS = 16  # of schemas that are named

# Fields of OpenAI's and Anthropic's APIs, and of common servers, without effect here.
FIELDS = {
    "adaptive_decay",
    "adaptive_target",
    "add_special_tokens",
    "allowed_token_ids",
    "audio",
    "backend_sampling",
    "background",
    "bad_words",
    "best_of",
    "betas",
    "cache_control",
    "cache_prompt",
    "cache_salt",
    "chat_format",
    "chat_template",
    "chat_template_kwargs",
    "chat_template_kwargs.builtin_tools",
    "chat_template_kwargs.clear_thinking",
    "chat_template_kwargs.model_identity",
    "chat_template_kwargs.preserve_thinking",
    "client_metadata",
    "container",
    "context_management",
    "conversation",
    "custom_logit_processor",
    "custom_params",
    "documents",
    "draft_model",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "echo",
    "frequency_penalty",
    "function_call",
    "functions",
    "grammar_lazy",
    "grammar_triggers",
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "id_slot",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "keep_alive",
    "kv_transfer_params",
    "length_penalty",
    "logits_processors",
    "logprobs",
    "lora",
    "lora_path",
    "max_tool_calls",
    "mcp_servers",
    "metadata",
    "min_keep",
    "min_tokens",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "mm_processor_kwargs",
    "modalities",
    "models",
    "moderation",
    "n",
    "n_cache_reuse",
    "n_discard",
    "n_indent",
    "n_keep",
    "n_probs",
    "no_stop_trim",
    "num_ctx",
    "options",
    "options.frequency_penalty",
    "options.mirostat",
    "options.mirostat_eta",
    "options.mirostat_tau",
    "options.num_batch",
    "options.num_ctx",
    "options.num_gpu",
    "options.num_keep",
    "options.num_thread",
    "options.presence_penalty",
    "options.repeat_last_n",
    "options.repeat_penalty",
    "options.tfs_z",
    "options.typical_p",
    "parse_tool_calls",
    "plugins",
    "post_sampling_probs",
    "prediction",
    "presence_penalty",
    "priority",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "prompt_logprobs",
    "provider",
    "reasoning.context",
    "raw",
    "reasoning",
    "reasoning.exclude",
    "reasoning.generate_summary",
    "reasoning.summary",
    "reasoning_budget_message",
    "reasoning_control",
    "repeat_last_n",
    "repeat_penalty",
    "repetition_detection",
    "repetition_penalty",
    "request_id",
    "response_fields",
    "return_cached_tokens_details",
    "return_hidden_states",
    "return_progress",
    "return_prompt_text",
    "return_prompt_token_ids",
    "return_token_ids",
    "return_tokens",
    "return_tokens_as_token_ids",
    "rid",
    "route",
    "safety_identifier",
    "samplers",
    "separate_reasoning",
    "service_tier",
    "session_id",
    "session_params",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "speculative.n_max",
    "speculative.n_min",
    "speculative.p_min",
    "speed",
    "stop_regex",
    "stop_token_ids",
    "store",
    "stream_interval",
    "stream_obfuscation",
    "stream_options",
    "stream_options.continuous_usage_stats",
    "stream_options.include_obfuscation",
    "stream_reasoning",
    "structured_outputs",
    "structured_outputs.disable_additional_properties",
    "structured_outputs.disable_any_whitespace",
    "structured_outputs.whitespace_pattern",
    "system",
    "t_max_predict_ms",
    "t_max_prompt_ms",
    "template",
    "tfs_z",
    "thinking_forced_open",
    "timings_per_token",
    "tool_resources",
    "top_a",
    "top_logprobs",
    "top_n_sigma",
    "transforms",
    "truncate_prompt_tokens",
    "truncation",
    "truncation_side",
    "ttl",
    "typical_p",
    "usage",
    "use_beam_search",
    "user",
    "verbosity",
    "vllm_xargs",
    "web_search_options",
    "xtc_probability",
    "xtc_threshold",
} | {part for path in PATHS for part in (path, path.split(".")[0])}
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


def with_freed(
    headers: Mapping[str, str] | None, freed: Sequence[str]
) -> dict[str, str]:
    """Return the headers, and in theirs the keywords of schemas that bind nothing.

    x-mlx-gptoss-ignored: schemas=functions[1].pattern,response_format.not
    """
    found = dict(headers or {})
    if freed:
        more = len(freed) - MOST_KEYWORDS
        shown = [*freed[:MOST_KEYWORDS], *([f"{more} more"] if more > 0 else [])]
        parts = [found[HEADER]] if HEADER in found else []
        found[HEADER] = "; ".join([*parts, f"schemas={','.join(shown)}"])
    return found
