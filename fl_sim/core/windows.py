"""Windows of rounds and choices of clients in the clauses of an experiment: checks, and words."""

from itertools import groupby

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


def describe_rounds(first: int, last: int | None) -> str:
    """Return rounds in words.

    >>> describe_rounds(4, 5), describe_rounds(3, 6), describe_rounds(2, 2)
    ('in rounds 4 and 5', 'in rounds 3 to 6', 'in round 2')
    >>> describe_rounds(5, None), describe_rounds(1, 5)
    ('from round 5', 'until round 5')
    """
    if last is None:
        return f"from round {first}"
    if first == last:
        return f"in round {first}"
    if first == 1:
        return f"until round {last}"
    return f"in rounds {first} {'and' if last == first + 1 else 'to'} {last}"


def name_numbers(one: str, many: str, numbers: tuple[int, ...]) -> str:
    """Return numbers in words, neighbours as a range.

    >>> name_numbers("client", "clients", (0, 1, 2, 3, 7)), name_numbers("class", "classes", (4,))
    ('clients 0 to 3 and 7', 'class 4')
    """
    ordered = sorted(set(numbers))
    if len(ordered) == 1:
        return f"{one} {ordered[0]}"
    runs = [
        [number for _, number in group]
        for _, group in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0])
    ]
    words = list[str]()
    for run in runs:
        words += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return f"{many} {', '.join(words[:-1])}{' and ' if len(words) > 1 else ''}{words[-1]}"


def name_clients(clients: tuple[int, ...], count: int | None) -> tuple[str, bool]:
    """Return clients in words, and whether it is one client."""
    if clients:
        return name_numbers("client", "clients", clients), len(clients) == 1
    if count is None:
        return "all clients", False
    return f"{count} client{'s' * (count != 1)} drawn by the seed", count == 1


def conjugate(action: str, is_one: bool) -> str:
    """Return a verb phrase such as `flip labels` for one client, or for several."""
    verb, _, rest = action.partition(" ")
    return f"{verb}{'s' * is_one} {rest}".rstrip()
