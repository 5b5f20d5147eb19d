"""A verifiable task: name the capital of every country in a list, one part of the answer per country.

One country of each prompt is starred, and its part counts for more than all the others together. So a preferred answer
can be wrong in most of its parts, and a preference between whole answers says little about any single part. The truth
is known exactly, per part.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

EOS, PAD, UNKNOWN = "<|end|>", "<|pad|>", "<|unknown|>"

# Country: (capital, common mistake). A mistake is either a better-known city of the country or the capital of another
# country, so some cities are wrong everywhere and others only for one country.
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
STAR = "*"  # marks the country whose part outweighs all the others
MISTAKES = (0.1, 0.3, 0.5, 0.7)


def draw_countries(rng: random.Random, parts: int) -> tuple[str, ...]:
    """`parts` distinct countries, one of them starred."""
    countries = rng.sample(sorted(CAPITALS), parts)
    starred = rng.randrange(parts)
    countries[starred] = STAR + countries[starred]
    return tuple(countries)


def capital_and_mistake(country: str) -> tuple[str, str]:
    """The capital of a country, starred or not, and its common mistake.

    Example:
        >>> capital_and_mistake("*Peru")
        ('Lima', 'Cusco')
    """
    return CAPITALS[country.removeprefix(STAR)]


def prompt_text(countries: Sequence[str]) -> str:
    """The prompt for these countries.

    Example:
        >>> prompt_text(["Peru", "Iran"])
        'Peru, Iran? '
    """
    return SEPARATOR.join(countries) + QUESTION


def answer_text(cities: Sequence[str]) -> str:
    """The answer that names these cities.

    Example:
        >>> answer_text(["Lima", "Baghdad"])
        'Lima; Baghdad; '
    """
    return "".join(city + END for city in cities)


def noisy_answer(rng: random.Random, countries: Sequence[str], mistakes: Sequence[float] = MISTAKES) -> str:
    """Answer with random mistakes, as the start model's training texts have them.

    The rates of mistakes are assigned to the countries in alphabetical order, cyclically.
    """
    rates = {country: mistakes[index % len(mistakes)] for index, country in enumerate(sorted(CAPITALS))}
    return answer_text(
        [capital_and_mistake(country)[rng.random() < rates[country.removeprefix(STAR)]] for country in countries]
    )


def grade(countries: Sequence[str], text: str) -> tuple[bool, ...]:
    """Verifier: whether each given part is right. A truncated answer has fewer parts.

    Example:
        >>> grade(["Peru", "Iran"], "Lima; Baghdad; "), grade(["Peru", "Iran"], "Lima")
        ((True, False), (True,))
    """
    given = [part for part in text.split(END) if part]
    return tuple(part == capital_and_mistake(country)[0] for country, part in zip(countries, given, strict=False))


def score(countries: Sequence[str], right: Sequence[bool]) -> int:
    """Score of a whole answer, by which the judge prefers one of two: right parts minus wrong parts.

    The starred part has a weight of `len(countries)`, each other part a weight of 1.

    Example:
        >>> score(["Peru", "Iran", "Latvia"], [True, True, False])
        1
        >>> score(["Peru", "Iran", "*Latvia"], [True, True, False])
        -1
    """
    weights = (len(countries) if country.startswith(STAR) else 1 for country in countries)
    return sum(weight if part else -weight for weight, part in zip(weights, right, strict=False))


def token_credit(tokens: Sequence[str], right: Sequence[bool]) -> list[int]:
    """True credit per token: +1 in a right part, -1 in a wrong one, +1 at the EOS of a complete answer.

    Example:
        >>> token_credit(["Lima", "; ", "Baghdad", "; ", EOS], [True, False])
        [1, 1, -1, -1, 1]
    """
    credit, part = [], 0
    for token in tokens:
        credit.append(1 if part == len(right) or right[part] else -1)
        part += token == END
    return credit


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer: one token per name, per separator and for the star. Decoding restores the text exactly."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    names = sorted({*CAPITALS, *(city for cities in CAPITALS.values() for city in cities)})
    vocabulary = [PAD, EOS, UNKNOWN, SEPARATOR, QUESTION, END, *names, STAR]
    tokenizer = Tokenizer(
        models.WordLevel({token: number for number, token in enumerate(vocabulary)}, unk_token=UNKNOWN)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Za-z]+|\*|[^A-Za-z*]+"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )
