"""The settings of an audit or a comparison: those of `SpinalConfig` that it uses, their defaults there, the presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import SpinalConfig

USED = (
    "num_prompts",
    "max_prompt_tokens",
    "position",
    "window",
    "tail",
    "group",
    "layer_entropy",
    "top_k",
    "rules",
    "seed",
)
# Where they differ from training's: audits of any N can be compared, and may take longer.
DEFAULTS: dict[str, Any] = {"group": 64, "layer_entropy": True, "answers": 0}
PRESETS: dict[str, dict[str, Any]] = {
    # SPINAL, arXiv 2601.06238. "Reading" marks what its text leaves open and is our reading of it.
    "paper": {
        "num_prompts": 512,  # the paper's, of Anthropic's HH; which rows is a reading: `seed` draws them
        # The paper runs batches of B = 64. That each gives an exponent, and that these are averaged, is a reading; so
        # is their spread as the error, and which prompts make a batch.
        "group": 64,
        # The paper's transport carries a token index t; that it is averaged over all tokens of a prompt is a reading,
        # and so is that contraction is of the last token, where one row a prompt makes a batch of 64 rows.
        "position": "prompt",
        "window": "paper",  # layers 21-30, the paper's; of shallower or deeper models the last third, a reading
        "top_k": None,  # the paper names top-k as a limit of its method; the whole vocabulary is a reading
        "tail": (0.1, 0.9),  # that the tail is these ranks is a reading
    },
}


def settings(
    config: SpinalConfig | None, fields: Mapping[str, Any], arguments: Sequence[str], preset: str | None = None
) -> SpinalConfig:
    """The settings of a function that takes a `SpinalConfig`, used as it is, or the fields in `USED` as keywords.

    Args:
        arguments: the function's other keywords.
        preset: a name of `PRESETS`, whose values hold where no keyword gives another.

    Raises:
        ValueError: an unknown preset, a preset and `config`, a field that concerns training alone, or whatever
            `SpinalConfig.of` raises.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(map(repr, PRESETS))} or None, got {preset!r}")
    if config is not None:
        if preset is not None:
            raise ValueError(f"give config or preset, not both: config and preset={preset!r}")
        return SpinalConfig.of(config, fields, arguments)
    found = SpinalConfig.of(None, DEFAULTS | PRESETS.get(preset or "", {}) | dict(fields), arguments)
    for name, value in fields.items():
        if name not in USED:
            raise ValueError(
                f"{name} is a setting of training, which has no effect here (got {name}={value!r});"
                f" the settings are {', '.join(USED)}"
            )
    return found


def check_enough(preset: str | None, config: SpinalConfig, prompts: int) -> None:
    """Raises ValueError where there are fewer prompts than a preset asks for: it would be another protocol."""
    if preset is not None and prompts < config.num_prompts:
        raise ValueError(
            f"preset={preset!r} reads {config.num_prompts} different prompts, but there are {prompts}: give more with"
            f" --prompts (the paper's are Anthropic/hh-rlhf), or ask for fewer with --num-prompts {prompts}"
        )
