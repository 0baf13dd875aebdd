"""The picture of the package, enforced: who may import whom, and the list of logged names that users read."""

import ast
import re
import sys
from pathlib import Path

import pytest
from test_records import reading

import spinal_callback
from spinal_callback import SpinalCallback
from spinal_callback.logged import scalars

PACKAGE = Path(spinal_callback.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A module, and which of ours it may import. A new module is a row here and in the README's picture.
OURS = {
    "report": "",
    "records": "report",
    "config": "records",
    "measures": "",
    "anatomy": "",
    "ranks": "",
    "prompts": "",
    "schedule": "",
    "undisturbed": "ranks",
    "trajectory": "records",
    "rules": "trajectory",
    "drift": "records rules trajectory",
    "calibrate": "drift records rules",
    "history": "records",
    "pictures": "records",
    "logged": "records",
    "sinks": "history output records report",
    "wandb_sink": "history logged pictures records",
    "trackio_sink": "history logged pictures records",
    "trackers": "trackio_sink wandb_sink",
    "recorder": "logged records sinks terminal trackers",
    "terminal": "history records",
    "lens": "anatomy",
    "proof": "anatomy lens",
    "batches": "",
    "forward": "anatomy batches prompts proof ranks",
    "sample": "anatomy config forward lens measures prompts proof ranks undisturbed",
    "probe": "__init__ anatomy config measures prompts ranks records sample undisturbed",
    "traces": "records report",
    "sources": "",
    "checkpoints": "",
    "findings": "records terminal",
    "significance": "findings measures records sample",
    "walk": "anatomy checkpoints config probe prompts ranks records sample sources",
    "auditing": "checkpoints config drift findings ranks records significance walk",
    "comparing": "checkpoints config findings records significance traces walk",
    "callback": "__init__ anatomy calibrate config drift probe prompts ranks recorder records schedule sinks terminal"
    " undisturbed",
    "output": "",
    "workspace": "logged",
    "cli_workspace": "workspace",
    "cli": "__init__ cli_audit cli_trace cli_workspace",
    "cli_audit": "auditing comparing output ranks records",
    "cli_trace": "calibrate drift output records report rules terminal traces",
    "reporters": "callback config logged recorder records sinks trackers",
    "__init__": "auditing callback comparing config records reporters sinks",
}
# A module, and what it may import beside the standard library and ours; on any level, functions included.
FOREIGN = {
    "measures": {"torch"},
    "anatomy": {"torch", "transformers", "trl"},
    "lens": {"torch"},
    "proof": {"torch"},
    "ranks": {"torch", "accelerate", "deepspeed"},
    "undisturbed": {"torch", "numpy"},
    "forward": {"torch", "transformers"},
    "sample": {"torch", "safetensors"},
    "probe": {"torch"},
    "callback": {"torch", "transformers"},
    "reporters": {"transformers"},
    "wandb_sink": {"wandb"},
    "workspace": {"wandb_workspaces"},
    "pictures": {"PIL", "numpy"},
    "sources": {"datasets"},
    "checkpoints": {"torch", "transformers", "peft"},
    "significance": {"torch", "numpy", "scipy"},
    "walk": {"torch", "tqdm"},
    "auditing": {"tqdm"},
    "findings": {"pandas"},
    "terminal": {"tqdm", "plotext"},
    "records": {"pandas"},
}


def imports(source):
    """Every import of a module: (dotted name, whether it is at the top). Ours begin with a dot."""
    tree = ast.parse(source)
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [f".{node.module}"] if node.module else [f".{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [(name, node not in inner) for name in names]
    return found


def ours(source):
    # `from . import __version__` takes a name of __init__, not a module.
    names = {name[1:].split(".")[0] for name, _ in imports(source) if name.startswith(".")}
    return {name if (PACKAGE / f"{name}.py").exists() else "__init__" for name in names}


def foreign(source):
    names = {name.split(".")[0] for name, _ in imports(source) if not name.startswith(".")}
    return names - set(sys.stdlib_module_names)


def uses(source, dotted):
    """Whether `dotted` is imported, or reached as an attribute: torch.distributed needs no import of its own."""
    spelled = {ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
    return any(f"{name}.".startswith(f"{dotted}.") for name in {n for n, _ in imports(source)} | spelled)


def at_top(source, package):
    return any(name.split(".")[0] == package for name, top in imports(source) if top)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def module(request):
    return request.param.stem, request.param.read_text(encoding="utf-8")


def test_a_module_imports_only_those_of_ours_that_it_may(module):
    name, source = module
    assert name in OURS, f"{name} has no row in OURS"
    assert ours(source) <= set(OURS[name].split())


def test_a_module_imports_only_those_libraries_that_it_may(module):
    name, source = module
    assert foreign(source) <= FOREIGN.get(name, set())
    assert "spinal_callback" not in foreign(source)  # ours are imported by a dot: the table above would not see it


def test_torch_distributed_is_in_ranks_alone(module):
    name, source = module
    assert uses(source, "torch.distributed") == (name == "ranks")


def test_trackers_and_plots_are_imported_where_they_are_used(module):
    name, source = module
    for package in ("wandb", "wandb_workspaces", "trackio", "PIL", "plotext", "plotly", "pandas", "deepspeed"):
        assert not at_top(source, package), f"{name} imports {package} at the top"


def test_nobody_imports_in_a_circle():
    waits = {path.stem: ours(path.read_text(encoding="utf-8")) - {"__init__"} for path in FILES}
    while ready := {name for name, needs in waits.items() if not needs}:
        waits = {name: needs - ready for name, needs in waits.items() if name not in ready}
    assert not waits


VIOLATIONS = """
from __future__ import annotations
import math, torch
from . import ranks, __version__
from .probe import Probe
from torch import distributed as dist
def draw():
    import plotext as p
    from transformers.trainer import Trainer
"""


def test_the_checks_see_what_they_look_for():
    assert ours(VIOLATIONS) == {"ranks", "probe", "__init__"}
    assert foreign(VIOLATIONS) == {"torch", "plotext", "transformers"}
    assert at_top(VIOLATIONS, "torch") and not at_top(VIOLATIONS, "plotext")
    assert uses(VIOLATIONS, "torch.distributed")
    assert uses("import torch\ntorch.distributed.barrier()", "torch.distributed")
    assert uses("import torch.distributed as dist", "torch.distributed")
    assert not uses("import torch\ntorch.distributions.Normal", "torch.distributed")


def test_the_public_names_are_there():
    assert {"Alert", "Reading", "SpinalCallback", "SpinalConfig", "load_trace"} <= set(spinal_callback.__all__)
    assert all(hasattr(spinal_callback, name) for name in spinal_callback.__all__)
    assert spinal_callback.__all__ == sorted(spinal_callback.__all__)


# --- the logged names


def promised(layers):
    """The names in SpinalCallback's docstring, `layer_{a..L}` written out."""
    names = set()
    for name, first in re.findall(r"^\s*(spinal/[\w/]+)(?:\{(\d+)\.\.L\})?\s", SpinalCallback.__doc__, re.MULTILINE):
        names |= {f"{name}{i}" for i in range(int(first), layers + 1)} if first else {name}
    return names


def logged(layers):
    """What the code emits: the scalars of a whole reading, and the names that the W&B sink writes itself."""
    sink = ast.parse((PACKAGE / "wandb_sink.py").read_text(encoding="utf-8"))
    own = {n.value for n in ast.walk(sink) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    whole = reading(0, layers=layers, alpha=[0.5] * layers)
    return set(scalars(whole)) | {name for name in own if re.fullmatch(r"spinal/[\w/]*\w", name)}


@pytest.mark.parametrize("layers", [4, 12])
def test_the_docstring_lists_the_names_that_are_logged(layers):
    assert promised(layers) == logged(layers)
    assert len(logged(layers)) == 2 * layers - 1 + 8 + 2 + 3  # headlines, those of the start, pictures and table


def test_a_name_of_another_depth_is_told_apart():
    assert promised(4) != logged(5)
    assert "spinal/transport/layer_1" not in promised(4) and "spinal/alpha/layer_1" in promised(4)
