"""Token texts made visible: line breaks, control characters, and characters that need a neighbor."""

from __future__ import annotations

import unicodedata

LINE_BREAK = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
DOTTED_CIRCLE = "\N{DOTTED CIRCLE}"
# A token whose character is completed by a later token.
PENDING = "\N{MIDDLE DOT}"


def visible_text(token: str) -> str:
    """A token's text with line breaks and control characters replaced by visible symbols.

    A token of invisible characters only shows their code points. A mark that combines with the character before it,
    in another token, gets a dotted circle, as in Unicode's charts.

    Example:
        >>> visible_text("a\\n"), visible_text("\\x0e$"), visible_text("\\u200d"), visible_text("")
        ('a↵', '�$', 'U+200D', '·')
    """
    if not token:
        return PENDING
    categories = [unicodedata.category(character) for character in token]
    if all(category == "Cf" for category in categories):
        return " ".join(f"U+{ord(character):04X}" for character in token)
    signs = {"\n": LINE_BREAK, "\t": "\t"}
    shown = "".join(
        signs.get(character, UNKNOWN if category in ("Cc", "Cs") else character)
        for character, category in zip(token, categories, strict=True)
    )
    return DOTTED_CIRCLE + shown if categories[0].startswith("M") else shown
