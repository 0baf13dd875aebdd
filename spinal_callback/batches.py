"""Which prompts run together: the beginning they share, each rank's part of the work, batches with little padding."""

from __future__ import annotations

import heapq

PADDING = 0.05  # share of a batch's tokens that may be padding
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


def batches(share: list[int], tokens: list[int], budget: int, padding: float = PADDING) -> list[list[int]]:
    """Splits a share, longest first, into batches (of one prompt at least).

    Args:
        share: numbers of prompts.
        tokens: what each prompt has to run.
        budget: tokens of a batch at most, padding counted.
        padding: share of them that may be padding.
    """
    parts: list[list[int]] = []
    real = 0
    for i in sorted(share, key=lambda i: -tokens[i]):
        size = (len(parts[-1]) + 1) * tokens[parts[-1][0]] if parts else 0
        if parts and size <= budget and size - real - tokens[i] <= padding * size:
            parts[-1].append(i)
            real += tokens[i]
        else:
            parts.append([i])
            real = tokens[i]
    return parts


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
