"""What protection achieves: pure functions of three accuracies.

A_all: everything clean. A_clean: trained on the clean part alone. A_mix: clean and protected
together. A high A_mix is expected even under perfect protection, because the clean part
suffices; so the three always stand side by side.
"""

MIN_ROOM = 0.005  # below half a point between A_all and A_clean, a ratio would be noise


def utility_gap(a_clean: float, a_mix: float) -> float:
    """Return A_clean - A_mix: above 0, the protected images hurt; 0, they add nothing (the
    aim of protection); below 0, they leak.
    """
    return a_clean - a_mix


def extraction_ratio(a_all: float, a_clean: float, a_mix: float) -> float:
    """Return (A_mix - A_clean) / (A_all - A_clean): 1, protection is useless; 0, perfect.

    NaN where the clean part alone is as good as everything, within half a point.

    >>> round(extraction_ratio(a_all=0.86, a_clean=0.80, a_mix=0.83), 2)
    0.5
    """
    room = a_all - a_clean
    return (a_mix - a_clean) / room if room >= MIN_ROOM else float("nan")
