"""Ask the bundled demo model; name `openai/gpt-oss-20b` to ask the real one."""

from mlx_gptoss import Answer, Chat, SamplingParams, load

with load("demo") as runtime:
    chat = Chat(runtime, params=SamplingParams(temperature=0))
    for event in chat.send("What is 417 + 285?"):
        if isinstance(event, Answer):
            print(event.text, end="", flush=True)
print()
