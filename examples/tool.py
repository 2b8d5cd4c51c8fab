"""Give the model a Python function; it is called, and its result is answered from."""

from mlx_gptoss import Chat, SamplingParams, load


def get_weather(city: str) -> dict[str, str | int]:
    """Get the weather for a city."""
    return {"temperature": 21, "condition": f"sunny in {city}"}


with load("demo") as runtime:
    greedy = SamplingParams(temperature=0)
    chat = Chat(runtime, effort="low", tools=[get_weather], params=greedy)
    for event in chat.send("What is the weather in Oslo?"):
        print(event)
