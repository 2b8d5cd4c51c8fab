"""Invent tools whose names, arguments and values are seldom the same twice.

A model that sees only a few tools learns their names; one that sees a new tool in each
conversation has to read the declaration and copy. Never makes a name in `taken`.
"""

import random
from collections.abc import Collection
from typing import NamedTuple

from examples.real_language_model.tools import Argument, Tool


class Slot(NamedTuple):
    """An argument: its JSON type, and its value as part of a request."""

    name: str
    type: str
    phrase: str  # has the value in braces


SYLLABLES = (
    "ba be bo da de do fa fi ga go ha ka ki ko la le lo ma me mi mo na ne no pa pe po "
    "ra re ri ro sa se so ta te ti to va ve vi za zo"
)
LOOKUPS = "get find show read fetch check query load"
ACTIONS = (
    "order book cancel start stop open close save print share paint move clean sell "
    "buy pack mark sort test count repair rent mail copy hide lock pause call fill"
)
QUANTITIES = (
    "price status address owner schedule menu route score length weight age height "
    "color rank limit level history summary phone opening speed size author total "
    "deadline password rating agenda forecast budget manual capacity salary profile"
)
OBJECTS = (
    "ticket door report camera printer bicycle garage invoice engine file playlist "
    "window meeting lamp heater label fence ladder pump boat van shelf server folder "
    "poster alarm basket blanket bottle bridge bucket cabin candle carpet desk radio"
)
SUBJECTS = (
    Slot("name", "string", "of {}"),
    Slot("item", "string", "of {}"),
    Slot("project", "string", "of {}"),
    Slot("company", "string", "of {}"),
    Slot("user", "string", "of {}"),
    Slot("station", "string", "of {}"),
    Slot("id", "integer", "of number {}"),
    Slot("order", "integer", "of order {}"),
)
DETAILS = (
    Slot("city", "string", "in {}"),
    Slot("location", "string", "in {}"),
    Slot("person", "string", "for {}"),
    Slot("customer", "string", "for {}"),
    Slot("day", "string", "on {}"),
    Slot("time", "string", "at {}"),
    Slot("count", "integer", "with {} pieces"),
    Slot("copies", "integer", "with {} copies"),
    Slot("minutes", "integer", "for {} minutes"),
    Slot("price", "integer", "for {} euros"),
    Slot("color", "string", "in {}"),
    Slot("number", "integer", "with number {}"),
    Slot("note", "string", "with the note {}"),
    Slot("label", "string", "with the label {}"),
)
WORDS = (
    "amber river stone maple falcon silver copper meadow harvest winter summer north "
    "velvet marble orchid thunder canyon comet ribbon saddle timber walnut willow "
    "anchor beacon cedar dragon ember frost glacier hazel island jasmine kettle lemon "
    "magnet nickel olive pepper quartz rocket sugar tiger umbrella violet whisper"
)
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
COLORS = "red green black brown pink gray yellow"
MADE_UP = 0.3  # share of values and objects that are made-up words
POOL = "given"


class ToolMaker:
    """Invents tools; one draws from `rng`, so the same seed invents the same."""

    def __init__(self, rng: random.Random, taken: Collection[str] = ()) -> None:
        self._rng = rng
        self._taken = frozenset(taken)

    def draw(self) -> Tool:
        """Return a tool, whose arguments have one value each: that of its request."""
        while True:
            tool = self._lookup() if self._rng.random() < 0.5 else self._action()
            if tool.name not in self._taken:
                return tool

    def _lookup(self) -> Tool:
        pick = self._rng.choice
        verb, quantity = self._one_of(LOOKUPS), self._one_of(QUANTITIES)
        slot = pick(SUBJECTS)
        value = self._value(slot)
        phrase = slot.phrase.format(str(value))
        shown = f"the {quantity} {phrase}"
        number = self._rng.randint(2, 900)
        return Tool(
            f"{verb}_{quantity}",
            pick((f"Returns the {quantity} {phrase.split()[0]} a {slot.name}.", "")),
            (Argument(slot.name, slot.type, POOL),),
            (pick((f"What is {shown}?", f"Show me {shown}.", f"I need {shown}.")),),
            f"know {shown}",
            {quantity: POOL},
            f"{shown[0].upper()}{shown[1:]} is {number}.",
            given={slot.name: value},
            returned={quantity: number},
        )

    def _action(self) -> Tool:
        pick = self._rng.choice
        verb, thing = self._one_of(ACTIONS), self._object()
        slots = self._rng.sample(DETAILS, self._rng.choice((1, 1, 2, 2, 3)))
        given = {slot.name: self._value(slot) for slot in slots}
        phrases = [slot.phrase.format(str(given[slot.name])) for slot in slots]
        shown = " ".join((verb, pick(("a", "the")), thing, *phrases))
        state = pick(("done", "ready", "saved", "confirmed"))
        return Tool(
            f"{verb}_{thing}",
            pick((f"Can {verb} a {thing}.", f"Tool to {verb} a {thing}.", "")),
            tuple(Argument(slot.name, slot.type, POOL) for slot in slots),
            (
                pick(
                    (
                        f"Please {shown}.",
                        f"{verb.capitalize()} {shown.split(' ', 1)[1]}.",
                        f"I want to {shown}.",
                        f"Can you {shown}?",
                    )
                ),
            ),
            f"{verb} the {thing}",
            {"status": POOL},
            f"The {thing} is {state}.",
            given=given,
            returned={"status": state},
        )

    def _object(self) -> str:
        if self._rng.random() < MADE_UP:
            return self.word()
        return self._one_of(OBJECTS)

    def _one_of(self, words: str) -> str:
        return self._rng.choice(words.split())

    def word(self) -> str:
        """Return a made-up word of two or three syllables."""
        return "".join(self._rng.choices(SYLLABLES.split(), k=self._rng.choice((2, 3))))

    def _value(self, slot: Slot) -> str | int:
        if slot.type == "integer":
            return self._rng.randint(1, self._rng.choice((9, 99, 999, 99_999)))
        if slot.name == "day":
            return self._one_of(DAYS)
        if slot.name == "color":
            return self._one_of(COLORS)
        if slot.name == "time":
            return f"{self._rng.randrange(24):02}:{self._rng.randrange(0, 60, 5):02}"
        count = self._rng.choice((1, 1, 2))
        words = [
            self.word() if self._rng.random() < MADE_UP else self._one_of(WORDS)
            for _ in range(count)
        ]
        text = " ".join(words)
        return text if slot.name in ("note", "item") else text.title()
