"""ms-swift: a plugin file of two lines, and its name behind `--callbacks`.

    # spinal_plugin.py
    from spinal_callback.hosts.ms_swift import register
    register(every=25, stop_on="error")

    swift rlhf --rlhf_type dpo ... --external_plugins spinal_plugin.py --callbacks spinal

ms-swift puts the plugin file's folder first on `sys.path`: keep no file there that is named like a package (this
module's own folder has `axolotl.py`, so this file itself is no `--external_plugins`).
"""

from __future__ import annotations

from typing import Any

from ..config import SpinalConfig
from .settings import require

require("ms-swift", "4.0", "it has no --callbacks")

from swift.callbacks import callbacks_map  # noqa: E402

from ..trainer.callback import SpinalCallback  # noqa: E402

NAME = "spinal"  # behind --callbacks


def register(config: SpinalConfig | None = None, **fields: Any) -> None:
    """Makes `--callbacks spinal` known to ms-swift.

    Args:
        config, fields: as `SpinalCallback` takes them.

    Raises:
        ValueError: whatever `SpinalConfig` raises; it comes before ms-swift loads a model.
    """
    settings = SpinalConfig.of(config, fields)

    def build(args: Any, trainer: Any) -> SpinalCallback:
        return SpinalCallback(settings)  # ms-swift calls this with its arguments and the trainer, not yet initialized

    callbacks_map[NAME] = build
