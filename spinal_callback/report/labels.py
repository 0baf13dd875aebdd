"""What the report calls things, and how it writes a number. Titles, units and first layers are stated here only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

MISSING = "-"


class Curve(NamedTuple):
    """A curve over depth. `first`: the layer that the first value of its list belongs to."""

    name: str
    title: str
    unit: str
    first: int
    healthy: str


# Field of a reading -> the curve over depth that it is. A transport step belongs to the layer at which it ends.
CURVES = {
    "alpha": Curve("contraction", "Contraction (alpha)", "", 1, "slowly up"),
    "transport": Curve("transport", "Transport (rad)", "rad", 2, "slowly down"),
}


class Number(NamedTuple):
    """What a reading has one of. `part`: of the report and of the W&B dashboard. `logged`: whether trackers get it."""

    title: str
    unit: str
    part: str
    logged: bool = True
    healthy: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title


# Column of `traces.numbers` -> what it is called. Trackers have the logged ones as `spinal/{column}`.
NUMBERS = {
    "late_alpha": Number("Late contraction", "", "late", healthy=CURVES["alpha"].healthy),
    "late_transport": Number("Late transport", "rad", "late", healthy=CURVES["transport"].healthy),
    "delta_alpha": Number("Late contraction, change", "", "late", healthy=CURVES["alpha"].healthy),
    "delta_alpha_se": Number("Late contraction, error of the change", "", "error"),
    "delta_transport": Number("Late transport, change", "rad", "late", healthy=CURVES["transport"].healthy),
    "delta_transport_se": Number("Late transport, error of the change", "rad", "error"),
    "score": Number("SPINAL score", "", "score"),
    "delta_align": Number("Term 1: delta_align", "", "score"),
    "coherence": Number("Term 2: coherence of the path", "", "score"),
    "gradient_concentration": Number("Term 3: gradient, late share", "", "score"),
    "displacement": Number("Displacement", "rad", "policy"),
    "entropy": Number("Entropy", "nats", "policy", logged=False),
    "chosen_nll": Number("Chosen answers' negative log-likelihood", "nats per token", "answers", healthy="slowly up"),
    "margin": Number("Margin gained by chosen answers", "nats", "answers", healthy="up"),
    "accuracy": Number("Pairs whose margin is positive", "share", "answers", healthy="up"),
    "localization": Number("Localization: late share", "", "policy"),
    "length_late": Number("Length of the late path", "rad", "path", logged=False),
    "length_whole": Number("Length of the whole path", "rad", "path", logged=False),
    "greatest_alpha": Number("Layer of the greatest change of contraction", "", "path", logged=False),
    "greatest_transport": Number("Layer of the greatest change of transport", "", "path", logged=False),
    "seconds": Number("Seconds per probe", "", "cost", logged=False),
    "overhead": Number("Overhead", "share of wall time", "cost"),
    "interval": Number("Steps until the next probe", "", "cost"),
}


def of_part(part: str) -> dict[str, Number]:
    return {column: number for column, number in NUMBERS.items() if number.part == part}


# Headings of the report's charts, of which a few are not columns of a reading or are drawn in another unit.
SCORE = {column: number.heading for column, number in of_part("score").items()}
POLICY = {column: number.heading for column, number in of_part("policy").items()}
ANSWERS = {column: number.heading for column, number in of_part("answers").items()}
POLICY["late_rank"] = "Effective rank, late layers"
COST = {"seconds": "Seconds per probe", "overhead": "Overhead (% of the run)"}


def number(value: float | None, form: str = ".3f") -> str:
    """A value as text, in ASCII; `-` for one that is missing: None, NaN or infinite."""
    return MISSING if value is None or not math.isfinite(value) else format(value, form)


def model_name(name: str) -> str:
    """A hub id as it is; of a folder its last part, since the rest tells more about the machine than the model."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".")) and name.strip("/.") else name


def change(value: float | None, error: float | None) -> str:
    """A change and its standard error: `+0.013 ± 0.004`."""
    return f"{number(value, '+.3f')} ± {number(error)}"


def path(reading: Mapping[str, Any]) -> list[str]:
    """The length of a reading's path, and where it changed most, in words. `reading`: a `Reading` as JSON."""
    length, layers = reading.get("length") or {}, reading.get("greatest") or {}
    words = []
    if length:
        late, whole = (number(length.get(key)) for key in ("late", "whole"))
        words.append(f"path length {late} rad in the late window, {whole} in all")
    known = [f"of {CURVES[key].name} in layer {layers[key]:.0f}" for key in CURVES if _known(layers.get(key))]
    return [*words, f"greatest change {', '.join(known)}"] if known else words


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def why_missing(header: Mapping[str, Any]) -> dict[str, str]:
    """Field of a reading -> why no reading of this trace has a value for it. `header`: a `Header` as JSON."""
    if header["checkpoints"]:
        lacking = "" if header.get("pairs") else "gradient concentration needs preference pairs (--pairs)"
    elif header["config"].get("gradients") is False:
        lacking = "gradients=False: gradient concentration was not measured"
    else:
        lacking = ""
    why = {"gradient_concentration": lacking, "score": f"{lacking}; the score needs it"} if lacking else {}
    first, last = header["window"]
    layers, steps = last - first + 1, last - max(first, CURVES["transport"].first) + 1
    if min(layers, steps) < 3:  # a curvature is a second difference: it needs three neighbours of either curve
        late = _late(layers, "layer") if layers < 3 else _late(steps, "transport step")
        why |= dict.fromkeys(("coherence", "score"), f"{late} no curvature: coherence and score are not defined")
    return why


def _late(count: int, what: str) -> str:
    words = ("no", "one", "two")[count]
    return f"{words} late {what} has" if count == 1 else f"{words} late {what}s have"
