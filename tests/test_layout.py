"""The picture of the package, enforced: which package may import which, who may use torch, which names are logged."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from builders import reading
from paths import ROOT

import spinal_callback
from spinal_callback import SpinalCallback
from spinal_callback.sinks.logged_values import STEP, headlines, layer_scalars

PACKAGE = Path(spinal_callback.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DRAWN = (PACKAGE / "README.md").read_text(encoding="utf-8")

# A package (or a module at the top), and which of ours it may import. spinal_callback/README.md shows the same.
MAY_IMPORT = {
    "version": "",
    "files": "",
    "run_folder": "",
    "failures": "",
    "distributed": "failures",
    "schema": "",
    "records": "run_folder schema",
    "traces": "records run_folder",
    "config": "records",
    "alerts": "records schema traces",
    "report": "config records traces run_folder",
    "probe": "distributed config failures records version",
    "sinks": "records traces report failures files run_folder",
    "trainer": "probe alerts sinks distributed config failures records run_folder schema",
    "auditing": "probe alerts report distributed config records traces run_folder",
    "hosts": "trainer alerts config",
    "cli": "alerts auditing config distributed files hosts probe records report run_folder sinks traces version",
    "__init__": "auditing config records sinks trainer traces version",
}
ONE_EXCEPTION = ("traces", "report")  # a trace shows itself in a notebook as the report's page, imported when asked for
WITHOUT_TORCH = ("schema", "records", "traces", "config", "alerts", "report", "sinks", "failures", "files")
WITHOUT_TORCH += ("run_folder", "version")
TORCHLIKE = {"torch", "transformers", "accelerate", "trl", "peft", "safetensors", "datasets"}
HOLDS_A_TRACKER = "sinks/trainer_trackers.py"  # hands rows to the Trainer's own callbacks, so it knows transformers
LATE = ("wandb", "wandb_workspaces", "trackio", "PIL", "plotly", "pandas", "scipy", "deepspeed")


def room(path):
    """What a file belongs to: its package, or itself where it lies at the top."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(source):
    """Every import: (dotted name, dots before it, whether it is at the top of the module)."""
    tree = ast.parse(source)
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, node not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" if node.module else a.name for a in node.names]
            found += [(name, node.level, node not in inner) for name in names]
    return found


def ours(source, home):
    """The rooms that a file of room `home` imports from, other than its own."""
    found = set()
    for name, dots, _ in imports(source):
        top_level = dots == 2 or (dots == 1 and not (PACKAGE / home).is_dir())
        if top_level:
            first = name.split(".")[0]
            known = (PACKAGE / first).is_dir() or (PACKAGE / f"{first}.py").exists()
            found.add(first if known else "__init__")
    return found - {home}


def foreign(source):
    names = {name.split(".")[0] for name, dots, _ in imports(source) if not dots}
    return names - set(sys.stdlib_module_names)


def uses(source, dotted):
    """Whether `dotted` is imported, or reached as an attribute: torch.distributed needs no import of its own."""
    spelled = {ast.unparse(n) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
    return any(f"{name}.".startswith(f"{dotted}.") for name in {n for n, _, _ in imports(source)} | spelled)


def at_top(source, package):
    return any(name.split(".")[0] == package for name, dots, top in imports(source) if top and not dots)


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def module(request):
    return request.param, request.param.read_text(encoding="utf-8")


def test_a_package_imports_only_what_it_may(module):
    path, source = module
    home = room(path)
    assert home in MAY_IMPORT, f"{home} has no row in MAY_IMPORT"
    more = {ONE_EXCEPTION[1]} if home == ONE_EXCEPTION[0] else set()
    assert ours(source, home) <= set(MAY_IMPORT[home].split()) | more
    assert "spinal_callback" not in foreign(source), "ours are imported by dots: the table would not see it"


def test_torch_stays_out_of_what_only_reads_and_draws(module):
    path, source = module
    if room(path) in WITHOUT_TORCH and str(path.relative_to(PACKAGE)) != HOLDS_A_TRACKER:
        assert not foreign(source) & TORCHLIKE


def test_torch_distributed_is_in_one_package(module):
    path, source = module
    assert not uses(source, "torch.distributed") or room(path) == "distributed"


def test_what_is_slow_to_import_or_optional_is_imported_where_it_is_used(module):
    path, source = module
    for package in LATE:
        assert not at_top(source, package), f"{path} imports {package} at the top"


def core():
    """The packages that `pip install spinal_callback` brings along, as far as the package uses them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]} | {
        "tqdm",
        "huggingface_hub",
    }  # transformers'


def test_without_extras_every_module_can_be_imported(module):
    path, source = module
    of_the_framework = {"axolotl", "pydantic", "llamafactory", "swift"} if room(path) == "hosts" else set()
    top = {name.split(".")[0] for name, dots, top in imports(source) if top and not dots}
    assert top - set(sys.stdlib_module_names) <= core() | of_the_framework
    assert "trl" not in foreign(source), "not even inside a function: whoever has no TRL can use all of the package"


def test_no_two_packages_import_each_other():
    waits = {}
    for path in FILES:
        home, source = room(path), path.read_text(encoding="utf-8")
        waits.setdefault(home, set()).update(ours(source, home) - {"__init__"})
    waits[ONE_EXCEPTION[0]].discard(ONE_EXCEPTION[1])
    while ready := {name for name, needs in waits.items() if not needs}:
        waits = {name: needs - ready for name, needs in waits.items() if name not in ready}
    assert not waits


VIOLATIONS = """
from __future__ import annotations
import math, torch
from .. import __version__
from ..probe.probe import Probe
from .rules import RULES
from torch import distributed as dist
def draw():
    import pandas as p
    from transformers.trainer import Trainer
"""


def test_the_checks_see_what_they_look_for():
    assert ours(VIOLATIONS, "alerts") == {"probe", "__init__"}
    assert ours("from .probe import measures", "__init__") == {"probe"}
    assert foreign(VIOLATIONS) == {"torch", "pandas", "transformers"}
    assert at_top(VIOLATIONS, "torch") and not at_top(VIOLATIONS, "pandas")
    assert uses(VIOLATIONS, "torch.distributed")
    assert uses("import torch\ntorch.distributed.barrier()", "torch.distributed")
    assert uses("import torch.distributed as dist", "torch.distributed")
    assert not uses("import torch\ntorch.distributions.Normal", "torch.distributed")


def test_the_public_names_are_there():
    assert {"Alert", "Reading", "SpinalCallback", "SpinalConfig", "load_trace"} <= set(spinal_callback.__all__)
    assert all(hasattr(spinal_callback, name) for name in spinal_callback.__all__)
    assert set(spinal_callback.__all__) <= set(dir(spinal_callback))
    assert spinal_callback.__all__ == sorted(spinal_callback.__all__)


# --- the drawing beside the code: spinal_callback/README.md


def files_of(tree):
    """The files that a drawn tree names, one a line, two blanks deeper in each folder."""
    files, folders = set(), []
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders[len(indent) // 2 :] = [name]
        if not name.endswith("/"):
            files.add("".join(folders[1:]))
    return files


def test_the_tree_of_the_package_names_every_file_and_no_other():
    (tree,) = re.findall(r"^```\n(spinal_callback/\n.*?)^```", DRAWN, re.DOTALL | re.MULTILINE)
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.is_file()}
    there = {name for name in files if "__pycache__" not in name and not name.endswith("/__init__.py")}
    assert files_of(tree) == there


def test_the_import_rule_is_the_one_that_is_enforced():
    table = DRAWN.partition("## Who may import whom")[2].partition("\n\n`")[0]
    told = {}
    for homes, targets in re.findall(r"^\| (`.+?) \| (.+?) \|$", table, re.MULTILINE):
        may = MAY_IMPORT["cli"].split() if targets == "everything" else re.findall(r"`(\w+)`", targets)
        told |= {home: set(may) for home in re.findall(r"`(\w+)`", homes)}
    assert told == {home: set(may.split()) for home, may in MAY_IMPORT.items() if home != "__init__"}


# --- the logged names


def promised(layers):
    """The names in SpinalCallback's docstring, `alpha_{01..L}` written out."""
    names = set()
    pattern = r"^\s*(spinal(?:_layers)?/[\w/]+)(?:\{(\d+)\.\.L\})?\s"
    for name, first in re.findall(pattern, SpinalCallback.__doc__, re.MULTILINE):
        names |= {f"{name}{i:02d}" for i in range(int(first), layers + 1)} if first else {name}
    return names


def logged(layers):
    """What the code emits: the numbers of a whole reading, and the names that the W&B sink writes itself."""
    sink = ast.parse((PACKAGE / "sinks" / "wandb.py").read_text(encoding="utf-8"))
    own = {n.value for n in ast.walk(sink) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    whole = reading(0, layers=layers, alpha=[0.5] * layers)
    numbers = set(headlines(whole, 0)) | set(layer_scalars(whole))
    return numbers | {STEP} | {name for name in own if re.fullmatch(r"spinal/[\w/]*\w", name)}


@pytest.mark.parametrize("layers", [4, 12])
def test_the_docstring_lists_the_names_that_are_logged(layers):
    assert promised(layers) == logged(layers)
    # headlines, the summary's own, images and table, x axis
    assert len(logged(layers)) == 2 * layers - 1 + 18 + 4 + 3 + 1


def test_a_name_of_another_depth_is_told_apart():
    assert promised(4) != logged(5)
    assert "spinal_layers/transport_01" not in promised(4) and "spinal_layers/alpha_01" in promised(4)
