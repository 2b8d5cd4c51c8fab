"""Give the model a Python function: it is called, and the answer uses its result."""

from mlx_gptoss import Answer, Chat, SamplingParams, ToolCall, load


def get_weather(city: str) -> dict[str, int]:
    """Gets the weather for a city."""
    return {"temperature": 21}


with load("demo") as runtime:
    greedy = SamplingParams(temperature=0)
    chat = Chat(runtime, tools=[get_weather], date="2026-11-22", params=greedy)
    for event in chat.send("What is the weather in Oslo?"):
        if isinstance(event, ToolCall):
            print(event.name, event.arguments)
        elif isinstance(event, Answer):
            print(event.text, end="", flush=True)
print()
