"""A verifiable task: name the capital of every country in a list, one part of the answer per country.

The parts of an answer are independent, so a preferred answer still holds wrong parts and a rejected one right ones:
a preference between whole answers says little about any single part. What is right is known exactly, per part.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

EOS, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"

# Country: (capital, the answer often given instead). The mistakes are of two kinds: the better-known city, and the
# capital of a country with a similar name or next door. So some cities are wrong everywhere, others only here.
CAPITALS = {
    "Australia": ("Canberra", "Sydney"),
    "Austria": ("Vienna", "Budapest"),
    "Bolivia": ("Sucre", "Lima"),
    "Brazil": ("Brasilia", "Rio"),
    "Cameroon": ("Yaounde", "Douala"),
    "Canada": ("Ottawa", "Toronto"),
    "China": ("Beijing", "Shanghai"),
    "Ecuador": ("Quito", "Bogota"),
    "Colombia": ("Bogota", "Quito"),
    "Estonia": ("Tallinn", "Riga"),
    "Germany": ("Berlin", "Bonn"),
    "Hungary": ("Budapest", "Bucharest"),
    "India": ("Delhi", "Mumbai"),
    "Iran": ("Tehran", "Baghdad"),
    "Iraq": ("Baghdad", "Tehran"),
    "Italy": ("Rome", "Milan"),
    "Kazakhstan": ("Astana", "Almaty"),
    "Latvia": ("Riga", "Vilnius"),
    "Lithuania": ("Vilnius", "Riga"),
    "Morocco": ("Rabat", "Casablanca"),
    "Myanmar": ("Naypyidaw", "Yangon"),
    "Niger": ("Niamey", "Abuja"),
    "Nigeria": ("Abuja", "Lagos"),
    "Norway": ("Oslo", "Stockholm"),
    "Pakistan": ("Islamabad", "Karachi"),
    "Paraguay": ("Asuncion", "Montevideo"),
    "Peru": ("Lima", "Cusco"),
    "Romania": ("Bucharest", "Budapest"),
    "Slovakia": ("Bratislava", "Ljubljana"),
    "Slovenia": ("Ljubljana", "Bratislava"),
    "Sweden": ("Stockholm", "Oslo"),
    "Switzerland": ("Bern", "Zurich"),
    "Syria": ("Damascus", "Aleppo"),
    "Tanzania": ("Dodoma", "Daressalam"),
    "Turkey": ("Ankara", "Istanbul"),
    "Uruguay": ("Montevideo", "Asuncion"),
    "Vietnam": ("Hanoi", "Saigon"),
    "Zambia": ("Lusaka", "Harare"),
    "Zimbabwe": ("Harare", "Lusaka"),
}

SEPARATOR, QUESTION, END = ", ", "? ", "; "
KEY = "*"  # marks the country of a prompt that counts for more than all the others
MISTAKES = (0.1, 0.3, 0.5, 0.7)


def draw_countries(rng: random.Random, parts: int, *, key: bool = False) -> tuple[str, ...]:
    """Distinct countries; with `key`, one of them is starred."""
    countries = rng.sample(sorted(CAPITALS), parts)
    if key:
        starred = rng.randrange(parts)
        countries[starred] = KEY + countries[starred]
    return tuple(countries)


def capital_and_mistake(country: str) -> tuple[str, str]:
    """
    Example:
        >>> capital_and_mistake("*Peru")
        ('Lima', 'Cusco')
    """
    return CAPITALS[country.removeprefix(KEY)]


def prompt_text(countries: Sequence[str]) -> str:
    """
    Example:
        >>> prompt_text(["Peru", "Iran"])
        'Peru, Iran? '
    """
    return SEPARATOR.join(countries) + QUESTION


def answer_text(cities: Sequence[str]) -> str:
    """
    Example:
        >>> answer_text(["Lima", "Baghdad"])
        'Lima; Baghdad; '
    """
    return "".join(city + END for city in cities)


def noisy_answer(rng: random.Random, countries: Sequence[str], mistakes: Sequence[float] = MISTAKES) -> str:
    """What the start model learns from: texts that get some countries wrong rarely, others mostly.

    The countries in alphabetical order take turns with these shares of mistakes.
    """
    rates = {country: mistakes[index % len(mistakes)] for index, country in enumerate(sorted(CAPITALS))}
    return answer_text(
        [capital_and_mistake(country)[rng.random() < rates[country.removeprefix(KEY)]] for country in countries]
    )


def grade(countries: Sequence[str], text: str) -> tuple[bool, ...]:
    """The verifier: whether each part that the answer gives is right. An answer that was cut off gives fewer parts.

    Example:
        >>> grade(["Peru", "Iran"], "Lima; Baghdad; "), grade(["Peru", "Iran"], "Lima")
        ((True, False), (True,))
    """
    given = [part for part in text.split(END) if part]
    return tuple(part == capital_and_mistake(country)[0] for country, part in zip(countries, given, strict=False))


def score(countries: Sequence[str], right: Sequence[bool]) -> int:
    """What the judge prefers answers by: a right part earns as much as a wrong one costs.

    The part of a starred country weighs more than all the others together.

    Example:
        >>> score(["Peru", "Iran", "Latvia"], [True, True, False])
        1
        >>> score(["Peru", "Iran", "*Latvia"], [True, True, False])
        -1
    """
    weights = (len(countries) if country.startswith(KEY) else 1 for country in countries)
    return sum(weight if part else -weight for weight, part in zip(weights, right, strict=False))


def token_credit(tokens: Sequence[str], right: Sequence[bool]) -> list[int]:
    """The true credit of every token: +1 in a right part, -1 in a wrong one.

    Example:
        >>> token_credit(["Lima", "; ", "Baghdad", "; "], [True, False])
        [1, 1, -1, -1]
    """
    credit, part = [], 0
    for token in tokens:
        credit.append(1 if right[part] else -1)
        part += token == END
    return credit


def make_tokenizer(*, key: bool = False) -> PreTrainedTokenizerFast:
    """One token per name and per separator, with `key` one for the star; decoding gives the text back as it was."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    names = sorted({*CAPITALS, *(city for cities in CAPITALS.values() for city in cities)})
    vocabulary = [PAD, EOS, UNKNOWN, SEPARATOR, QUESTION, END, *names, *([KEY] if key else [])]
    tokenizer = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate(vocabulary)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+|\*|[^A-Za-z*]+"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )
