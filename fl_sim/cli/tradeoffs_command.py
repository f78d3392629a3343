"""The command that draws Pareto fronts of finished runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from fl_sim.cli import terminal
from fl_sim.cli.result_commands import RUNS
from fl_sim.cli.terminal import importing, print_error
from fl_sim.core.errors import RequestError, require
from fl_sim.core.locks import refuse_unreadable

if TYPE_CHECKING:
    from fl_sim.results import Results
    from fl_sim.results.quantities import Direction, RunNumbers

FORMATS = (".svg", ".png")


def tradeoffs(
    paths: Annotated[
        list[Path],
        Argument(help="Folders of experiments, or folders of all results, such as runs/."),
    ],
    x: Annotated[
        str, Option("--x", metavar="QUANTITY", help="Quantity of the x axis, usually a cost.")
    ] = "bytes",
    y: Annotated[
        list[str] | None,
        Option(
            "--y",
            metavar="QUANTITY",
            help="Quantity of a y axis, such as accuracy, worst_client, auc or attack_success; "
            "one front for each.",
            show_default="accuracy",
        ),
    ] = None,
    minimize: Annotated[
        list[str] | None,
        Option("--minimize", metavar="QUANTITY", help="A quantity that is better lower."),
    ] = None,
    maximize: Annotated[
        list[str] | None,
        Option("--maximize", metavar="QUANTITY", help="A quantity that is better higher."),
    ] = None,
    confidence: Annotated[
        float,
        Option(min=0.5, max=0.999, help="Level of the intervals that a difference must exceed."),
    ] = 0.95,
    within: Annotated[
        list[str] | None,
        Option("--within", metavar="AXIS", help="Compare only settings with equal values of it."),
    ] = None,
    across: Annotated[
        list[str] | None,
        Option(
            "--across",
            metavar="AXIS",
            help="Compare settings with different values of it, although it belongs to data, "
            "partition, layout, domains, adversary or evaluation; or of all of one of these.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, Option(help="Write means, intervals and states of all points to this file.")
    ] = None,
    figure: Annotated[
        Path | None, Option(help="Draw the fronts into this file, .svg or .png.")
    ] = None,
) -> None:
    """Find the settings that no other beats: Pareto fronts of finished runs.

    Settings with the same data, partition, protected share, domains, attack and evaluation are
    compared, seed by seed. One counts as dominated only where another is better beyond the spread
    over seeds.
    """
    with importing():
        from fl_sim.report import tradeoffs as fronts
        from fl_sim.report.tradeoffs_table import build_fronts_table
        from fl_sim.results.quantities import RunNumbers

    for option, path in (("--csv", csv), ("--figure", figure)):
        _check_target(option, path)
    numbers = [RunNumbers(results) for results in _load(paths)]
    wanted = list(dict.fromkeys(y or ["accuracy"]))
    points, names = fronts.collect_points(numbers, [x, *wanted], within or [], across or [])
    require(len(set(names)) == len(names), "--y", "quantities other than --x, once each", names)
    directions = _find_directions(numbers, names, minimize or [], maximize or [])
    sets = [(names[0], name) for name in names[1:]] + [tuple(names)] * (len(names) > 2)
    comparisons = [
        fronts.compare(points, chosen, directions, confidence, among)
        for among in fronts.split_conditions(points).values()
        for chosen in sets
    ]
    for chosen in sets:
        own = [each for each in comparisons if each.names == chosen]
        if not any(each.places for each in own):
            missing = "; ".join(dict.fromkeys(w for each in own for w in each.left_out.values()))
            raise RequestError(f"no setting has {' and '.join(chosen)}: {missing}")
    points = fronts.keep_compared_seeds(points, comparisons)
    terminal.console.print(build_fronts_table(points, names, comparisons, directions, confidence))
    if csv:
        from fl_sim.core.atomic_io import write_text

        table = fronts.tabulate_points(points, names, comparisons, confidence)
        write_text(csv, table.to_csv(index=False))
        terminal.console.print(f"table: {csv}", soft_wrap=True)
    if figure:
        from fl_sim.core.atomic_io import write_bytes

        level = f"{100 * confidence:g} % intervals of the mean over seeds."
        drawn = [each for each in comparisons if len(each.names) == 2 and each.places]
        columns = min(3, len(names) - 1)
        drawing = fronts.draw_fronts(
            figure.stem, points, drawn, directions, level, confidence, columns, key=True
        )
        content = drawing.render("png") if figure.suffix == ".png" else drawing.svg.encode()
        write_bytes(figure, content)
        terminal.console.print(f"figure: {figure}", soft_wrap=True)
    if any(each.results.damaged for each in numbers):
        raise typer.Exit(1)


def _check_target(option: str, path: Path | None) -> None:
    """Refuse a file that cannot be written, before any work."""
    if path is None:
        return
    require(
        path.parent.is_dir() and not path.is_dir(),
        option,
        "a file in an existing folder",
        str(path),
    )
    if option == "--figure":
        require(path.suffix in FORMATS, option, "a file that ends in .svg or .png", path.name)


def _load(paths: list[Path]) -> "list[Results]":
    """Return the results of all experiments in some folders, each once."""
    from fl_sim.results import load_results

    folders: dict[Path, None] = {}
    for path in paths:
        refuse_unreadable(path)
        found = [folder for folder in (path, *sorted(path.glob("*/"))) if (folder / RUNS).exists()]
        if not found:
            raise RequestError(f"no results of runs in {path}")
        folders |= dict.fromkeys(folder.resolve() for folder in found)
    results = [load_results(folder) for folder in folders]
    for each in results:
        for line in each.damaged:
            print_error(f"damaged: {line}")
    return results


def _find_directions(
    numbers: "list[RunNumbers]", names: list[str], minimize: list[str], maximize: list[str]
) -> "dict[str, Direction]":
    """Return the direction of each quantity: that of an option, else the usual one.

    Raises:
        RequestError: If an option names no quantity of the fronts, both name it, or neither does
            and the direction is not known.
    """
    from fl_sim.report.tradeoffs import find_name
    from fl_sim.results.quantities import find_direction

    given: dict[str, Direction] = {}
    options: dict[Direction, tuple[str, list[str]]] = {
        "lower": ("--minimize", minimize),
        "higher": ("--maximize", maximize),
    }
    for direction, (option, words) in options.items():
        for word in words:
            name = find_name(numbers, word)
            require(name in names, option, f"one of {', '.join(names)}", word)
            require(name not in given, option, "a quantity that the other option lacks", word)
            given[name] = direction
    for name in names:
        known = given.get(name) or find_direction(name)
        if known is None:
            raise RequestError(
                f"whether {name} is better higher or lower is not known: give --maximize {name}, "
                f"or --minimize {name}"
            )
        given[name] = known
    return given
