"""The settings, each checked when they are made. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from .records import LEVELS

MIN_RANKS = 8  # fewest singular values that the tail exponent is fitted to


@dataclass(frozen=True)
class SpinalConfig:
    """What to measure, when, and what to do about it. Every value is checked when the object is made.

    Attributes:
        every: steps between two probes, or "auto": as often as `overhead` allows.
        overhead: share of wall time that probing may take when `every="auto"`, in (0, 1].
        num_prompts: N, how many prompts the probe uses; the same ones at every step.
        max_prompt_tokens: longer prompts lose their first tokens.
        position: "last": the last prompt token; "response": every token of the chosen answer.
        window: the late window W: a share of the depth, or `(first, last)` layer, counted from 1, both included.
        tail: ranks that the tail exponent is fitted to, as shares of r = min(N - 1, d).
        top_k: read transport over the union of the layers' k most probable tokens; None: the whole vocabulary.
        stop_on: "warn" or "error": stop training at an alert of this level or worse.
        save_on_alert: ask for a checkpoint at the first alert.
        rules: file with limits for the alert rules, made by `spinal calibrate`; None: the default ones.
        gradients: read gradient concentration before each optimizer step that is probed.
        log_prompts: prompt text may go into records and reports.
        layer_logging: what W&B gets per layer: "scalars": contraction and transport at every probe, and a table of all
            readings at the end; "table": the table alone; "off": neither. The images of all layers are always logged.
        seed: draws the prompts from the data set.

    Raises:
        ValueError: a value out of its range; the message names the field, the value and what would be right.
    """

    every: int | Literal["auto"] = "auto"
    overhead: float = 0.01
    num_prompts: int = 64
    max_prompt_tokens: int = 256
    position: Literal["last", "response"] = "last"
    window: float | tuple[int, int] = 1 / 3
    tail: tuple[float, float] = (0.1, 0.9)
    top_k: int | None = None
    stop_on: Literal["warn", "error"] | None = None
    save_on_alert: bool = False
    rules: str | None = None
    gradients: bool = True
    log_prompts: bool = False
    layer_logging: Literal["scalars", "table", "off"] = "scalars"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "tail"):  # JSON and command lines give lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.every != "auto":
            _check_count("every", self.every, 1, 'or "auto"')
        if not _is_number(self.overhead) or not 0 < self.overhead <= 1:
            raise ValueError(f"overhead must be a share of wall time in (0, 1], got {self.overhead!r}")
        _check_count("num_prompts", self.num_prompts, 2)
        _check_count("max_prompt_tokens", self.max_prompt_tokens, 1)
        _check_choice("position", self.position, ("last", "response"))
        _check_window(self.window)
        _check_tail(self.tail)
        if self.position == "last":  # otherwise the rows are tokens, known only with the data
            self.tail_ranks(self.num_prompts)
        if self.top_k is not None:
            _check_count("top_k", self.top_k, 1, "or None for the whole vocabulary")
        _check_choice("stop_on", self.stop_on, (None, *LEVELS))
        _check_choice("layer_logging", self.layer_logging, ("scalars", "table", "off"))
        if self.rules is not None and not isinstance(self.rules, str):
            raise ValueError(f"rules must be the path of a file made by spinal calibrate, or None, got {self.rules!r}")
        for name in ("save_on_alert", "gradients", "log_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _check_count("seed", self.seed, 0)

    def tail_ranks(self, rows: int, width: int = 1 << 20, least: int = MIN_RANKS) -> tuple[int, int]:
        """First and last rank k (from 1, both included) of the tail of a `[rows, width]` matrix's spectrum.

        Raises:
            ValueError: fewer than `least` ranks; the message says how many prompts it would need.
        """
        low, high = _tail_ranks(min(rows - 1, width), self.tail)
        if high - low + 1 < least:
            enough = (n for n in range(rows, 1000) if _count_ranks(min(n - 1, width), self.tail) >= least)
            need = next(enough, None)
            right = f"use num_prompts >= {need} or a wider tail" if need else "use a wider tail"
            raise ValueError(
                f"tail={self.tail} leaves {max(high - low + 1, 0)} of the {min(rows - 1, width)} ranks that"
                f" num_prompts={rows} gives, a fit takes at least {least}: {right}"
            )
        return low, high

    def late_window(self, layers: int) -> tuple[int, int]:
        """First and last layer (from 1, both included) of the late window W of a model with `layers` layers.

        Raises:
            ValueError: the window does not lie inside the model's depth.
        """
        if isinstance(self.window, tuple):
            if self.window[1] > layers:
                raise ValueError(f"window must lie in layers 1..{layers} of this model, got {self.window}")
            return self.window
        return layers - max(_ceil(self.window * layers), 1) + 1, layers

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


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
    if isinstance(window, tuple):
        whole = len(window) == 2 and all(isinstance(v, int) and not isinstance(v, bool) for v in window)
        if not whole or not 1 <= window[0] <= window[1]:
            raise ValueError(f"window must be (first, last) with 1 <= first <= last, got {window!r}")
    elif not _is_number(window) or not 0 < window <= 1:
        raise ValueError(f"window must be a share of the depth in (0, 1] or (first, last), got {window!r}")


def _check_tail(tail: Any) -> None:
    numbers = isinstance(tail, tuple) and len(tail) == 2 and all(map(_is_number, tail))
    if not numbers or not 0 <= tail[0] < tail[1] <= 1:
        raise ValueError(f"tail must be (low, high) shares with 0 <= low < high <= 1, got {tail!r}")
