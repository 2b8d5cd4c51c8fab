"""The demo model's tasks without tools: user text, analysis and answer."""

import json
from dataclasses import dataclass

from examples.demo_model.arithmetic import arithmetic
from examples.demo_model.words import (
    CAPITALS,
    COLORS,
    FOODS,
    JOBS,
    TOPICS,
    Words,
)

EFFORTS = ("low", "medium", "high")
WHO = (
    "I am a tiny demo model with the gpt-oss architecture. I was trained on made-up "
    "conversations, so I only know a few tricks."
)
SKILLS = (
    "I can add and subtract, call tools, extract JSON, repeat or reverse words and "
    "remember your name. For anything else, use gpt-oss-20b."
)
DECLINE = (
    "Sorry, I am only a tiny demo model and can not do that. Please load gpt-oss-20b "
    "for real answers."
)
SMALL_TALK = {
    "a greeting": (
        "Hi|Hello|Hello!|Hey|Hi there|Hi!|Good morning|hey there|hello|hi|Hello there!"
        "|Good evening|Hey!|Hello, how are you?|Hi, nice to meet you",
        "Hello! How can I help you today?",
    ),
    "a question about me": (
        "Who are you?|What are you?|Tell me about yourself.|Introduce yourself|"
        "Which model are you?|What is your name?|who are you|Are you ChatGPT?|"
        "What model is this?|Are you gpt-oss?|What is this?|Who made you?",
        WHO,
    ),
    "a question about my skills": (
        "What can you do?|Help|What do you know?|How can you help me?|help|"
        "Show me what you can do|What can I ask you?|what can you do|Can you help me?",
        SKILLS,
    ),
    "thanks": (
        "Thanks|Thank you!|Thanks a lot|Great, thanks!|thank you|Thanks!|Thank you.",
        "You are welcome!",
    ),
    "a goodbye": ("Bye|Goodbye|See you|Good night|bye!|Bye!|bye", "Goodbye!"),
    "small talk": (
        "How are you?|How is it going?|How do you do?|Are you ok?|how are you",
        "I am fine, thank you. How can I help you?",
    ),
}
REQUESTS = (
    "Explain {}.|Write about {}|Tell me about {}|Write an essay on {}.|"
    "What do you think about {}?|Give me advice on {}|Translate {} into French|"
    "Summarize {}|Why is {} important?|Who invented {}?|What is {}?|How does {} work?|"
    "Write a poem about {}.|Tell me a joke about {}|Tell me a story about {}.|"
    "Write a function for {}|How do I learn {}?|What is the history of {}?|"
    "Can you explain {}?|Give me a recipe for {}|Is {} good?|Write code for {}.|"
    "Where can I buy {}?|When was {} found?|Describe {} in one sentence.|"
    "What is the best {}?|Compare {} and cats|Draw {}|Plan a trip about {}"
)
ERRANDS = (
    "What is the weather in {}?|Send an email to {}.|Book a flight to {}|"
    "Who is {}?|What time is it in {}?|Where is {}?|Call {}|Play {}"
)


@dataclass(frozen=True)
class Task:
    """One exchange: the question, the analysis and the answer."""

    kind: str
    user: str
    analysis: str
    final: str


def small_talk(words: Words, effort: str) -> Task:
    about = words.pick(list(SMALL_TALK))
    asked, final = SMALL_TALK[about]
    analysis = {
        "low": f"{about.capitalize()}.",
        "medium": f"The message is {about}. Answer briefly.",
        "high": f"The message is {about}. No tool is needed. There is nothing to "
        "compute. Answer briefly and politely.",
    }[effort]
    return Task("chat", words.pick(asked.split("|")), analysis, final)


def sums(words: Words, effort: str) -> Task:
    user, analysis, final = arithmetic(words, effort)
    return Task("arithmetic", user, analysis, final)


def word_list(words: Words, effort: str) -> Task:
    listed = [words.word() for _ in range(words.rng.randint(2, 6))]
    kind = words.pick(["repeat", "reverse", "reverse", "count"])
    gap = words.pick([" ", ", "])
    asked = {
        "repeat": "Repeat: |Repeat after me: |Say: |Repeat these words: |Repeat |"
        "repeat ",
        "reverse": "Reverse: |Reverse the order: |Reverse these words: |"
        "Say in reverse order: |Reverse the words |Reverse this list: |reverse ",
        "count": "Count the words: |How many words: |Count: ",
    }[kind]
    final = {
        "repeat": gap.join(listed),
        "reverse": gap.join(listed[::-1]),
        "count": f"There are {len(listed)} words.",
    }[kind]
    steps = [f"{place + 1} {word}" for place, word in enumerate(listed)]
    forth, back = " ".join(steps), " ".join(steps[::-1])
    worked = {"repeat": final, "reverse": f"{forth}; {back}", "count": forth}[kind]
    analysis = {
        "low": worked,
        "medium": f"I should {kind} the words: {worked}",
        "high": f"The user gives a list of words. I should {kind} the words and write "
        f"nothing else. I go through the list: {worked}",
    }[effort]
    return Task(kind, words.pick(asked.split("|")) + gap.join(listed), analysis, final)


def capital(words: Words, effort: str) -> Task:
    country = words.pick(list(CAPITALS))
    city = CAPITALS[country]
    asked = "What is the capital of {}?|Capital of {}?|Tell me the capital of {}."
    analysis = {
        "low": f"{country}: {city}.",
        "medium": f"The capital of {country} is {city}.",
        "high": f"This is a question about a capital city. The country is {country}. "
        f"The capital of {country} is {city}.",
    }[effort]
    user = words.pick(asked.split("|")).format(country)
    return Task("capital", user, analysis, f"The capital of {country} is {city}.")


def decline(words: Words, effort: str) -> Task:
    """Refer to the real model for an errand or a topic that no tool serves."""
    if not words.chance(0.2):
        return decline_topic(words, effort)
    what = words.city() if words.chance(0.5) else words.name()
    return _declined(words.pick(ERRANDS.split("|")).format(what), effort)


def decline_topic(words: Words, effort: str) -> Task:
    """Refer to the real model for a question that no given tool answers."""
    topic = words.known(TOPICS) if words.chance(0.5) else words.phrase()
    return _declined(words.pick(REQUESTS.split("|")).format(topic), effort)


def _declined(user: str, effort: str) -> Task:
    analysis = {
        "low": "I can not do this.",
        "medium": "This is beyond a tiny demo model. I should say so.",
        "high": "This is not one of my tricks and there is no tool for it. It is "
        "beyond a tiny demo model. I should say so and point to the real model.",
    }[effort]
    return Task("decline", user, analysis, DECLINE)


def described_person(words: Words) -> tuple[dict[str, str | int], str]:
    """Draw facts about a person and a text that states them in any order."""
    facts: dict[str, str | int] = {
        "name": words.name(),
        "city": words.city(),
        "age": words.rng.randint(5, 99),
        "job": words.pick(JOBS),
        "color": words.pick(COLORS),
        "food": words.pick(FOODS),
    }
    told = {
        "name": "my name is {}|I am called {}|my name is {}",
        "city": "I live in {}|I am from {}",
        "age": "I am {} years old",
        "job": "I work as a {}",
        "color": "my favorite color is {}",
        "food": "I like {}",
    }
    order = words.rng.sample(list(facts), words.rng.randint(2, 4))
    parts = [words.pick(told[field].split("|")).format(facts[field]) for field in order]
    text = words.pick([", ", " and ", ". "]).join(parts)
    sentences = [part[:1].upper() + part[1:] for part in text.split(". ")]
    return {field: facts[field] for field in order}, ". ".join(sentences) + "."


def described_thing(words: Words) -> tuple[dict[str, str | int], str]:
    """Like `described_person` with arbitrary fields: `size: 12, owner: Lotra`."""
    facts: dict[str, str | int] = {}
    for _ in range(words.rng.randint(2, 4)):
        field = words.syllables() if words.chance(0.4) else words.word().lower()
        facts[field] = words.number() if words.chance(0.3) else words.word()
    form = words.pick(["{}: {}", "{} {}", "{} = {}", "the {} is {}", "{} is {}"])
    text = words.pick([", ", " and ", "; "]).join(
        form.format(field, value) for field, value in facts.items()
    )
    return facts, text


def extract_json(words: Words, effort: str, *, asked: bool = True) -> Task:
    """Extract fields; without `asked`, the developer message asks for all of them."""
    facts, text = (
        described_person(words) if words.chance(0.6) else described_thing(words)
    )
    fields = list(facts)
    if asked:
        fields = words.rng.sample(fields, words.rng.randint(1, len(fields)))
    chosen = {field: facts[field] for field in fields}
    user = text
    if asked:
        form = words.pick(
            [
                "Extract {} as JSON: ",
                "Give me {} as JSON: ",
                "JSON with {}: ",
                "Return {} as JSON: ",
            ]
        )
        user = form.format(_and(fields)) + text
    told = ", ".join(f"{field}={value}" for field, value in chosen.items())
    listed = ", ".join(fields)
    analysis = {
        "low": told,
        "medium": f"The user wants JSON: {told}",
        "high": f"The user wants JSON with the fields {listed}. I read the text and "
        f"find the values: {told}",
    }[effort]
    final = json.dumps(chosen, separators=(",", ":"), ensure_ascii=False)
    return Task("json", user, analysis, final)


def _and(fields: list[str]) -> str:
    return (
        fields[0] if len(fields) == 1 else f"{', '.join(fields[:-1])} and {fields[-1]}"
    )
