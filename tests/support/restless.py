"""Models, data sets and sinks whose own state moves when they are used: what a probe must leave as it was."""

import itertools
import random
from collections import deque

import numpy as np
import torch
import twins
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from spinal_callback.sinks import Sink


class Restless(nn.Module):
    """Adds what its state says to the hidden states, and moves that state at each call, in evaluation mode too."""

    KINDS = ("buffer", "replaced buffer", "number", "tensor", "array", "list", "dict", "generator", "lazy", "norm")

    def __init__(self, kind, width):
        super().__init__()
        self.of_kind = kind
        self.register_buffer("seen", torch.zeros(()))
        self.count, self.steps, self.totals = 0, [], {"calls": 0.0}
        self.plain, self.array = torch.zeros(()), np.zeros(1)
        self.draw = torch.Generator().manual_seed(0)
        self.norm = nn.BatchNorm1d(width, affine=False)

    def move(self, h):
        """The state now, as a number; it moves."""
        if self.of_kind == "buffer":
            self.seen += h.shape[1]
            return self.seen.item()
        if self.of_kind == "replaced buffer":  # as dynamic rotary embeddings do
            self.register_buffer("seen", self.seen + h.shape[1], persistent=False)
            return self.seen.item()
        if self.of_kind == "number":
            self.count += 1
            return self.count
        if self.of_kind == "tensor":
            self.plain += 1
            return self.plain.item()
        if self.of_kind == "array":
            self.array += 1
            return self.array[0]
        if self.of_kind == "list":
            self.steps.append(1)
            return len(self.steps)
        if self.of_kind == "dict":
            self.totals["calls"] += 1
            return self.totals["calls"]
        if self.of_kind == "generator":
            return torch.rand((), generator=self.draw).item()
        if self.of_kind == "norm":
            self.norm.train()(h.detach().flatten(0, 1))
            return float(self.norm.running_mean.sum())
        if not hasattr(self, "made"):  # "lazy": of the first call
            self.made = h.shape[1]
        return self.made

    def forward(self, h):
        return h * (1 + 0.01 * np.tanh(0.1 * self.move(h)))


def restless():
    """A policy with a restless module of every kind behind the MLP of its third layer."""
    model = twins.policy()
    moving = [Restless(kind, model.config.hidden_size) for kind in Restless.KINDS]
    model.model.layers[2].mlp = nn.Sequential(model.model.layers[2].mlp, *moving)
    return model


class Rows(Dataset):
    """Language rows, each changed by random numbers of the data set's own."""

    KINDS = ("torch", "numpy", "python", "count", "closure", "global", "inside")

    def __init__(self, kind):
        self.rows = list(twins.language_rows())
        self.of_kind, self.count = kind, 0
        self.torch, self.numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)
        self.python = random.Random(0)
        inner = random.Random(1)
        self.closure = lambda: inner.randrange(80)
        self.inside = {"held": [random.Random(2)]}

    def __len__(self):
        return len(self.rows)

    def draw(self):
        if self.of_kind == "torch":
            return int(torch.randint(80, (), generator=self.torch))
        if self.of_kind == "numpy":
            return int(self.numpy.integers(80))
        if self.of_kind == "python":
            return self.python.randrange(80)
        if self.of_kind == "closure":
            return self.closure()
        if self.of_kind == "inside":
            return self.inside["held"][0].randrange(80)
        if self.of_kind == "global":
            return GLOBAL.randrange(80)
        self.count += 1
        return self.count % 80

    def __getitem__(self, i):
        row = dict(self.rows[i])
        row["input_ids"] = [*row["input_ids"][:-1], 8 + self.draw()]
        return row


GLOBAL = random.Random(3)


class Stream(IterableDataset):
    """Language rows without end, whose `iter()` does or does not begin anew."""

    RESTARTS = ("anew", "shuffled", "place", "queue", "length")  # the last two are given back what was taken
    KEEPS_ITS_PLACE = ("one iterator", "generator", "other order")

    def __init__(self, kind):
        self.rows, self.of_kind, self.at = list(twins.language_rows()), kind, 0
        self.endless = itertools.cycle(self.rows)
        self.queue = deque(self.rows * 4)
        self.drawn = (random.Random(i).sample(self.rows, len(self.rows)) for i in itertools.count())

    def __iter__(self):
        if self.of_kind == "one iterator":
            return self.endless
        return self.made()

    def made(self):
        if self.of_kind == "generator":
            yield from self.endless
        elif self.of_kind == "other order":
            yield from next(self.drawn)
        elif self.of_kind == "shuffled":
            yield from (self.rows[i] for i in torch.randperm(len(self.rows)).tolist())
        elif self.of_kind == "place":
            while True:
                self.at += 1
                yield self.rows[self.at % len(self.rows)]
        elif self.of_kind == "queue":
            while self.queue:
                yield self.queue.popleft()
        else:
            yield from itertools.cycle(self.rows)


class Sized(Stream):
    """A stream that knows its length is still a stream."""

    def __len__(self):
        return len(self.rows)


class Drawing(Sink):
    """A sink that draws from every global random state, in every hook."""

    def __init__(self):
        self.drawn = 0

    def draw(self, *args):
        self.drawn += 1
        random.random(), np.random.rand(), torch.rand(())

    begin = resume = write = complete = close = draw
