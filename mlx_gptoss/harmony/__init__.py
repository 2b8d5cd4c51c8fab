"""Harmony, the conversation format of gpt-oss: rendering, parsing, constraints.

Token ids in and out, over any tokenizer that knows the special tokens by name. Knows
nothing of models and does not import MLX.

    from mlx_gptoss.harmony import messages as m
    from mlx_gptoss.harmony.parse.parser import Parser
    from mlx_gptoss.harmony.render.prompt import render_messages

    history = [m.system("low", conversation_date="2026-11-22"), m.user("Hello")]
    ids = render_messages(history, tokenizer)        # ends with <|start|>assistant
    parser = Parser(tokenizer, tools=["get_weather"])
    for token in sampled:
        for event in parser.feed(token):             # Reasoning, Answer, ToolCall, ...
            ...
    parser.finish()
    history += parser.messages

README.md in this folder describes how prompts are written, what the parser repairs,
and where both deliberately differ from OpenAI's library.
"""
