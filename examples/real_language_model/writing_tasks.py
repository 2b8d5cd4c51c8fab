"""Short tasks for a language model, each with reasoning and an answer.

Stories, notes, lists, small sums, judgements of reviews, names to remember, small talk.
All but small talk are put together from words, so that few answers are the same.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from examples.real_language_model import topics


class Exchange(NamedTuple):
    """A question, what the model thinks, and its answer."""

    question: str
    thought: str
    answer: str


OPENINGS = (
    "Once upon a time a {animal} named {name} lived near the {place}.",
    "In a small house by the {place} there lived a {animal} called {name}.",
    "{name} was a young {animal} who had never left the {place}.",
)
MIDDLES = (
    "One morning {name} could not find the {thing}, and looked for it everywhere.",
    "One day the {thing} was gone, and nobody had seen it.",
    "After a storm {name} found an old {thing} and wondered whose it was.",
)
TURNS = (
    "A friend came along, and together they walked until it grew dark.",
    "{name} asked the wind, the stream and the tall grass, but none of them knew.",
    "The way was long, but the stars were bright and the air smelled of rain.",
)
ENDINGS = (
    "In the end the {thing} lay where it had always been, and {name} laughed.",
    "From that day on the {thing} hung above the door, and everyone was welcome.",
    "That night {name} slept well, and dreamed of the {place}.",
)
STORIES = {
    "low": (OPENINGS, ENDINGS),
    "medium": (OPENINGS, MIDDLES, ENDINGS),
    "high": (OPENINGS, MIDDLES, TURNS, ENDINGS),
}
NOTES = (
    (
        "the garden party on {day}",
        "Dear {name},\n\nwe are having a garden party on {day} and would love to see "
        "you. Just bring yourself and good weather.\n\nBest wishes",
    ),
    (
        "the meeting on {day}",
        "Dear {name},\n\nour meeting is on {day} at ten. Please let me know if that "
        "does not suit you.\n\nKind regards",
    ),
    (
        "the book you lent me",
        "Dear {name},\n\nthank you for the book. I read it in two evenings and will "
        "bring it back on {day}.\n\nYours",
    ),
    (
        "a late delivery",
        "Dear {name},\n\nI am sorry that your order is late. It left our house today "
        "and should be with you on {day}.\n\nKind regards",
    ),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LARGEST_SUM, LARGEST_FACTOR = 40, 9


class WritingTasks:
    """Draws tasks from the words of one side."""

    def __init__(self, rng: random.Random, *, held_out: bool = False) -> None:
        self.rng = rng
        self._reviews = topics.HELD_OUT_REVIEWS if held_out else topics.REVIEWS
        self._small_talk = topics.HELD_OUT_SMALL_TALK if held_out else topics.SMALL_TALK
        self._people = (topics.HELD_OUT_PEOPLE if held_out else topics.PEOPLE).split()
        self._animals = (
            topics.HELD_OUT_ANIMALS if held_out else topics.ANIMALS
        ).split()
        self._places = topics.HELD_OUT_PLACES if held_out else topics.PLACES
        self._things = topics.HELD_OUT_LOST if held_out else topics.LOST
        self._kinds = topics.HELD_OUT_KINDS if held_out else topics.KINDS_OF_THINGS
        self._opposites = topics.HELD_OUT_OPPOSITES if held_out else topics.OPPOSITES
        self._lists = topics.HELD_OUT_LISTS if held_out else topics.LISTS

    def draw(self, effort: str) -> Exchange:
        """Draw one task."""
        kinds: list[Callable[[str], Exchange]] = [
            self.story,
            self.note,
            self.listing,
            self.sum,
            self.review,
            self.recall,
            self.small_talk,
            self.kind_of,
            self.opposite,
            self.repeat,
        ]
        return self.rng.choice(kinds)(effort)

    def story(self, effort: str) -> Exchange:
        pick = self.rng.choice
        said = {
            "animal": pick(self._animals),
            "name": pick(self._people),
            "place": pick(self._places),
            "thing": pick(self._things),
        }
        answer = " ".join(pick(part).format(**said) for part in STORIES[effort])
        question = pick(
            (
                "Write a short story about a {animal} and a {thing}.",
                "Tell me a story about a {animal} named {name}.",
                "I would like a bedtime story with a {animal} and the {place}.",
            )
        ).format(**said)
        thought = {
            "low": "A short story about a {animal}.",
            "medium": "The user wants a story about a {animal}. It is called {name}.",
            "high": "The user wants a story about a {animal}. It needs a beginning, a "
            "problem and an end. The {animal} is called {name} and lives near the "
            "{place}.",
        }[effort].format(**said)
        return Exchange(question, thought, answer)

    def note(self, effort: str) -> Exchange:
        name, day = self.rng.choice(self._people), self.rng.choice(DAYS)
        about, text = self.rng.choice(NOTES)
        said = {"name": name, "day": day, "about": about.format(day=day)}
        thought = {
            "low": "A note to {name}.",
            "medium": "A short note to {name} about {about}. It should be friendly.",
            "high": "The user needs a note to {name} about {about}. It begins with the "
            "name and ends with a greeting.",
        }[effort].format(**said)
        question = self.rng.choice(
            (
                "Write a note to {name} about {about}.",
                "Can you help me write to {name}? It is about {about}.",
            )
        ).format(**said)
        return Exchange(question, thought, text.format(**said))

    def listing(self, effort: str) -> Exchange:
        kind = self.rng.choice(sorted(self._lists))
        text = self._lists[kind]
        known = text.split(", ") if ", " in text else text.split()
        count = self.rng.choice((2, 3, 4))
        chosen = self.rng.sample(known, count)
        number = {2: "two", 3: "three", 4: "four"}[count]
        thought = {
            "low": f"{number.capitalize()} {kind}.",
            "medium": f"I need {number} {kind}. I can think of {chosen[0]} first.",
            "high": f"The user asks for {number} {kind}. Let me think: "
            f"{', '.join(chosen)}. That is {number}, so I can stop here.",
        }[effort]
        if self.rng.random() < 0.5:
            answer = f"{', '.join(chosen[:-1])} and {chosen[-1]}."
            answer = answer[0].upper() + answer[1:]
        else:
            answer = "\n".join(f"{at}. {one}" for at, one in enumerate(chosen, 1))
        question = self.rng.choice((f"Name {number} {kind}.", f"List {number} {kind}."))
        return Exchange(question, thought, answer)

    def sum(self, effort: str) -> Exchange:
        if self.rng.random() < 0.7:
            a, b = (self.rng.randint(1, LARGEST_SUM) for _ in range(2))
            written, found, sign = f"{a} + {b}", a + b, "plus"
        else:
            a, b = (self.rng.randint(2, LARGEST_FACTOR) for _ in range(2))
            written, found, sign = f"{a} x {b}", a * b, "times"
        thought = {
            "low": f"{written} = {found}.",
            "medium": f"I have to work out {written}. That is {found}.",
            "high": f"The user wants to know {a} {sign} {b}. I write it down: "
            f"{written} = {found}. That looks right.",
        }[effort]
        question = self.rng.choice(
            (f"What is {written}?", f"How much is {a} {sign} {b}?")
        )
        answer = self.rng.choice((f"{written} = {found}", f"It is {found}."))
        return Exchange(question, thought, answer)

    def review(self, effort: str) -> Exchange:
        text, kind = self.rng.choice(self._reviews)
        thought = {
            "low": f"That is {kind}.",
            "medium": f"The user gives me a review. The writer sounds {kind}.",
            "high": "The user gives me a review. The question is how the writer feels. "
            f"The words are {kind}.",
        }[effort]
        return Exchange(
            f'Is this review positive or negative? "{text}"',
            thought,
            f"The review is {kind}.",
        )

    def recall(self, effort: str) -> Exchange:
        name, place = self.rng.choice(self._people), self.rng.choice(self._places)
        animal = self.rng.choice(self._animals)
        asked, answer = self.rng.choice(
            (
                ("What is my name?", f"Your name is {name}."),
                ("Where do I live?", f"You live near the {place}."),
                ("What animal do I have?", f"You have a {animal}."),
            )
        )
        thought = {
            "low": "They told me.",
            "medium": "The answer is in the message. I only have to repeat it.",
            "high": f"The user is called {name}, lives near the {place}, and has a "
            f"{animal}. I can answer from the message.",
        }[effort]
        question = (
            f"I am {name}, I live near the {place}, and I have a {animal}. {asked}"
        )
        return Exchange(question, thought, answer)

    def small_talk(self, effort: str) -> Exchange:
        said, answer = self.rng.choice(self._small_talk)
        thought = {
            "low": "Be friendly.",
            "medium": "This is small talk. A friendly sentence is enough.",
            "high": "This is small talk. There is nothing to look up. A friendly "
            "sentence is enough.",
        }[effort]
        return Exchange(said, thought, answer)

    def kind_of(self, effort: str) -> Exchange:
        kind = self.rng.choice(sorted(self._kinds))
        thing = self.rng.choice(self._kinds[kind].split())
        what = f"{_article(thing)} {thing}"
        answer = f"{what.capitalize()} is {_article(kind)} {kind}."
        thought = {
            "low": f"About {what}.",
            "medium": f"The user asks what {what} is. It is {_article(kind)} {kind}.",
            "high": f"The user asks what {what} is. I know the word. It is "
            f"{_article(kind)} {kind}, so that is the main point.",
        }[effort]
        question = self.rng.choice(
            (f"What is {what}?", f"Explain what {what} is.", f"What does {thing} mean?")
        )
        return Exchange(question, thought, answer)

    def opposite(self, effort: str) -> Exchange:
        pair = self.rng.choice(self._opposites.split()).split("/")
        one, other = self.rng.sample(pair, 2)
        thought = {
            "low": f"The opposite of {one}.",
            "medium": f"The user asks for the opposite of {one}. That is {other}.",
            "high": f"The user asks for the opposite of {one}. I think of pairs of "
            f"words: {one} and {other}. So it is {other}.",
        }[effort]
        return Exchange(
            f"What is the opposite of {one}?",
            thought,
            self.rng.choice((f"The opposite of {one} is {other}.", f"It is {other}.")),
        )

    def repeat(self, effort: str) -> Exchange:
        pool = " ".join((*self._kinds.values(), *self._lists.values()))
        words = pool.replace(",", "").split()
        text = " ".join(self.rng.choices(words, k=self.rng.randint(2, 5)))
        thought = {
            "low": "Repeat it.",
            "medium": "The user gives me some words. I repeat them.",
            "high": "The user gives me some words. I have to repeat them in the same "
            "order, and add nothing.",
        }[effort]
        question = self.rng.choice(
            (f"Repeat these words: {text}", f"Say this: {text}", f"Write down: {text}")
        )
        return Exchange(question, thought, f"{text.capitalize()}.")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
