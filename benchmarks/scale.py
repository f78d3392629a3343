"""Model of the cost of a round besides training, with predictions for large rounds."""

import re
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

CASE = re.compile(r"(\d+) clients x ([\d.]+)M")
ENGINES = ("local", "ray", "flower")
LARGE = [(clients, size) for clients in (10**4, 10**5, 10**6) for size in (10**3, 10**6, 10**9)]


class Point(NamedTuple):
    """A measured round: CPU seconds of the whole process tree."""

    clients: int
    parameters: float
    seconds: float


class Cost(NamedTuple):
    """Seconds per round, per client, and per parameter of each client."""

    per_round: float
    per_client: float
    per_parameter: float

    def predict(self, clients: int, parameters: float) -> float:
        """Return the seconds of a round."""
        return self.per_round + clients * (self.per_client + parameters * self.per_parameter)


def select_points(rows: list[dict[str, object]], engine: str) -> list[Point]:
    """Return the measured rounds without training of an engine."""
    result = []
    for row in rows:
        case = CASE.fullmatch(str(row["case"]))
        if case and row["workload"] == "W0" and row["engine"] == engine:
            size = 1e6 * float(case[2])
            result.append(Point(int(case[1]), size, float(str(row["cpu_seconds"]))))
    return result


def fit_cost(measured: list[Point]) -> Cost:
    """Return the non-negative cost that fits best, by least squares of ratios."""
    columns = [[1.0, p.clients, p.clients * p.parameters] for p in measured]
    shares = np.array(columns) / np.array([[p.seconds] for p in measured])
    scale = shares.max(0)
    result, _ = nnls(shares / scale, np.ones(len(measured)))
    return Cost(*(float(value) for value in result / scale))


def format_tables(rows: list[dict[str, object]]) -> str:
    """Return the measured costs and the predictions as Markdown."""
    costs = {}
    for engine in ENGINES:
        measured = select_points(rows, engine)
        if len(measured) >= 4:
            costs[engine] = fit_cost(measured), measured
    heads = ("ms per round", "ms per client", "ns per client and parameter", "cases", "worst fit")
    lines = [f"| engine | {' | '.join(heads)} |", "|---|---|---|---|---|---|"]
    for engine, (cost, measured) in costs.items():
        ratios = [cost.predict(p.clients, p.parameters) / p.seconds for p in measured]
        worst = max(*ratios, *(1 / ratio for ratio in ratios))
        numbers = (1e3 * cost.per_round, 1e3 * cost.per_client, 1e9 * cost.per_parameter)
        shown = " | ".join(f"{number:.3g}" for number in numbers)
        lines.append(f"| {engine} | {shown} | {len(measured)} | x {worst:.1f} |")
    lines += ["", "| clients per round | parameters | " + " | ".join(costs) + " |"]
    lines.append("|---|---|" + "---|" * len(costs))
    for clients, size in LARGE:
        seconds = " | ".join(format_time(cost.predict(clients, size)) for cost, _ in costs.values())
        lines.append(f"| {clients:,} | {size:,} | {seconds} |")
    return "\n".join(lines)


def format_time(seconds: float) -> str:
    """Return a time in a suitable unit."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"
