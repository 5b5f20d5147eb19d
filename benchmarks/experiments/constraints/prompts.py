"""Prompts: an instruction about a topic, and the constraints with the one that matters most."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.experiments.constraints.rules import RULES

TOPICS = tuple(
    " ".join(
        """
        rivers, bread, winter, trains, the moon, honey bees, old libraries, coffee, volcanoes, bicycles, the sea,
        chess, gardens, clocks, mountains, dogs, music, rain, bridges, cheese, lighthouses, football, trees, painting,
        schools, airplanes, markets, dreams, photography, soup, wolves, deserts, castles, tea, robots, snow, birds,
        maps, dancing, islands, horses, windmills, ice cream, theaters, apples, stars, letters, tents, violins,
        chocolate, caves, owls, ships, kites, hospitals, candles, whales, tomatoes, museums, sleep, mirrors, salt,
        lakes, rabbits, doctors, pianos, storms, cities, farms, rice, glass, elephants, poems, roads, cameras,
        butterflies, cotton, waterfalls, cats, newspapers, spring, roses, elevators, gold, penguins, swimming,
        pencils, ants, harbors, summer, paper, spiders, wine, umbrellas, foxes, running, planets, wool, sand, frogs,
        tennis, autumn, turtles, oranges, shoes, fire, bells, pottery, bears, garlic, trams, potatoes, parks, sharks,
        wheels, flutes, wood, beaches, eagles, fog, drums
        """.split()
    ).split(", ")
)
INSTRUCTIONS = (
    "Write two sentences about {topic}.",
    "Describe {topic} in two sentences.",
    "Why do people like {topic}?",
    "What is special about {topic}?",
    "Tell me about {topic} in two sentences.",
    "Give me a fact about {topic}.",
)


@dataclass(frozen=True)
class Prompt:
    """A request, and the index of its most important rule."""

    request: str
    first: int

    @property
    def messages(self) -> list[dict[str, str]]:
        """Chat messages: the constraints as the system's, the request as the user's."""
        rules = ", ".join(rule.instruction for rule in RULES)
        system = f"Two short sentences with {rules}. Above all, {RULES[self.first].instruction}."
        return [{"role": "system", "content": system}, {"role": "user", "content": self.request}]


def draw_prompts(rng: random.Random, *, held_out: bool) -> Iterator[Prompt]:
    """Random prompts without end; every fourth topic is held out for evaluation."""
    topics = [topic for index, topic in enumerate(TOPICS) if (index % 4 == 3) == held_out]
    while True:
        request = rng.choice(INSTRUCTIONS).format(topic=rng.choice(topics))
        yield Prompt(request, rng.randrange(len(RULES)))
