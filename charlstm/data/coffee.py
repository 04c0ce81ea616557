"""The embedded corpus: sentences about coffee from a small probabilistic grammar.

The grammar has no recursion and gives each sentence exactly one derivation, so the probability
of a text is the product of the choices that made it, and the entropy per character is known
exactly: the expected sum of -log p over a sentence, divided by its expected length (sentences are
drawn independently and each ends with the line feed that occurs nowhere else).
"""

from __future__ import annotations

import math
from functools import cache
from random import Random

CHARACTERS = 500_000  # the corpus ends with the sentence that reaches this length

# Each symbol: its alternatives as (weight, parts). A part in capitals is a symbol, any other text.
GRAMMAR: dict[str, list[tuple[float, tuple[str, ...]]]] = {
    "SENTENCE": [
        (5, ("ORDER", "\n")),
        (4, ("OPINION", "\n")),
        (3, ("SPEECH", "\n")),
        (3, ("RECIPE", "\n")),
        (2, ("MORNING", "\n")),
    ],
    "ORDER": [
        (3, ("NAME", " orders ", "DRINK", "MILK", " at the ", "PLACE", ".")),
        (2, ("NAME", " wants ", "DRINK", " to go.")),
        (1, ("NAME", " and ", "NAME", " share ", "DRINK", "MILK", ".")),
    ],
    "DRINK": [(3, ("a ", "SIZE", " ", "KIND")), (2, ("a double ", "KIND")), (1, ("two cups of ", "BREW"))],
    "SIZE": [(3, ("small",)), (2, ("large",)), (1, ("tiny",))],
    "KIND": [
        (5, ("espresso",)), (4, ("cappuccino",)), (4, ("latte",)), (2, ("flat white",)),
        (2, ("macchiato",)), (1, ("cortado",)),
    ],
    "BREW": [(4, ("filter coffee",)), (2, ("cold brew",)), (1, ("decaf",))],
    "MILK": [(4, ("",)), (2, (" with ", "MILK_KIND", " milk")), (1, (" without sugar",))],
    "MILK_KIND": [(3, ("oat",)), (2, ("whole",)), (1, ("almond",)), (1, ("soy",))],
    "PLACE": [(4, ("counter",)), (3, ("corner cafe",)), (2, ("station",)), (1, ("night market",))],
    "NAME": [
        (4, ("Anna",)), (3, ("Ben",)), (3, ("Clara",)), (2, ("David",)), (2, ("Mina",)),
        (1, ("Professor Bohn",)),
    ],
    "OPINION": [
        (3, ("The ", "BREW", " tastes ", "DEGREE", "TASTE", ".")),
        (2, ("These beans from ", "ORIGIN", " smell of ", "NOTE", " and ", "NOTE", ".")),
        (2, ("NAME", " says that ", "ORIGIN", " grows the ", "BEST", " beans.")),
    ],
    "DEGREE": [(3, ("",)), (2, ("rather ",)), (2, ("very ",)), (1, ("a little too ",))],
    "TASTE": [(3, ("strong",)), (3, ("bitter",)), (2, ("mild",)), (2, ("sweet",)), (1, ("sour",))],
    "ORIGIN": [(4, ("Brazil",)), (3, ("Ethiopia",)), (3, ("Colombia",)), (2, ("Kenya",)), (1, ("Sumatra",))],
    "NOTE": [(4, ("chocolate",)), (3, ("nuts",)), (2, ("lemon",)), (2, ("caramel",)), (1, ("jasmine",))],
    "BEST": [(2, ("best",)), (1, ("finest",)), (1, ("most expensive",))],
    "SPEECH": [
        (3, ("\"Is the ", "KIND", " ", "STATE", "?\" asks ", "NAME", ".")),
        (2, ("\"One more ", "KIND", ", please!\" says ", "NAME", ".")),
        (1, ("\"No, thanks,\" says ", "NAME", ", \"I had ", "COUNT", " already.\"")),
    ],
    "STATE": [(4, ("ready",)), (3, ("hot",)), (1, ("still warm",))],
    "COUNT": [(4, ("two",)), (3, ("three",)), (2, ("four",)), (1, ("seven",))],
    "RECIPE": [
        (2, ("Grind ", "GRAMS", " grams of beans ", "GRIND", " and brew them for ", "COUNT", " minutes.")),
        (1, ("Heat the ", "MILK_KIND", " milk to ", "HEAT", " degrees, then pour it slowly.")),
    ],
    "GRAMS": [(3, ("15",)), (3, ("18",)), (2, ("20",)), (1, ("60",))],
    "GRIND": [(2, ("finely",)), (1, ("coarsely",))],
    "HEAT": [(2, ("60",)), (2, ("65",)), (1, ("70",))],
    "MORNING": [
        (2, ("At ", "HOUR", " o'clock ", "NAME", " opens the ", "PLACE", ".")),
        (1, ("On ", "DAY", " the coffee is free for ", "NAME", ".")),
    ],
    "HOUR": [(3, ("six",)), (4, ("seven",)), (2, ("eight",))],
    "DAY": [(2, ("Mondays",)), (1, ("Fridays",)), (1, ("Sundays",))],
}  # fmt: skip


def text(characters: int = CHARACTERS, seed: int = 0) -> str:
    """At least `characters` of whole sentences; the same text for the same seed on any machine."""
    rng = Random(seed)  # its random() is promised to give the same numbers in every version
    pieces: list[str] = []
    length = 0
    while length < characters:
        sentence, _ = draw("SENTENCE", rng)
        pieces.append(sentence)
        length += len(sentence)
    return "".join(pieces)


def draw(symbol: str, rng: Random) -> tuple[str, float]:
    """What a symbol becomes in one random derivation, and the derivation's -log p in nats."""
    alternatives = GRAMMAR[symbol]
    total = sum(weight for weight, _ in alternatives)
    point = rng.random() * total
    for weight, parts in alternatives:  # noqa: B007
        point -= weight
        if point < 0:
            break
    pieces, nats = [], -math.log(weight / total)
    for part in parts:
        piece, more = draw(part, rng) if part in GRAMMAR else (part, 0.0)
        pieces.append(piece)
        nats += more
    return "".join(pieces), nats


def entropy_per_character() -> float:
    """Nats per character below which no model of this source can stay."""
    nats, length = _expectation("SENTENCE")
    return nats / length


@cache
def _expectation(symbol: str) -> tuple[float, float]:
    """Expected -log p of a symbol's derivation, and expected length of what it becomes."""
    if symbol not in GRAMMAR:
        return 0.0, float(len(symbol))
    alternatives = GRAMMAR[symbol]
    total = sum(weight for weight, _ in alternatives)
    nats = length = 0.0
    for weight, parts in alternatives:
        p = weight / total
        inside = [_expectation(part) for part in parts]
        nats += p * (-math.log(p) + sum(n for n, _ in inside))
        length += p * sum(m for _, m in inside)
    return nats, length
