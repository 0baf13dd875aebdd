"""The settings of an audit or a comparison: those of `SpinalConfig` that it uses, and their defaults there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import SpinalConfig

USED = ("num_prompts", "max_prompt_tokens", "position", "window", "tail", "group", "top_k", "rules", "seed")
DEFAULTS: dict[str, Any] = {"group": 64}  # where they differ from training's: audits of any N can be compared


def settings(config: SpinalConfig | None, fields: Mapping[str, Any], arguments: Sequence[str]) -> SpinalConfig:
    """The settings of a function that takes a `SpinalConfig`, used as it is, or the fields in `USED` as keywords.

    Args:
        arguments: the function's other keywords.

    Raises:
        ValueError: a field that concerns training alone, or whatever `SpinalConfig.of` raises.
    """
    if config is not None:
        return SpinalConfig.of(config, fields, arguments)
    found = SpinalConfig.of(None, DEFAULTS | dict(fields), arguments)
    for name, value in fields.items():
        if name not in USED:
            raise ValueError(
                f"{name} is a setting of training, which has no effect here (got {name}={value!r});"
                f" the settings are {', '.join(USED)}"
            )
    return found
