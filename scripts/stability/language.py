"""A small language that the long tiers' tiny models know: stories of a day, drawn from a grammar.

The tiny models can be taught no real English in minutes: plain paragraphs stay near the uniform guess for them, and a
policy cannot lose what it never had. Of this grammar they learn to read stories that they have never seen almost as
well as can be. Half of their pretraining is such stories; no preference pair holds one. The ground truth reads
others (`FRESH`): how well the policy still knows a language that training was not asked to change.
"""

from __future__ import annotations

import random

FRESH = "fresh"  # the draw of the stories that no model has read
TIMES = (
    "In the morning",
    "At noon",
    "In the evening",
    "Before breakfast",
    "After the rain",
    "On Sunday",
    "Late at night",
)
PEOPLE = (
    *(("Anna", "she", "her"), ("Clara", "she", "her"), ("Ruth", "she", "her"), ("Maria", "she", "her")),
    *(("Peter", "he", "his"), ("Thomas", "he", "his"), ("Jakob", "he", "his"), ("Simon", "he", "his")),
)
GOODS = {  # what is carried -> in what, and where it is sold
    "apples": ("a basket", "the market"),
    "bread": ("a cloth bag", "the inn"),
    "milk": ("a tin can", "the dairy"),
    "wood": ("a small cart", "the sawmill"),
    "wool": ("a large sack", "the weaver"),
    "fish": ("a wet box", "the harbour"),
    "honey": ("a clay jar", "the chapel"),
    "flour": ("a paper bag", "the bakery"),
}
WAYS = {  # a road -> how one goes on it
    "The road was wet": "walked slowly",
    "The path was steep": "rested twice",
    "The street was empty": "sang a song",
    "The bridge was closed": "took the ferry",
    "The wind was cold": "wore a thick coat",
    "The sun was hot": "stayed in the shade",
}
BOUGHT = ("a new hat", "two candles", "a warm soup", "some blue paint", "a sharp knife", "a box of nails", "three eggs")
ENDS = ("went home by the river", "slept until the sun rose", "wrote a letter to an old friend", "fed the grey cat")


def story(draw: random.Random) -> str:
    """Four sentences; the later ones keep to the person, the goods and the place of the first."""
    person, pronoun, theirs = draw.choice(PEOPLE)
    goods, way = draw.choice(list(GOODS)), draw.choice(list(WAYS))
    holder, place = GOODS[goods]
    then = pronoun.capitalize()
    return (
        f"{draw.choice(TIMES)} {person} carried {holder} of {goods} to {place}. {way}, so {pronoun} {WAYS[way]}."
        f" At {place} {pronoun} sold all of {theirs} {goods} and bought {draw.choice(BOUGHT)}."
        f" {then} was content and {draw.choice(ENDS)}."
    )


def stories(count: int, of: str) -> list[str]:
    """`count` different stories of the draw named `of`; none of another draw is among them.

    A story belongs to `FRESH` or not by its text alone, so the two can never share one.
    """
    draw, found = random.Random(of), dict[str, None]()
    while len(found) < count:
        text = story(draw)
        if (sum(map(ord, text)) % 4 == 0) == (of == FRESH):
            found[text] = None
    return list(found)
