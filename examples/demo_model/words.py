"""Word lists and random words for the demo model's data. Text only; no messages."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def _words(text: str) -> list[str]:
    return text.split()


def _choices(text: str) -> list[str]:
    return text.split("|")


NAMES = _words(
    """
    Ada Alan Alice Amir Anna Ben Bella Carl Chen Clara David Dana Elena Emma Eric
    Fatima Felix Finn Grace Hana Henry Hugo Ines Iris Ivan Jack Jane Jonas Julia Kai
    Karl Kenji Lara Leo Lena Liam Lily Lucas Maria Marta Max Mei Mia Milo Nina Noah
    Nora Oscar Olga Omar Paul Petra Priya Quinn Rosa Ruth Ravi Sam Sara Sofia Tara
    Theo Tom Uma Victor Vera Wendy Will Yara Yusuf Zoe Zara Bob Peter John Mary
    """
)
CITIES = _words(
    """
    Paris London Berlin Rome Madrid Tokyo Kyoto Oslo Vienna Prague Lisbon Dublin
    Athens Cairo Delhi Mumbai Lima Quito Boston Chicago Denver Dallas Seattle
    Toronto Sydney Perth Nairobi Lagos Seoul Beijing Shanghai Bangkok Hanoi Zurich
    Geneva Milan Naples Munich Hamburg Warsaw Helsinki Stockholm Copenhagen Brussels
    Amsterdam Istanbul Moscow Kyiv Budapest Havana
    """
)
WORDS = _words(
    """
    apple river stone cloud tiger lamp chair green blue red silver garden window
    music paper pencil bottle mountain ocean forest bread butter coffee sugar salt
    pepper train plane bicycle engine rocket planet star moon sun rain snow wind
    storm summer winter spring autumn dog cat horse bird fish lion bear wolf fox
    rabbit mouse house door roof table kitchen bridge road tower castle island
    desert valley lake beach shirt shoe hat coat glove ring clock phone camera radio
    guitar piano drum violin dance song story book letter word number circle square
    triangle line point gold iron copper glass wood plastic cotton wool silk orange
    lemon banana cherry grape melon peach plum onion carrot potato tomato rice pasta
    soup salad cake cookie honey milk juice water tea doctor teacher farmer pilot
    singer writer painter baker driver nurse king queen prince knight wizard dragon
    robot ghost pirate sailor happy quiet quick slow bright dark soft hard warm cold
    big small old new tall short one two three four five
    """
)
COLORS = _words(
    """
    red blue green yellow purple orange black white pink brown silver gold
    """
)
FOODS = _words(
    """
    pizza pasta rice soup salad sushi cake bread cheese curry tacos noodles
    """
)
JOBS = _words(
    """
    doctor teacher farmer pilot singer writer painter baker driver nurse lawyer
    engineer
    """
)
VERBS = _words(
    """
    get find list create delete update send check open close start stop read write
    add remove book order play move copy count show set track
    """
)
NOUNS = _words(
    """
    price item user file note task event flight hotel ticket order song movie photo
    report invoice stock room door light alarm recipe route message contact device
    sensor job page table account meeting package car weather
    """
)
ARGUMENTS = _words(
    """
    name id title city date query text amount color size count level path label kind
    topic user target code limit place value mode owner unit
    """
)
RESULT_KEYS = _words(
    """
    status result id total state value count code answer message temperature
    condition price time name level size rate wind humidity
    """
)
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Norway": "Oslo",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Poland": "Warsaw",
    "Finland": "Helsinki",
    "Sweden": "Stockholm",
    "Denmark": "Copenhagen",
    "Belgium": "Brussels",
    "Hungary": "Budapest",
    "Cuba": "Havana",
    "Thailand": "Bangkok",
    "China": "Beijing",
    "Canada": "Ottawa",
    "England": "London",
}
TOPICS = _choices(
    "quantum physics|the French revolution|love|machine learning|black "
    "holes|the stock market|rain|the meaning of life|a business plan|modern "
    "art|climate change|a legal contract|relativity|marketing|ancient "
    "Egypt|vaccines|a web server|jazz|crime|biology|a prime number|the "
    "sea|history|philosophy|the universe|cooking|football|taxes|my garden|a "
    "sorting algorithm|the moon landing|Shakespeare|the Roman "
    "empire|dinosaurs"
)

CONSONANTS = [*"bcdfghjklmnprstvwxz", "ch", "sh", "st", "tr", "br", "pl", "qu", "th"]
VOWELS = [*"aeiouy", "ai", "ee", "oo", "ou"]
ENDINGS = "nrtslkmx"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
HELD_OUT_EVERY = 8  # one word in eight of a list is kept for the evaluation
HELD_OUT_AT = 5
HELD_OUT_CAPITALS = 0.2


class Words:
    """A source of random words; with `held_out`, words that training never shows.

    `novelty` is the share of names, cities and words made from random syllables,
    `capitals` that of made-up words with a capital letter, if they are not held out.
    """

    def __init__(
        self, rng: random.Random, *, held_out: bool, novelty: float = 0.35
    ) -> None:
        self.rng = rng
        self.held_out = held_out
        self.novelty = novelty
        self.capitals = 0.0

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.random() * len(choices))]

    def known(self, choices: Sequence[str]) -> str:
        """Pick from this source's part of a list: trained or held-out words."""
        return self.pick(
            [
                word
                for place, word in enumerate(choices)
                if (place % HELD_OUT_EVERY == HELD_OUT_AT) == self.held_out
            ]
        )

    def syllables(self, *, capital: bool = False) -> str:
        """Make up a word of syllables, or of random letters one time in seven."""
        if self.chance(0.15):
            size = self.rng.randint(2, 6)
            word = "".join(self.pick(LETTERS) for _ in range(size))
        else:
            size = self.rng.randint(1, 3)
            word = "".join(
                self.pick(CONSONANTS) + self.pick(VOWELS) for _ in range(size)
            )
            word += self.pick(ENDINGS) if self.chance(0.5) else ""
        return word.capitalize() if capital else word

    def _word(self, choices: Sequence[str], *, capital: bool) -> str:
        if self.held_out or self.chance(self.novelty):
            return self.syllables(capital=capital)
        return self.pick(choices)

    def name(self) -> str:
        return self._word(NAMES, capital=True)

    def city(self) -> str:
        return self._word(CITIES, capital=True)

    def word(self) -> str:
        share = HELD_OUT_CAPITALS if self.held_out else self.capitals
        return self._word(WORDS, capital=share > 0 and self.chance(share))

    def phrase(self) -> str:
        """Draw one to four words, as in titles, queries and messages."""
        return " ".join(self.word() for _ in range(self.pick([1, 1, 2, 2, 3, 4])))

    def identifier(self, choices: Sequence[str], novelty: float = 0.6) -> str:
        """Draw a part of a tool or argument name."""
        if self.chance(novelty):
            return self.syllables()
        return self.known(choices)

    def number(self, digits: int = 3) -> int:
        return self.rng.randint(0, 10 ** self.rng.randint(1, digits) - 1)
