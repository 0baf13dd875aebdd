"""LLaMA-Factory: training from its configuration file, which may have a section `spinal`.

    python -m spinal_callback.hosts.llama_factory config.yaml spinal.every=25
    torchrun --nproc_per_node 8 -m spinal_callback.hosts.llama_factory config.yaml

stands for `llamafactory-cli train config.yaml`, which has no setting for a callback.
"""

from __future__ import annotations

import sys

from .settings import SECTION, checked, require

require("llamafactory", "0.9.4", "it pins transformers below 4.57")

from llamafactory.hparams import read_args  # noqa: E402
from llamafactory.train.tuner import run_exp  # noqa: E402

from ..trainer.callback import SpinalCallback  # noqa: E402


def main() -> None:
    """Trains as the configuration file in `sys.argv` says; words NAME=VALUE after it replace its values.

    Raises:
        ValueError: no configuration file, or settings of ours that are wrong; before a model is loaded.
    """
    args = read_args()
    if not isinstance(args, dict):
        raise ValueError(
            f"give LLaMA-Factory's configuration as a .yaml file, got {' '.join(sys.argv[1:]) or 'nothing'}"
        )
    callback = SpinalCallback(checked(args.pop(SECTION, None)))  # LLaMA-Factory refuses keys that it does not know
    run_exp(args, callbacks=[callback])


if __name__ == "__main__":
    main()
