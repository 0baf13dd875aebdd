"""Which prompts run together: the beginning they share, each rank's part of the work, the cheapest batches."""

from __future__ import annotations

import heapq
import math

BATCH = 24  # tokens that could run in the time that a batch needs to read the weights once (measured on a CPU)
WORTH = 0.05  # share of all tokens that a common beginning must save


def common_start(prompts: list[list[int]], ends: list[int]) -> list[int]:
    """The beginning that saves most tokens if it is run once for all prompts that have it; empty if that is too few.

    Args:
        prompts: token ids.
        ends: of each prompt, the first position that it has to run by itself.
    """
    middle = sorted(prompts)[len(prompts) // 2]  # whatever most prompts begin with, this one does
    same = [min(_alike(middle, p), end) for p, end in zip(prompts, ends, strict=True)]

    def saved(length: int) -> int:
        return length * (sum(n >= length for n in same) - 1)

    best = max(range(len(middle) + 1), key=saved)
    return middle[:best] if saved(best) >= WORTH * sum(map(len, prompts)) else []


def shares(tokens: list[int], world: int) -> list[list[int]]:
    """Each rank's prompts, longest first: the next longest goes to the rank that has fewest tokens so far."""
    parts: list[list[int]] = [[] for _ in range(world)]
    loads = [(0, rank) for rank in range(world)]
    for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        load, rank = heapq.heappop(loads)
        parts[rank].append(i)
        heapq.heappush(loads, (load + tokens[i], rank))
    return parts


def batches(share: list[int], tokens: list[int], budget: int, batch: float = BATCH) -> list[list[int]]:
    """The cheapest split of a share, longest first, into batches: least padding and fewest batches, weighed.

    Args:
        share: numbers of prompts.
        tokens: what each prompt has to run.
        budget: tokens of a batch at most, padding counted; one prompt may have more.
        batch: what a batch costs beside its tokens, in tokens.
    """
    order = sorted(share, key=lambda i: -tokens[i])
    cheapest = [(0.0, 0)]  # of the first n prompts: what they cost, and where their last batch begins
    for end in range(1, len(order) + 1):
        best = (math.inf, 0)
        for begin in range(end - 1, -1, -1):
            size = (end - begin) * tokens[order[begin]]
            if size > budget and begin < end - 1:
                break
            best = min(best, (cheapest[begin][0] + size + batch, begin))
        cheapest.append(best)
    parts, end = [], len(order)
    while end:
        begin = cheapest[end][1]
        parts.append(order[begin:end])
        end = begin
    return parts[::-1]


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
