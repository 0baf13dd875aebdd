"""Which prompts run together: the prefix they share, each rank's share of the work, the cheapest batches."""

from __future__ import annotations

import heapq
import math

BATCH_COST = 24  # tokens that could run in the time that a batch needs to read the weights once (measured on a CPU)
WORTH = 0.05  # share of all tokens that a common prefix must save


def common_prefix(prompts: list[list[int]], ends: list[int]) -> list[int]:
    """The prefix that saves most tokens if run once for all prompts that begin with it; empty if it saves too few.

    Args:
        prompts: token ids.
        ends: of each prompt, the first position that it has to run by itself.
    """
    middle = sorted(prompts)[len(prompts) // 2]  # begins as most prompts do, if most begin alike
    same = [min(common_prefix_length(middle, p), end) for p, end in zip(prompts, ends, strict=True)]

    def saved(length: int) -> int:
        return length * (sum(n >= length for n in same) - 1)

    best = max(range(len(middle) + 1), key=saved)
    return middle[:best] if saved(best) >= WORTH * sum(map(len, prompts)) else []


def common_prefix_length(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def shares(tokens: list[int], ranks: int) -> list[list[int]]:
    """Each rank's prompts, longest first: the next longest goes to the rank that has fewest tokens so far."""
    parts: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        load, rank = heapq.heappop(loads)
        parts[rank].append(i)
        heapq.heappush(loads, (load + tokens[i], rank))
    return parts


def cut_by(share: list[int], sizes: list[int], most: float) -> list[list[int]]:
    """A share of the prompts in pieces whose sizes add up to `most` at most, at least one; in its order."""
    pieces: list[list[int]] = [[]]
    filled = 0
    for i in share:
        if pieces[-1] and filled + sizes[i] > most:
            pieces.append([])
            filled = 0
        pieces[-1].append(i)
        filled += sizes[i]
    return pieces


def batches(share: list[int], tokens: list[int], budget: int, batch_cost: float = BATCH_COST) -> list[list[int]]:
    """The split of a share into batches, longest prompts first, for which padding and batches together cost least.

    Args:
        share: numbers of prompts.
        tokens: how many each prompt has to run.
        budget: tokens of a batch at most, padding counted; one prompt may have more.
        batch_cost: what a batch costs beside its tokens, in tokens.
    """
    order = sorted(share, key=lambda i: -tokens[i])
    cheapest = [(0.0, 0)]  # of the first n prompts: what they cost, and where their last batch begins
    for end in range(1, len(order) + 1):
        best = (math.inf, 0)
        for begin in range(end - 1, -1, -1):
            size = (end - begin) * tokens[order[begin]]
            if size > budget and begin < end - 1:
                break
            best = min(best, (cheapest[begin][0] + size + batch_cost, begin))
        cheapest.append(best)
    parts, end = [], len(order)
    while end:
        begin = cheapest[end][1]
        parts.append(order[begin:end])
        end = begin
    return parts[::-1]
