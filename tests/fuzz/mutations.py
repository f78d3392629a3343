"""Random changes of text, JSON and bytes, drawn from a generator."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

HOSTILE_NUMBERS = (
    "0", "-1", "1e308", "-1e308", "float('nan')", "float('inf')", "10**30", "2**63", "1e-320",
)  # fmt: skip
HOSTILE_TOKENS = (
    "None", "True", "()", "[]", "{}", "''", "'\\ud800'", "object()", "lambda: 0", "...", "1j",
    "Krum", "'sem'", "float", "print", "int('x')", "open('/nowhere')", "10**400 * 1.0",
)  # fmt: skip
HOSTILE_LINES = (
    "raise RuntimeError('of the file itself')", "1 / 0", "{}['absent']", "import nothing_there",
    "raise SystemExit(3)", "undefined_name", "AXES = 3", "SEEDS = 3", "FULL = 3", "SEEDS = (0, 0)",
    "AXES = {'seed': [1, 2]}", "AXES = {'rounds': []}", "AXES = {'name': ['a', 'b']}",
    "AXES = {'absent.field': [1]}", "EXPERIMENT = None", "del EXPERIMENT", "SEEDS = ('a',)",
    "AXES = {'rounds': 3}", "AXES = {1: [2]}", "SEEDS = (10**30,)", "f = lambda: f()\nf()",
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 10**30, 2**63, float("nan"), float("inf"), "", "x" * 5000, "\ud800",
    "../../etc/passwd", "~nosuchuser/x", [], {}, [[]], {"class": "os.system"}, {"class": 3},
    {"class": "fl_sim.experiment.Model"}, "Krum", 1.5, "1", [None], [1, 2],
)  # fmt: skip


def mutate_text(rng: random.Random, text: str) -> bytes:
    """Return Python source with one to three changes."""
    for _ in range(rng.randint(1, 3)):
        text = rng.choice(_TEXT_CHANGES)(rng, text)
    return rng.choice(_ENCODINGS)(rng, text)


def _replace_token(rng: random.Random, text: str, pattern: str, choices: tuple[str, ...]) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    match = rng.choice(found)
    return text[: match.start()] + rng.choice(choices) + text[match.end() :]


def _swap_name(rng: random.Random, text: str) -> str:
    names = tuple(set(re.findall(r"\b[A-Za-z_]{3,}\b", text)))
    return _replace_token(rng, text, r"\b[A-Za-z_]{3,}\b", names or ("name",))


def _misspell(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) or 1)
    return text[:place] + rng.choice("abcxyz_(),=.'\n") + text[place + rng.randint(0, 1) :]


def _delete_line(rng: random.Random, text: str) -> str:
    lines = text.split("\n")
    lines.pop(rng.randrange(len(lines)))
    return "\n".join(lines)


def _add_line(rng: random.Random, text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    place = rng.choice((len(lines), len(lines), rng.randrange(len(lines) + 1)))
    lines.insert(place, rng.choice(HOSTILE_LINES))
    return "\n".join(lines) + "\n"


_TEXT_CHANGES: tuple[Callable[[random.Random, str], str], ...] = (
    lambda rng, text: _replace_token(rng, text, r"\b\d+(\.\d+)?\b", HOSTILE_NUMBERS),
    lambda rng, text: _replace_token(rng, text, r"\b[\w.]+\([^()]*\)|\b\d+\b", HOSTILE_TOKENS),
    _swap_name,
    _misspell,
    _delete_line,
    _add_line,
    lambda rng, text: text[: rng.randrange(len(text) or 1)],
)
_ENCODINGS: tuple[Callable[[random.Random, str], bytes], ...] = (
    *[lambda rng, text: text.encode("utf-8", "surrogatepass")] * 9,
    lambda rng, text: text.encode("utf-16", "surrogatepass"),
    lambda rng, text: mutate_bytes(rng, text.encode("utf-8", "surrogatepass")),
)


def mutate_json(rng: random.Random, content: Any) -> bytes:
    """Return JSON with one to three changed leaves, keys or lists; sometimes damaged as bytes."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        content = _mutate_node(rng, content)
    text = json.dumps(content)
    draw = rng.random()
    if draw < 0.05:
        return ("[" * rng.choice((10, 100_000)) + text).encode()
    if draw < 0.1:
        return re.sub(r"\b\d+\b", "9" * 6000, text, count=1).encode()
    if draw < 0.15:
        key = rng.choice(re.findall(r'"(\w+)":', text) or ["x"])
        return text.replace("{", f'{{"{key}": 1, ', 1).encode()
    if draw < 0.2:
        return text.encode("utf-16")
    if draw < 0.3:
        return mutate_bytes(rng, text.encode())
    return text.encode()


def _mutate_node(rng: random.Random, node: Any) -> Any:
    """Return a tree in which one random node is changed."""
    if isinstance(node, dict) and node and rng.random() < 0.85:
        key = rng.choice(list(node))
        draw = rng.random()
        if draw < 0.1:
            return {k: v for k, v in node.items() if k != key}
        if draw < 0.2:
            return node | {rng.choice(("datset", "", "\ud800", key.upper(), key + " ")): node[key]}
        return node | {key: _mutate_node(rng, node[key])}
    if isinstance(node, list) and node and rng.random() < 0.7:
        place = rng.randrange(len(node))
        return [*node[:place], _mutate_node(rng, node[place]), *node[place + 1 :]]
    return rng.choice(HOSTILE_VALUES)


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return bytes that are cut, emptied, flipped, overwritten, or followed by others."""
    if not content:
        return rng.randbytes(8)
    place = rng.randrange(len(content))
    draw = rng.random()
    if draw < 0.25:
        return content[:place]
    if draw < 0.3:
        return b""
    if draw < 0.6:
        flipped = content[place] ^ (1 << rng.randrange(8))
        return content[:place] + bytes([flipped]) + content[place + 1 :]
    if draw < 0.8:
        length = min(rng.choice((1, 16, 4096)), len(content) - place)
        return content[:place] + bytes(length) + content[place + length :]
    if draw < 0.9:
        return content + rng.randbytes(rng.choice((1, 100)))
    return rng.randbytes(len(content) % 5000 + 1)
