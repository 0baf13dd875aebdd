"""The settings: `SpinalConfig`. Every value is checked when the object is made. Standard library only."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .records import LEVELS

MIN_RANKS = 8  # the tail exponent is fitted to at least this many singular values
JACKKNIFE_GROUPS = 8  # groups of prompts that are left out one at a time, for the exponent's error
SPREAD_FROM = 4  # fits from which on their spread is the error: with fewer, Student's t is wider than jackknifing
UNBOUNDED_WIDTH = 1 << 20  # the model's width is not known yet: wider than any
PAPER_WINDOW = (21, 30)  # the layers that the paper calls late, in models of about 30
MOST_PROMPTS = 1000  # an error suggests no larger num_prompts


Class = TypeVar("Class", bound=type)


def _names_unknown_fields(cls: Class) -> Class:
    """A class decorator: an unknown field raises a ValueError that suggests a name, not the TypeError of `__init__`."""
    made: Any = cls
    init = made.__init__

    @functools.wraps(init)
    def checked(self: Any, *values: Any, **fields: Any) -> None:
        _check_names(fields, [field.name for field in dataclasses.fields(made)])
        init(self, *values, **fields)

    made.__init__ = checked
    return cls


@_names_unknown_fields
@dataclass(frozen=True)
class SpinalConfig:
    """What to measure, when, and what to do at an alert. Frozen; every value is checked when the object is made.

    Attributes:
        every: optimizer steps between two probes, or "auto": as often as `overhead` allows. A first reading over a
            limit and a Trainer's log that moves fast each bring one more, soon after.
        overhead: share of wall time that probes may take if `every="auto"`, in (0, 1].
        num_prompts: N, the number of prompts of the probe; they are the same at every step.
        max_prompt_tokens: a longer prompt keeps its last tokens.
        answers: how many preference pairs the probe reads the answers of, where the data have both answers; 0: none.
        position: "last": the last token of each prompt; "response": every token of the chosen answer; "prompt":
            transport and entropy are means over every token of a prompt, contraction and displacement of its last.
        window: the late window W: a share of the depth, or `(first, last)` layer, counted from 1, both included; or
            "paper": layers 21-30 where they lie in the second half of the depth, else its last third.
        tail: the ranks that the tail exponent is fitted to, as shares of r = min(N - 1, d).
        group: prompts of one fit of the tail exponent: groups of this size are fitted, and their exponents averaged, so
            that more prompts make errors smaller and leave the level as it is (`probe/grouped_fit.py`). None: one fit
            to all prompts, whose level depends on N. Audits use 64.
        layer_entropy: also read the entropy of every layer's next-token distribution, as audits do; it slows the lens.
        top_k: compute transport over the union of the layers' k most probable tokens; None: the whole vocabulary.
        stop_on: "warn" or "error": stop training at an alert of this level or a higher one; None: never.
        save_on_alert: save a checkpoint at the first alert.
        rules: path of a file with limits for the alert rules, made by `spinal calibrate`; None: the default limits.
        gradients: compute gradient concentration at each probed step.
        log_prompts: records and reports may contain prompt text.
        layer_logging: what W&B gets per layer: "scalars": contraction and transport at every probe, and a table of all
            readings at the end; "table": the table alone; "off": neither. The images of all layers are always logged.
        seed: of the draw of prompts from the data set.

    Raises:
        ValueError: a value out of its range, or an unknown field; the message names the field, the value and what
            would be right.
    """

    every: int | Literal["auto"] = "auto"
    overhead: float = 0.01
    num_prompts: int = 64
    max_prompt_tokens: int = 256
    answers: int = 8
    position: Literal["last", "response", "prompt"] = "last"
    window: float | tuple[int, int] | Literal["paper"] = 1 / 3
    tail: tuple[float, float] = (0.1, 0.9)
    group: int | None = None
    layer_entropy: bool = False
    top_k: int | None = None
    stop_on: Literal["warn", "error"] | None = None
    save_on_alert: bool = False
    rules: str | None = None
    gradients: bool = True
    log_prompts: bool = False
    layer_logging: Literal["scalars", "table", "off"] = "scalars"
    seed: int = 0

    @classmethod
    def of(cls, config: SpinalConfig | None, fields: Mapping[str, Any], arguments: Sequence[str] = ()) -> SpinalConfig:
        """The settings of a function that takes a `SpinalConfig` or its fields as keywords.

        Args:
            arguments: the function's other keywords, one of which an unknown field may be meant for.

        Raises:
            ValueError: both are given, `config` is something else, or whatever `SpinalConfig` raises.
        """
        if config is None:
            _check_names(fields, [field.name for field in dataclasses.fields(cls)], arguments)
            return cls(**fields)
        if not isinstance(config, SpinalConfig):
            raise ValueError(
                f"config must be a SpinalConfig or None, got {config!r}:"
                " give its fields as keywords (every=25), or unpack a dictionary of them (**settings)"
            )
        if fields:
            raise ValueError(f"give config or its fields, not both: config and {', '.join(fields)}")
        return config

    def __post_init__(self) -> None:
        for name in ("window", "tail"):  # JSON and command lines have lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.every != "auto":
            _check_count("every", self.every, 1, 'or "auto"')
        if not _is_number(self.overhead) or not 0 < self.overhead <= 1:
            raise ValueError(f"overhead must be a share of wall time in (0, 1], got {self.overhead!r}")
        _check_count("num_prompts", self.num_prompts, 2)
        _check_count("max_prompt_tokens", self.max_prompt_tokens, 1)
        _check_count("answers", self.answers, 0)
        _check_choice("position", self.position, ("last", "response", "prompt"))
        _check_window(self.window)
        _check_tail(self.tail)
        if self.group is not None:
            _check_count("group", self.group, 2, "or None for one fit to all prompts")
        if self.position != "response":  # with "response" the rows are tokens: their number is known with the data
            self.tail_ranks(min(self.group or self.num_prompts, self.num_prompts))
        if self.top_k is not None:
            _check_count("top_k", self.top_k, 1, "or None for the whole vocabulary")
        _check_choice("stop_on", self.stop_on, (None, *LEVELS))
        _check_choice("layer_logging", self.layer_logging, ("scalars", "table", "off"))
        if self.rules is not None and not isinstance(self.rules, str):
            raise ValueError(f"rules must be the path of a file made by spinal calibrate, or None, got {self.rules!r}")
        for name in ("layer_entropy", "save_on_alert", "gradients", "log_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _check_count("seed", self.seed, 0)

    def tail_ranks(self, rows: int, width: int = UNBOUNDED_WIDTH, least: int = MIN_RANKS) -> tuple[int, int]:
        """First and last rank k (from 1, both included) of the tail of a `[rows, width]` matrix's spectrum.

        Raises:
            ValueError: fewer than `least` ranks; the message says how many prompts are needed.
        """
        rank = min(rows - 1, width)
        low, high = _tail_ranks(rank, self.tail)
        if high - low + 1 < least:
            enough = (n for n in range(rows, MOST_PROMPTS) if _count_ranks(min(n - 1, width), self.tail) >= least)
            need = next(enough, None)
            name = "group" if rows == self.group else "num_prompts"
            right = f"use {name} >= {need} or a wider tail" if need else "use a wider tail"
            raise ValueError(
                f"tail={self.tail} leaves {max(high - low + 1, 0)} of the {rank} ranks that {name}={rows} gives,"
                f" but a fit needs at least {least}: {right}"
            )
        return low, high

    def late_window(self, layers: int) -> tuple[int, int]:
        """First and last layer (from 1, both included) of the late window W of a model with `layers` layers.

        Raises:
            ValueError: the window does not lie inside the model's depth.
        """
        if self.window == "paper":
            allowed = layers >= PAPER_WINDOW[1] and PAPER_WINDOW[0] > layers / 2
            return PAPER_WINDOW if allowed else (layers - max(_ceil(layers / 3), 1) + 1, layers)
        if isinstance(self.window, tuple):
            if self.window[1] > layers:
                raise ValueError(f"window must lie in layers 1..{layers} of this model, got {self.window}")
            return self.window
        return layers - max(_ceil(self.window * layers), 1) + 1, layers

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _check_names(given: Mapping[str, Any], fields: Sequence[str], arguments: Sequence[str] = ()) -> None:
    for name, value in given.items():
        if name not in fields:
            near = difflib.get_close_matches(name, [*fields, *arguments], n=1)
            right = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(fields)}"
            raise ValueError(f"there is no setting {name} (got {name}={value!r}): {right}")


def _ceil(x: float) -> int:
    return math.ceil(round(x, 9))  # 0.28 * 25 is 7.000000000000001 in binary


def _tail_ranks(r: int, tail: tuple[float, float]) -> tuple[int, int]:
    return max(_ceil(tail[0] * r), 1), math.floor(round(tail[1] * r, 9))


def _count_ranks(r: int, tail: tuple[float, float]) -> int:
    low, high = _tail_ranks(r, tail)
    return high - low + 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_count(name: str, value: Any, least: int, more: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}{more and ' ' + more}, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_window(window: Any) -> None:
    if window == "paper":
        return
    if isinstance(window, tuple):
        whole = len(window) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in window)
        if not whole or not 1 <= window[0] <= window[1]:
            raise ValueError(f"window must be (first, last) with 1 <= first <= last, got {window!r}")
    elif not _is_number(window) or not 0 < window <= 1:
        raise ValueError(f'window must be a share of the depth in (0, 1], (first, last) or "paper", got {window!r}')


def _check_tail(tail: Any) -> None:
    numbers = isinstance(tail, tuple) and len(tail) == 2 and all(map(_is_number, tail))
    if not numbers or not 0 <= tail[0] < tail[1] <= 1:
        raise ValueError(f"tail must be (low, high) shares with 0 <= low < high <= 1, got {tail!r}")
