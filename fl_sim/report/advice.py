"""Advice on numbers that should not be read: what would make them readable."""

import re

ADVICE = (  # pattern of a note, and what helps
    (r"IN and \d+ OUT references", "more references: fl-sim audit --references N, or --tier 2"),
    (r"records left out, which", "more references: fl-sim audit --references N"),
    (r"outsiders; \d+ needed|either side needed", "a larger data.held_out or more images"),
    (r"empty pool|needs a population", "data.held_out above 0, and images of both kinds"),
    (r"labels alone", "more images of each class at each client"),
)


def add_advice(note: str) -> str:
    """Return the reason why a number should not be read, with what would help, if that is known.

    >>> add_advice("64 outsiders; 300 needed")
    '64 outsiders; 300 needed. What helps: a larger data.held_out or more images'
    """
    found = next((advice for pattern, advice in ADVICE if re.search(pattern, note)), "")
    return f"{note}. What helps: {found}" if found else note
