"""Tools for the demo model, requests that need them, and their results."""

import json
from dataclasses import dataclass
from typing import Any

from examples.demo_model.words import ARGUMENTS, NOUNS, RESULT_KEYS, VERBS, Words

Value = str | int | float | bool
TYPES = ("string", "string", "string", "integer", "number", "boolean")
# name: (description, argument:type ..., ways to ask, their arguments in order)
KNOWN_TOOLS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "get_weather": (
        "Gets the weather for a city.",
        "city:string",
        (
            "What is the weather in {}?",
            "How is the weather in {}?",
            "Weather in {} please",
            "Is it raining in {}?",
            "Tell me the weather for {}",
            "What's the weather like in {}?",
        ),
    ),
    "set_timer": (
        "Sets a timer.",
        "minutes:integer",
        (
            "Set a timer for {} minutes",
            "Timer {} minutes",
            "Remind me in {} minutes",
            "Start a timer of {} minutes.",
        ),
    ),
    "search_web": (
        "Searches the web.",
        "query:string",
        (
            "Search the web for {}",
            "Search for {}",
            "Look up {} on the web",
            "Google {}",
        ),
    ),
    "send_email": (
        "Sends an email.",
        "to:string subject:string",
        (
            "Send an email to {} about {}",
            "Email {} with the subject {}",
            "Write to {} about {}.",
        ),
    ),
    "play_song": (
        "Plays a song.",
        "title:string",
        (
            "Play {}",
            "Play the song {}",
            "I want to hear {}",
        ),
    ),
    "get_price": (
        "Gets the price of a product.",
        "product:string",
        (
            "How much is the {}?",
            "What does {} cost?",
            "Price of {}?",
        ),
    ),
    "get_time": (
        "Gets the local time.",
        "city:string",
        (
            "What time is it in {}?",
            "Time in {}?",
            "Tell me the time in {}",
        ),
    ),
    "add": (
        "Adds two numbers.",
        "a:integer b:integer",
        (
            "Add {} and {}",
            "What is {} + {}?",
            "add {} and {}",
            "What is {} plus {}?",
            "{} + {}",
        ),
    ),
    "multiply": (
        "Multiplies two numbers.",
        "a:number b:number",
        (
            "Multiply {} and {}",
            "What is {} times {}?",
            "{} * {}",
        ),
    ),
    "translate": (
        "Translates a text.",
        "text:string language:string",
        (
            "Translate {} into {}",
            "Say {} in {}",
        ),
    ),
    "roll_dice": (
        "Rolls dice.",
        "sides:integer",
        (
            "Roll a dice with {} sides",
            "Roll a {} sided dice",
        ),
    ),
    "read_file": (
        "Reads a file.",
        "path:string",
        (
            "Read the file {}",
            "Open {}",
            "What is in {}?",
        ),
    ),
    "book_table": (
        "Books a table.",
        "restaurant:string people:integer",
        (
            "Book a table at {} for {} people",
            "Reserve a table at {} for {}",
        ),
    ),
    "get_population": (
        "Gets how many people live in a city.",
        "city:string",
        (
            "How many people live in {}?",
            "Population of {}?",
        ),
    ),
    "turn_light": (
        "Turns a light on or off.",
        "room:string on:boolean",
        (
            "Set the light in the {} to {}",
            "Light in the {}: {}",
        ),
    ),
}


@dataclass(frozen=True)
class Argument:
    """One argument of a tool; `default` None means no default."""

    name: str
    type: str
    required: bool = True
    description: str | None = None
    default: Value | None = None


@dataclass(frozen=True)
class DemoTool:
    """The declaration of a tool; `ways` are phrasings that request it, if known."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    ways: tuple[str, ...] = ()
    verb: str = ""
    noun: str = ""

    def parameters(self) -> dict[str, Any] | None:
        """The JSON schema, or None for a tool without arguments."""
        if not self.arguments:
            return None
        properties: dict[str, Any] = {}
        for argument in self.arguments:
            schema: dict[str, Any] = {"type": argument.type}
            if argument.description:
                schema["description"] = argument.description
            if argument.default is not None:
                schema["default"] = argument.default
            properties[argument.name] = schema
        required = [argument.name for argument in self.arguments if argument.required]
        return {"type": "object", "properties": properties, "required": required}


def known_tool(words: Words) -> DemoTool:
    """Draw an everyday tool, requested in everyday words."""
    name = words.pick(list(KNOWN_TOOLS))
    description, arguments, ways = KNOWN_TOOLS[name]
    drawn = []
    for argument in arguments.split():
        field, kind = argument.split(":")
        about = f"The {field}" if words.chance(0.3) else None
        drawn.append(Argument(field, kind, description=about))
    return DemoTool(name, description, tuple(drawn), ways)


def made_up_tool(words: Words) -> DemoTool:
    """Make up a tool, whose name and arguments must be read and copied."""
    verb, noun = words.identifier(VERBS), words.identifier(NOUNS)
    name = words.pick([f"{verb}_{noun}", f"{verb}_{noun}", f"{verb}_{noun}", noun])
    arguments: dict[str, Argument] = {}
    for _ in range(words.rng.choices([0, 1, 2, 3], [0.5, 4, 4, 1.5])[0]):
        field = words.identifier(ARGUMENTS)
        if words.chance(0.15):
            field = f"{field}_{words.identifier(ARGUMENTS)}"
        arguments[field] = _argument(words, field)
    description = words.pick(
        [f"{verb.capitalize()} a {noun}.", f"{verb.capitalize()}s the {noun}"]
    )
    if words.chance(0.15):
        description = f"{words.word().capitalize()} {words.phrase()}."
    return DemoTool(name, description, tuple(arguments.values()), verb=verb, noun=noun)


def _argument(words: Words, field: str) -> Argument:
    kind = words.pick(TYPES)
    about = words.pick([f"The {field}", f"{words.word().capitalize()} {words.word()}"])
    required = not words.chance(0.25)
    default = None
    if not required and words.chance(0.5):
        default = value(words, field, kind)
    return Argument(
        field, kind, required, about if words.chance(0.3) else None, default
    )


def toolset(words: Words) -> list[DemoTool]:
    """Draw one to four different tools."""
    drawn: dict[str, DemoTool] = {}
    for _ in range(words.rng.choices([1, 2, 3, 4], [4, 3, 2, 1])[0]):
        known = not words.held_out and words.chance(0.35)
        tool = known_tool(words) if known else made_up_tool(words)
        drawn[tool.name] = tool
    return list(drawn.values())


def value(words: Words, field: str, kind: str) -> Value:
    """Draw a value for an argument of this name and type."""
    if kind == "boolean":
        return words.chance(0.5)
    if kind in ("integer", "number"):
        if kind == "number" and words.chance(0.2):
            return words.rng.randint(1, 999) / 10
        return words.rng.randint(0, 9999 if words.chance(0.2) else 999)
    if field in ("city", "place"):
        return words.city()
    if field in ("to", "user", "owner", "name"):
        return words.name()
    if field == "path":
        return f"{words.word()}.{words.pick(['txt', 'csv', 'json', 'md'])}"
    if field == "date":
        rng = words.rng
        year, month, day = rng.randint(20, 30), rng.randint(1, 12), rng.randint(1, 28)
        return f"20{year}-{month:02d}-{day:02d}"
    return words.phrase()


def spoken(item: Value) -> str:
    """Format a value as a user types it."""
    return json.dumps(item) if isinstance(item, bool) else str(item)


def request(words: Words, tool: DemoTool) -> tuple[str, dict[str, Value]]:
    """Request a tool; return the user's text and the arguments in its order."""
    given = {
        argument.name: value(words, argument.name, argument.type)
        for argument in tool.arguments
        if argument.required or words.chance(0.5)
    }
    if tool.ways:
        texts = [spoken(item) for item in given.values()]
        return words.pick(tool.ways).format(*texts), given
    if words.chance(0.3):
        given = dict(words.rng.sample(list(given.items()), len(given)))
    return _made_up_request(words, tool, given), given


def _made_up_request(words: Words, tool: DemoTool, given: dict[str, Value]) -> str:
    verb, noun = tool.verb, tool.noun
    if len(given) == 1 and words.chance(0.45):
        form = words.pick(
            [
                "{verb} the {noun} {value}",
                "{verb} the {noun} for {value}",
                "Please {verb} the {noun} of {value}.",
                "What is the {noun} of {value}?",
                "{verb} {value}",
                "{noun} {value}",
                "I want to {verb} {value}.",
                "Can you {verb} the {noun} in {value}?",
            ]
        )
        text = form.format(
            verb=verb, noun=noun, value=spoken(next(iter(given.values())))
        )
        return text[:1].upper() + text[1:] if words.chance(0.5) else text
    opening = words.pick(
        [
            f"Use {tool.name}",
            f"Call {tool.name}",
            f"Use the {tool.name} tool",
            f"Please {verb} the {noun}",
            f"{verb.capitalize()} a {noun}",
            f"I need to {verb} a {noun}",
            f"Run {tool.name}",
            f"Can you {verb} the {noun}",
        ]
    )
    if not given:
        return opening + words.pick(["", "."])
    pair = words.pick(
        [" {} {}", " {} {}", " {}: {}", " {} = {}", " {} is {}", ' {} "{}"']
    )
    pairs = [pair.format(field, spoken(item)) for field, item in given.items()]
    joined = words.pick([" and", ",", ", and"]).join(pairs)
    return (
        opening
        + words.pick([" with", ",", ":", " where"])
        + joined
        + words.pick(["", "."])
    )


def thought_before_call(effort: str, tool: DemoTool, given: dict[str, Value]) -> str:
    pairs = ", ".join(f"{field}={spoken(item)}" for field, item in given.items())
    call = f"{tool.name} {pairs}" if pairs else tool.name
    return {
        "low": call,
        "medium": f"I should call {call}",
        "high": "The user wants something that a tool can do. I look at the tools and "
        f"at the words of the user. The request fits {tool.name}. "
        + ("I copy the arguments: " if pairs else "It needs no arguments: ")
        + call,
    }[effort]


def result(words: Words, tool: DemoTool) -> tuple[str, str]:
    """Draw a result of the tool and the answer that states it."""
    if words.chance(0.1):
        reason = words.pick(["not found", "timeout", "bad request", words.phrase()])
        return json.dumps({"error": reason}), f"Sorry, {tool.name} failed: {reason}."
    separators = words.pick([(",", ":"), (", ", ": ")])
    if words.chance(0.35):
        plain = _plain_result(words)
        text = (
            json.dumps(plain)
            if isinstance(plain, str) and words.chance(0.2)
            else spoken(plain)
        )
        return text, f"The result is {spoken(plain)}."
    returned: dict[str, Value] = {}
    for _ in range(words.pick([1, 1, 2, 2, 3])):
        field = words.identifier(RESULT_KEYS, novelty=0.3)
        if words.chance(0.1):
            field = f"{field}_{words.identifier(RESULT_KEYS, novelty=0.3)}"
        returned[field] = _plain_result(words)
    told = " ".join(
        f"The {field} is {spoken(item)}." for field, item in returned.items()
    )
    return json.dumps(returned, separators=separators, ensure_ascii=False), told


def _plain_result(words: Words) -> Value:
    kind = words.pick(
        ["number", "number", "phrase", "phrase", "decimal", "bool", "word"]
    )
    if kind == "number":
        return words.rng.randint(-20, 9999 if words.chance(0.2) else 999)
    if kind == "decimal":
        return words.rng.randint(1, 999) / 10
    if kind == "bool":
        return words.chance(0.5)
    if kind == "word":
        return words.pick(
            ["ok", "done", "sunny", "rain", "snow", "cloudy", words.word()]
        )
    if words.chance(0.2):
        degrees = words.rng.randint(0, 40)
        sky = words.pick(["sunny", "rain", "cloudy", words.word()])
        return f"{degrees} degrees and {sky}"
    return words.phrase()


def thought_before_answer(effort: str, tool: DemoTool) -> str:
    return {
        "low": "",
        "medium": "I have the result.",
        "high": f"The tool {tool.name} returned a result. I can answer now.",
    }[effort]


def arguments_json(given: dict[str, Value]) -> str:
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False)
