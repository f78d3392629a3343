"""All ways to leave f of n updates out, for rules that search for the best one."""

from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from jaxtyping import Int64
from torch import Tensor


@lru_cache(maxsize=2)
def kept_subsets(count: int, num_left_out: int) -> Int64[Tensor, "s m"]:
    """Return the positions that are kept, a row a subset, in lexicographic order."""
    kept = list(combinations(range(count), count - num_left_out))
    return torch.tensor(kept, dtype=torch.int64)


def most_updates(num_left_out: int, num_subsets: int) -> int | None:
    """Return the largest n for which there are at most so many subsets; None: any.

    >>> most_updates(3, 286), most_updates(0, 1)
    (13, None)
    """
    if num_left_out == 0:
        return None
    count = num_left_out + 1
    while comb(count + 1, num_left_out) <= num_subsets:
        count += 1
    return count
