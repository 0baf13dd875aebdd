"""What each rank runs, in which batches, and which prefix is run once for all prompts."""

import itertools
import random

import pytest

from spinal_callback.probe.batching import BATCH_COST, batches, common_prefix, shares


def draw(count, seed=0, longest=120):
    source = random.Random(seed)
    return [source.randrange(3, longest) for _ in range(count)]


def padded(parts, tokens):
    return sum(len(part) * max(tokens[i] for i in part) for part in parts)


@pytest.mark.parametrize(("count", "world"), [(10, 1), (21, 2), (64, 3), (10, 16)])
def test_every_prompt_is_dealt_once_and_tokens_are_even(count, world):
    tokens = draw(count)
    parts = shares(tokens, world)
    assert sorted(itertools.chain(*parts)) == list(range(count)) and len(parts) == world
    loads = [sum(tokens[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(tokens), "no rank waits for longer than a prompt takes"


def test_shares_are_even_in_tokens_where_they_are_not_in_prompts():
    tokens = [100, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    assert [len(part) for part in shares(tokens, 2)] == [1, 10]


@pytest.mark.parametrize("budget", [1, 100, 512, 4096])
def test_batches_keep_to_their_budget_and_hardly_pad(budget):
    tokens = draw(200)
    parts = batches(list(range(200)), tokens, budget)
    assert sorted(itertools.chain(*parts)) == list(range(200))
    assert all(len(part) == 1 or padded([part], tokens) <= budget for part in parts)
    assert padded(parts, tokens) - sum(tokens) <= 0.05 * padded(parts, tokens)


@pytest.mark.parametrize(("seed", "budget", "batch"), [(0, 1000, 24), (1, 1000, 5), (2, 150, 24), (3, 100, 1000)])
def test_no_other_split_of_the_prompts_by_length_is_cheaper(seed, budget, batch):
    tokens = sorted(draw(10, seed), reverse=True)
    chosen = batches(list(range(10)), tokens, budget, batch)

    def cost(parts):
        fits = all(len(part) == 1 or padded([part], tokens) <= budget for part in parts)
        return padded(parts, tokens) + batch * len(parts) if fits else float("inf")

    cuts = itertools.chain.from_iterable(itertools.combinations(range(1, 10), n) for n in range(10))
    splits = ([list(range(a, b)) for a, b in itertools.pairwise([0, *cut, 10])] for cut in cuts)
    assert cost(chosen) == min(map(cost, splits))


def test_where_padding_is_cheap_batches_are_full():
    tokens = draw(64)
    assert len(batches(list(range(64)), tokens, 1 << 20, batch_cost=sum(tokens))) == 1
    assert len(batches(list(range(64)), tokens, 1 << 20, batch_cost=BATCH_COST)) > 1


HEAD = [5, 6, 7, 8, 9, 10]


def test_a_common_prefix_is_found_though_some_prompts_lost_theirs():
    prompts = [[*HEAD, 20 + i, 3] for i in range(10)] + [[9, 10, 40, 3], [50, 3]]
    assert common_prefix(prompts, [len(p) - 1 for p in prompts]) == HEAD


def test_a_prefix_ends_before_the_first_position_that_is_kept():
    prompts = [[*HEAD, 20 + i, 3] for i in range(10)]
    assert common_prefix(prompts, [4] * 10) == HEAD[:4]
    assert common_prefix([HEAD] * 3, [len(HEAD) - 1] * 3) == HEAD[:-1]


def test_the_prefix_that_saves_most_is_chosen():
    deep, shallow = [[*HEAD, *range(20, 30), 90 + i] for i in range(8)], [[*HEAD[:2], 60 + i] for i in range(5)]
    both = deep + shallow
    assert common_prefix(both, [len(p) - 1 for p in both]) == [*HEAD, *range(20, 30)]


@pytest.mark.parametrize(
    "prompts",
    [
        [[1, 2, 3]],  # there is nothing to share it with
        [[i, 2, 3] for i in range(9)],
        [[1, *range(i, i + 60)] for i in range(2, 50)],  # one token of sixty
    ],
)
def test_a_prefix_that_saves_little_is_not_used(prompts):
    assert common_prefix(prompts, [len(p) - 1 for p in prompts]) == []
