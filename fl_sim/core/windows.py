"""Windows of rounds, and choices of clients, as clauses of an experiment name them."""

from fl_sim.core.errors import require


def check_choice(clients: tuple[int, ...], num_clients: int | None) -> None:
    """Refuse wrong numbers of clients, and clients that are both named and drawn."""
    distinct = len(set(clients)) == len(clients) and all(client >= 0 for client in clients)
    require(distinct, "clients", "different numbers, from 0", clients)
    require(num_clients is None or num_clients >= 0, "num_clients", "at least 0", num_clients)
    allowed = "None where clients are named"
    require(num_clients is None or not clients, "num_clients", allowed, num_clients)


def check_window(first: int, last: int | None) -> None:
    """Refuse rounds that do not exist, and a last round before the first."""
    require(first >= 1, "first_round", "at least 1", first)
    fits = last is None or last >= first
    require(fits, "last_round", f"at least first_round = {first}, or None", last)


def covers(round_num: int, first: int, last: int | None) -> bool:
    """Return whether a round is between two others, both included; None: there is no last.

    >>> covers(4, 3, 5), covers(6, 3, 5), covers(6, 3, None)
    (True, False, True)
    """
    return first <= round_num and (last is None or round_num <= last)
