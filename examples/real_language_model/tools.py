"""Invented tools for conversations: training and held out.

A request fills in the arguments, a result the values that the answer repeats. No tool's
name and no word of a pool is on both sides.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True)
class Argument:
    """One argument: its JSON type, and the pool its values are drawn from."""

    name: str
    type: str
    pool: str
    description: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        found: dict[str, Any] = {"type": self.type}
        if self.description:
            found["description"] = self.description
        if self.pool in CHOICES:
            found["enum"] = list(CHOICES[self.pool])
        return found


@dataclass(frozen=True)
class Tool:
    """A tool, with requests that need it, its result, and the answer to that.

    `aim` completes "The user wants to ..."; it, the requests and the answer have
    arguments and results in braces. `results` maps names to pools. A tool that is made
    for one request has its values instead: `given` and `returned`.
    """

    name: str
    description: str
    arguments: tuple[Argument, ...]
    requests: tuple[str, ...]
    aim: str
    results: Mapping[str, str]
    answer: str
    given: Mapping[str, Any] | None = None
    returned: Mapping[str, Any] | None = None

    @property
    def entry(self) -> dict[str, Any]:
        """The tool as an entry of `tools` in OpenAI's chat format."""
        parameters = {
            "type": "object",
            "properties": {one.name: one.schema for one in self.arguments},
            "required": [one.name for one in self.arguments],
        }
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": parameters,
        }
        return {"type": "function", "function": function}

    def draw(self, rng: random.Random, *, held_out: bool) -> tuple[Values, Values]:
        """Return arguments and a result, drawn from the pools of one side."""
        if self.given is not None and self.returned is not None:
            return dict(self.given), dict(self.returned)
        pools = {one.name: one.pool for one in self.arguments}
        while True:
            arguments = {
                name: draw(pool, rng, held_out) for name, pool in pools.items()
            }
            written = [str(value) for value in arguments.values()]
            if len(set(written)) == len(written):  # no train from Oslo to Oslo
                break
        result = {
            name: draw(pool, rng, held_out) for name, pool in self.results.items()
        }
        return arguments, result


CHOICES = {
    "unit": ("km", "miles"),
    "size": ("small", "medium", "large"),
    "color": ("white", "warm", "blue"),
    "program": ("cotton", "wool", "quick"),
}
NUMBERS = {
    "few": (1, 6),
    "minutes": (2, 59),
    "degrees": (-8, 34),
    "amount": (10, 900),
    "hundreds": (40, 980),
    "stars": (1, 5),
    "parcel": (10_000, 99_999),
}
POOLS = {
    "city": "Oslo Lima Cairo Porto Boston Milan Osaka Dublin Quito Tunis Riga Bergen",
    "person": "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo",
    "dish": "pizza,lentil soup,apple pie,fried rice,onion tart,pancakes,fish stew",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "time": "08:30 09:15 10:00 12:45 14:20 16:00 18:30 20:10",
    "event": "dentist,team lunch,piano lesson,parents' evening,bike repair,yoga",
    "text": "I am late,see you at six,the keys are on the table,dinner is ready",
    "author": "Austen Dickens Tolstoy Woolf Kafka Verne",
    "title": "Silent River,Blue Morning,The Long Road,Paper Moon,Winter Light",
    "room": "kitchen bedroom hall bathroom office",
    "word": "house water bridge friend yellow tomorrow",
    "language": "French Spanish German Italian Polish",
    "currency": "USD EUR JPY GBP CHF",
    "sky": "cloudy sunny rainy foggy",
    "product": "lamps,desk chairs,wool socks,tea cups,garden hoses",
    "state": "ready done saved confirmed",
}
HELD_OUT_POOLS = {
    "city": "Zurich Havana Seville Calgary Nairobi Gdansk Lyon",
    "person": "Olga Peter Simon Tara Ursula Victor",
    "dish": "tomato salad,bean curry,plum cake",
    "day": POOLS["day"],
    "time": "07:40 11:05 13:30 19:25",
    "movie": "The Glass Harbor,Seven Lanterns,A Quiet Orchard",
    "district": "Northgate Riverside Oldmill Hillcrest",
    "street": "Cedar Lane,Station Road,Mill Street",
    "problem": "broken streetlight,deep pothole,fallen tree",
    "restaurant": "Blue Door,Casa Verde,The Olive Tree",
    "account": "savings checking travel",
    "bed": "roses,tomatoes,herb bed",
    "gift": "book,scarf,puzzle",
    "state": "accepted finished registered",
    "sky": POOLS["sky"],
}


def draw(pool: str, rng: random.Random, held_out: bool) -> Any:
    """Draw one value of a pool: a number, one of the choices, or a word."""
    if pool in NUMBERS:
        return rng.randint(*NUMBERS[pool])
    if pool in CHOICES:
        return rng.choice(CHOICES[pool])
    if pool == "switch":
        return rng.choice((True, False))
    text = (HELD_OUT_POOLS if held_out else POOLS)[pool]
    return rng.choice(text.split("," if "," in text else None))


def words(values: Values) -> Values:
    """Return values as a sentence writes them: true as on, a code as it is."""
    return {
        name: {True: "on", False: "off"}[value] if isinstance(value, bool) else value
        for name, value in values.items()
    }


TOOLS = (
    Tool(
        "get_weather",
        "Gets the weather of a city.",
        (Argument("city", "string", "city"),),
        (
            "What is the weather like in {city}?",
            "Do I need an umbrella in {city}?",
            "How warm is it in {city} right now?",
        ),
        "know the weather in {city}",
        {"temperature": "degrees", "sky": "sky"},
        "It is {sky} in {city}, with {temperature} degrees.",
    ),
    Tool(
        "set_timer",
        "Starts a timer.",
        (Argument("minutes", "integer", "minutes", "length in minutes"),),
        ("Set a timer for {minutes} minutes.", "Wake me up in {minutes} minutes."),
        "set a timer for {minutes} minutes",
        {"timer": "few"},
        "The timer is running: {minutes} minutes.",
    ),
    Tool(
        "send_message",
        "Sends a short message to a person.",
        (
            Argument("recipient", "string", "person"),
            Argument("text", "string", "text"),
        ),
        (
            "Tell {recipient}: {text}.",
            "Send {recipient} this message: {text}.",
            "Please write to {recipient} that {text}.",
        ),
        "send a message to {recipient}",
        {"status": "state"},
        "I sent your message to {recipient}.",
    ),
    Tool(
        "find_recipe",
        "Finds a recipe.",
        (
            Argument("dish", "string", "dish"),
            Argument("servings", "integer", "few", "number of people"),
        ),
        (
            "I want to cook {dish} for {servings} people.",
            "Find a recipe for {dish}, {servings} servings.",
        ),
        "cook {dish} for {servings}",
        {"minutes": "minutes"},
        "I found a recipe for {dish}. It takes {minutes} minutes.",
    ),
    Tool(
        "convert_money",
        "Converts an amount of money between currencies.",
        (
            Argument("amount", "number", "amount"),
            Argument("source", "string", "currency"),
            Argument("target", "string", "currency"),
        ),
        (
            "How much is {amount} {source} in {target}?",
            "Convert {amount} {source} to {target}.",
        ),
        "change {amount} {source} into {target}",
        {"result": "hundreds"},
        "{amount} {source} is {result} {target}.",
    ),
    Tool(
        "add_event",
        "Adds an event to the calendar.",
        (
            Argument("title", "string", "event"),
            Argument("day", "string", "day"),
            Argument("time", "string", "time", "as HH:MM"),
        ),
        (
            "Put {title} into my calendar for {day} at {time}.",
            "I have {title} on {day} at {time}. Please add it.",
        ),
        "add {title} on {day}",
        {"status": "state"},
        "Done: {title} is on {day} at {time}.",
    ),
    Tool(
        "search_books",
        "Searches the library's books by author.",
        (Argument("author", "string", "author"),),
        ("Do you have books by {author}?", "Which books by {author} can I borrow?"),
        "find books by {author}",
        {"count": "few"},
        "Yes, there are {count} books by {author}.",
    ),
    Tool(
        "play_song",
        "Plays a song.",
        (Argument("title", "string", "title"),),
        ("Play {title}.", "I would like to hear {title}, please."),
        "hear {title}",
        {"status": "state"},
        "Here is {title}. Enjoy!",
    ),
    Tool(
        "order_food",
        "Orders a dish for delivery.",
        (
            Argument("dish", "string", "dish"),
            Argument("size", "string", "size"),
        ),
        ("Order a {size} {dish} for me.", "I am hungry. A {size} {dish}, please."),
        "order a {size} {dish}",
        {"minutes": "minutes"},
        "Your {size} {dish} will arrive in {minutes} minutes.",
    ),
    Tool(
        "next_train",
        "Finds the next train between two cities.",
        (
            Argument("origin", "string", "city"),
            Argument("destination", "string", "city"),
        ),
        (
            "When does the next train leave {origin} for {destination}?",
            "I need a train from {origin} to {destination}.",
        ),
        "take a train from {origin} to {destination}",
        {"departure": "time", "platform": "few"},
        "The next train leaves at {departure} from platform {platform}.",
    ),
    Tool(
        "switch_light",
        "Switches a light on or off.",
        (
            Argument("room", "string", "room"),
            Argument("on", "boolean", "switch"),
        ),
        ("Turn the light in the {room} {on}.", "Light {on} in the {room}, please."),
        "switch the light in the {room} {on}",
        {"status": "state"},
        "The light in the {room} is {on}.",
    ),
    Tool(
        "translate_word",
        "Translates a word.",
        (
            Argument("word", "string", "word"),
            Argument("language", "string", "language"),
        ),
        (
            "What is {word} in {language}?",
            "How do you say {word} in {language}?",
        ),
        "know {word} in {language}",
        {"entries": "few"},
        "The dictionary has {entries} entries for {word} in {language}.",
    ),
    Tool(
        "measure_distance",
        "Measures the distance between two cities.",
        (
            Argument("start", "string", "city"),
            Argument("end", "string", "city"),
            Argument("unit", "string", "unit"),
        ),
        (
            "How far is it from {start} to {end} in {unit}?",
            "Give me the distance between {start} and {end} in {unit}.",
        ),
        "know how far {end} is from {start}",
        {"distance": "hundreds"},
        "From {start} to {end} it is {distance} {unit}.",
    ),
    Tool(
        "list_tasks",
        "Lists the open tasks of a person.",
        (Argument("owner", "string", "person"),),
        ("What does {owner} still have to do?", "Show me the tasks of {owner}."),
        "see the tasks of {owner}",
        {"open": "few", "next": "event"},
        "{owner} has {open} open tasks. The next one is {next}.",
    ),
    Tool(
        "check_stock",
        "Checks how many pieces of a product are in stock.",
        (Argument("product", "string", "product"),),
        ("Are there any {product} left?", "How many {product} do we have?"),
        "know how many {product} there are",
        {"pieces": "hundreds"},
        "There are {pieces} {product} in stock.",
    ),
    Tool(
        "book_hotel",
        "Books a room in a hotel.",
        (
            Argument("city", "string", "city"),
            Argument("guests", "integer", "few"),
            Argument("nights", "integer", "few"),
        ),
        (
            "Book a room in {city} for {guests} guests and {nights} nights.",
            "We need a hotel in {city}: {nights} nights, {guests} people.",
        ),
        "stay in {city} for {nights} nights",
        {"price": "hundreds"},
        "Your room in {city} is booked for {nights} nights. It costs {price} euros.",
    ),
)

HELD_OUT_TOOLS = (
    Tool(
        "lookup_flight",
        "Looks up a flight to a city.",
        (
            Argument("destination", "string", "city"),
            Argument("weekday", "string", "day"),
        ),
        (
            "Is there a flight to {destination} on {weekday}?",
            "I want to fly to {destination} on {weekday}.",
        ),
        "fly to {destination}",
        {"takeoff": "time"},
        "There is a flight to {destination} at {takeoff}.",
    ),
    Tool(
        "account_balance",
        "Returns the balance of an account.",
        (Argument("account", "string", "account"),),
        ("How much is in my {account} account?",),
        "know the balance",
        {"balance": "hundreds"},
        "Your {account} account has {balance} euros.",
    ),
    Tool(
        "water_garden",
        "Waters a part of the garden.",
        (
            Argument("bed", "string", "bed"),
            Argument("liters", "integer", "minutes"),
        ),
        ("Give the {bed} {liters} liters of water.",),
        "water the {bed}",
        {"status": "state"},
        "The {bed} got {liters} liters.",
    ),
    Tool(
        "rate_movie",
        "Saves a rating of a movie.",
        (
            Argument("movie", "string", "movie"),
            Argument("stars", "integer", "stars"),
        ),
        ("I give {movie} {stars} stars.", "Rate {movie} with {stars} stars."),
        "rate {movie}",
        {"status": "state"},
        "Your rating is saved.",
    ),
    Tool(
        "find_pharmacy",
        "Finds an open pharmacy in a district.",
        (Argument("district", "string", "district"),),
        ("Where is a pharmacy in {district} that is open?",),
        "find a pharmacy",
        {"street": "street"},
        "There is one in {street}.",
    ),
    Tool(
        "start_laundry",
        "Starts the washing machine.",
        (
            Argument("program", "string", "program"),
            Argument("degrees", "integer", "minutes"),
        ),
        ("Start the laundry with the {program} program at {degrees} degrees.",),
        "wash clothes",
        {"ends": "time"},
        "The machine will be done at {ends}.",
    ),
    Tool(
        "report_problem",
        "Reports a problem in a street to the city.",
        (
            Argument("street", "string", "street"),
            Argument("problem", "string", "problem"),
        ),
        ("There is a {problem} in {street}. Please report it.",),
        "report a {problem}",
        {"ticket": "parcel"},
        "I reported it. The number is {ticket}.",
    ),
    Tool(
        "reserve_table",
        "Reserves a table in a restaurant.",
        (
            Argument("restaurant", "string", "restaurant"),
            Argument("people", "integer", "few"),
            Argument("hour", "string", "time"),
        ),
        ("Reserve a table at {restaurant} for {people} people at {hour}.",),
        "reserve a table",
        {"status": "state"},
        "Your table is reserved.",
    ),
    Tool(
        "track_parcel",
        "Tells where a parcel is.",
        (Argument("number", "integer", "parcel"),),
        ("Where is my parcel {number}?", "Track parcel {number} for me."),
        "find a parcel",
        {"city": "city"},
        "Your parcel is in {city}.",
    ),
    Tool(
        "suggest_gift",
        "Suggests a gift for a person.",
        (
            Argument("friend", "string", "person"),
            Argument("budget", "integer", "amount", "in euros"),
        ),
        ("I need a present for {friend} for {budget} euros.",),
        "find a gift",
        {"gift": "gift"},
        "How about a {gift} for {friend}?",
    ),
)
