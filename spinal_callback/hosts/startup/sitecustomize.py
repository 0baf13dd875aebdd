"""Python imports this file when it starts, in every process below `spinal run`: its folder is first on PYTHONPATH.

It imports nothing of ours, of transformers or torch: most processes do not train. In one that imports
`transformers.trainer`, each Trainer is passed to `any_command.watch` once it has been made.
"""

import functools
import importlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

WATCHED = "transformers.trainer"


class _Finder:
    """On `sys.meta_path`: finds `transformers.trainer` as Python does, and wraps its Trainer once it has been run."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == WATCHED else None
        if spec is not None:
            loader: Any = spec.loader
            run = loader.exec_module

            def run_and_wrap(module: Any) -> None:
                run(module)
                _wrap(module.Trainer)

            loader.exec_module = run_and_wrap
        return spec


def _wrap(trainer: Any) -> None:
    """Not `DEFAULT_CALLBACKS`: those are called before the trackers' callbacks, when no tracker's run is open yet."""
    init = trainer.__init__

    @functools.wraps(init)
    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        try:
            host = importlib.import_module("spinal_callback.hosts.any_command")
        except ModuleNotFoundError as error:
            missing = str(error.name).split(".")[0]
            raise ImportError(f"spinal run: {sys.executable} does not have {missing}: install it there") from error
        host.watch(self)

    trainer.__init__ = watched


def _run_hidden() -> None:
    """Runs the sitecustomize of the user's own environment, which this file hides."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path or ".") != here])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, _Finder)  # Python asks only for find_spec
_run_hidden()
