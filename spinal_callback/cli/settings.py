"""The flags for what `spinal audit` and `spinal compare` measure: one for each setting that the two functions take."""

from __future__ import annotations

import argparse
from typing import Any

from ..auditing.settings import DEFAULTS, PRESETS, USED

ALL = "all"


def add_settings(command: Any) -> None:
    """Adds the flags. One that is not given is left out of the parsed arguments, and the function's default holds."""
    add = command.add_argument_group("what is measured").add_argument
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    add(
        "--preset",
        choices=tuple(PRESETS),
        **absent,
        help="paper: 512 prompts in groups of 64, transport over all tokens of the prompts, layers 21-30; the flags"
        " below change single values of it",
    )
    add("--num-prompts", type=int, **absent, metavar="N", help="use at most this many prompts (default: 64)")
    add("--max-prompt-tokens", type=int, **absent, metavar="N", help="keep a prompt's last N tokens (default: 256)")
    add(
        "--position",
        choices=("last", "response", "prompt"),
        **absent,
        help="where: at the last token of each prompt (default), at every token of the chosen answer, or transport at"
        " every token of the prompt and contraction at its last",
    )
    add(
        "--window",
        type=window,
        **absent,
        help="the late window: first-last layer (21-30), a share, or paper (default: 1/3)",
    )
    add(
        "--tail",
        type=shares,
        **absent,
        metavar="LOW,HIGH",
        help="the ranks that the exponent is fitted to, as shares (default: 0.1,0.9)",
    )
    add(
        "--group",
        type=group,
        **absent,
        metavar="N",
        help=f"prompts of one fit of the exponent, or {ALL}; more prompts make more fits, whose exponents are averaged"
        f" (default: {DEFAULTS['group']})",
    )
    add(
        "--layer-entropy",
        action=argparse.BooleanOptionalAction,
        **absent,
        help="the entropy of every layer's next-token distribution (default: yes)",
    )
    add("--top-k", type=int, **absent, metavar="K", help="transport over the K likeliest tokens (default: over all)")
    add("--rules", **absent, metavar="FILE", help="limits of the alerts of a run, made by spinal calibrate")
    add("--seed", type=int, **absent, metavar="N", help="of the draw of prompts from a data set (default: 0)")


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings whose flags were given."""
    return {name: value for name, value in vars(args).items() if name in (*USED, "preset")}


def at_least(text: str) -> dict[str, float]:
    """`contraction=0.02,displacement=0.1` as a dictionary."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name.strip(): float(value) for name, _, value in pairs}


def window(text: str) -> float | tuple[int, int] | str:
    """`21-30`, `1/3`, `0.33` or `paper` as a value of `SpinalConfig.window`."""
    if text == "paper":
        return text
    first, dash, last = text.partition("-")
    if dash:
        return int(first), int(last)
    part, slash, whole = text.partition("/")
    return int(part) / int(whole) if slash and int(whole) else float(text)


def shares(text: str) -> tuple[float, ...]:
    """`0.1,0.9` as two numbers."""
    return tuple(float(part) for part in text.split(","))


def group(text: str) -> int | None:
    """A number, or `all` as None."""
    return None if text == ALL else int(text)
