"""Ask the bundled demo model; name `openai/gpt-oss-20b` to ask the real one."""

from mlx_gptoss import Answer, Chat, SamplingParams, load

with load("demo") as runtime:
    greedy = SamplingParams(temperature=0)
    chat = Chat(runtime, date="2026-11-22", params=greedy)
    for event in chat.send("What is 417 + 285?"):
        if isinstance(event, Answer):
            print(event.text, end="", flush=True)
print()
