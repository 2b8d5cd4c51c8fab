"""Harmony, the conversation format of gpt-oss: render, parse, events.

Token ids in and out, over any tokenizer that knows the special tokens by name;
knows nothing of models, and does not import MLX.

    from mlx_gptoss.harmony import messages as m
    from mlx_gptoss.harmony.parse import Parser
    from mlx_gptoss.harmony.render import render_messages

    history = [m.system("low", conversation_date="2026-11-22"), m.user("Hello")]
    ids = render_messages(history, tokenizer)        # ends with <|start|>assistant
    parser = Parser(tokenizer, tools=["get_weather"])
    for token in sampled:
        for event in parser.feed(token):             # Reasoning, Answer, ToolCall, ...
            ...
    parser.finish()
    history += parser.messages

Where we differ from OpenAI's library on purpose (everything else is identical, id
by id; tests/test_harmony_*.py hold these rows as data):

| subject | openai-harmony | here |
|---|---|---|
| analysis in history | dropped before the first final only | before the last final |
| analysis for training | dropped | kept; `drop_analysis` does it on request |
| schema: `$ref`, `anyOf`, `allOf` | `any` | resolved; unions, merged objects |
| schema: `const` | its type, or `any` | the literal |
| tool and author names | as given | space, `<`, `>`, `|` become `_` |
| response formats | not there | written behind the tools |
| half a surrogate pair | an error | U+FFFD |
| long floats in a schema | may be off in the last digit | exact |
| recipient of commentary | role part; oss-harmony: behind the channel | role part |
| content type `json` | as given; oss-harmony: constrained | as given |
| malformed streams | an error, or misread | repaired (tests/golden/malformed) |
| run-on or cut channel name | kept as it is | snapped to the known channel |
| bare word in a header | the recipient | a content type, or ignored |
| `to=assistant`, `to=user`, `to=all` of the assistant | a recipient | ignored |
| `<|start|>`, `<|channel|>`, `<|endoftext|>` in text | text | the message ends |
| call on analysis, no JSON object | a recipient | analysis, or a failed call |
| arguments in a list of one, or with stray brackets | as they are | the object |

oss-harmony 0.0.11, which the tests use, is a fork of openai-harmony 0.0.8 (both give
what we give where the rows above do not say otherwise); `recipient_in="channel"`
renders the fork's form, which is also what the model itself writes.
"""
