"""English sentences from a small grammar."""

from __future__ import annotations

import numpy as np

_PEOPLE = (
    "my neighbour",
    "the old captain",
    "a young painter",
    "the baker",
    "our teacher",
    "her cousin",
    "the judge",
    "a tired traveller",
    "the gardener",
    "their uncle",
    "the choir",
    "a quiet student",
    "the pharmacist",
    "his boss",
    "the shy violinist",
    "a cheerful nurse",
)
_DID = (
    "found",
    "carried",
    "sold",
    "painted",
    "borrowed",
    "forgot",
    "described",
    "repaired",
    "counted",
    "noticed",
    "wanted",
    "measured",
    "returned",
    "cleaned",
    "photographed",
    "promised",
)
_THINGS = (
    "a yellow bicycle",
    "the broken clock",
    "seven wooden chairs",
    "an enormous map",
    "the church bell",
    "a jar of honey",
    "two grey horses",
    "the last ticket",
    "a pair of gloves",
    "the silver teapot",
    "some fresh bread",
    "a very long letter",
    "the garden gate",
    "an unusual stone",
    "a box of oranges",
    "three heavy books",
)
_WHERE = (
    "near the harbour",
    "behind the school",
    "in the upper village",
    "at the corner shop",
    "under the bridge",
    "beside the river",
    "on the third floor",
    "outside the theatre",
    "across the valley",
    "by the kitchen window",
    "in front of the station",
    "between two hills",
)
_WHEN = (
    "yesterday evening",
    "before breakfast",
    "on a rainy Thursday",
    "last winter",
    "during the holidays",
    "shortly after noon",
    "early this morning",
    "every other week",
    "at half past nine",
    "in late October",
)
_LINKS = ("and then", "because", "while", "although", "but", "so")


def draw_sentence(rng: np.random.Generator, shortest: int, longest: int) -> str:
    """A random sentence of `shortest` to `longest` words: clauses joined by conjunctions."""
    while True:
        text = _clause(rng)
        while len(text.split()) < shortest:
            text += f", {_pick(rng, _LINKS)} {_clause(rng)}"
        if len(text.split()) <= longest:
            return text[0].upper() + text[1:] + "."


def _clause(rng: np.random.Generator) -> str:
    words = [_pick(rng, _PEOPLE), _pick(rng, _DID), _pick(rng, _THINGS)]
    if rng.random() < 0.6:
        words.append(_pick(rng, _WHERE))
    if rng.random() < 0.5:
        words.insert(0 if rng.random() < 0.3 else len(words), _pick(rng, _WHEN))
    return " ".join(words)


def _pick(rng: np.random.Generator, phrases: tuple[str, ...]) -> str:
    return phrases[rng.integers(len(phrases))]
