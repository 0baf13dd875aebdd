"""Axolotl: a plugin, with its settings in the same YAML file.

plugins:
  - spinal_callback.hosts.axolotl.SpinalPlugin
spinal:
  every: 25
  stop_on: error
"""

from __future__ import annotations

from typing import Any

from .settings import SECTION, checked, require

require("axolotl", "0.13", "it pins transformers below 4.57")

from axolotl.integrations.base import BasePlugin  # noqa: E402
from pydantic import BaseModel, field_validator  # noqa: E402

from ..trainer.attach import attach  # noqa: E402


class SpinalArgs(BaseModel):
    """What the plugin adds to Axolotl's configuration: the section `spinal`, whose keys are `SpinalConfig`'s fields."""

    spinal: dict[str, Any] | None = None

    @field_validator(SECTION, mode="before")
    @classmethod
    def _check(cls, section: Any) -> Any:
        checked(section)  # Axolotl shows the ValueError when it reads the file, before a model is loaded
        return section


class SpinalPlugin(BasePlugin):  # type: ignore[misc]  # Axolotl is not installed where types are checked
    """Attaches a `SpinalCallback` to each trainer that Axolotl builds."""

    def get_input_args(self) -> str:
        """The class that Axolotl merges into its configuration."""
        return f"{__name__}.{SpinalArgs.__name__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """Attaches the callback itself, so that each tracker of `report_to` gets the headlines; none is left to add."""
        attach(trainer, checked(cfg.get(SECTION)))
        return []
