"""Effect of protection, from three accuracies.

A_all is that of training with all images clean, A_clean with the clean part alone, and A_mix with
clean and protected images together. A_mix is high even under perfect protection if the clean part
suffices, so it is always compared with the other two.
"""

MIN_DIFFERENCE = 0.005  # below half a point between A_all and A_clean, a ratio would be noise


def utility_gap(a_clean: float, a_mix: float) -> float:
    """Return A_clean - A_mix: 0 if the protected images add nothing, as they should.

    Above 0 they hurt; below 0 a model still learns from them.
    """
    return a_clean - a_mix


def extraction_ratio(a_all: float, a_clean: float, a_mix: float) -> float:
    """Return (A_mix - A_clean) / (A_all - A_clean): 0 for perfect, 1 for useless protection.

    NaN if A_all is not at least half a point above A_clean.

    >>> round(extraction_ratio(a_all=0.86, a_clean=0.80, a_mix=0.83), 2)
    0.5
    """
    difference = a_all - a_clean
    return (a_mix - a_clean) / difference if difference >= MIN_DIFFERENCE else float("nan")
