"""The READMEs hold together: links lead somewhere, commands exist, the picture of the package is the package."""

import argparse
import ast
import contextlib
import dataclasses
import io
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from paths import ROOT

from spinal_callback.alerts.rules import RULES
from spinal_callback.cli import main as cli
from spinal_callback.config import SpinalConfig

LIMIT = 12_000  # characters of the first README: it is to be finished
FOLDERS = (
    ".",
    "spinal_callback",
    "tests",
    "recipes",
    "recipes/hosts",
    "recipes/pictures",
    "scripts",
    "scripts/benchmarks",
    "scripts/stability",
)
READMES = [Path(folder) / "README.md" for folder in FOLDERS]


def text(readme):
    return (ROOT / readme).read_text(encoding="utf-8")


def without_code(markdown):
    return re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)


def test_the_list_of_readmes_is_whole():
    found = {path.relative_to(ROOT) for path in ROOT.glob("*/**/README.md") if ".venv" not in path.parts}
    assert {path for path in found if not path.parts[0].startswith((".", "runs", "wandb"))} <= set(READMES)


def test_the_first_readme_is_short_and_shows_a_picture_on_the_first_screen():
    whole = text("README.md")
    assert len(whole) < LIMIT
    assert "![" in "".join(whole.splitlines(keepends=True)[:20])


# --- links


def anchors(markdown):
    """The anchors of a file's headings, as GitHub spells them."""
    titles = re.findall(r"^#+ (.+)$", without_code(markdown), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[(.*?)\]\(.*?\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


def broken(readme, markdown):
    """The links and images of a README that lead nowhere. What is on the web is not asked for."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(markdown)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / readme).parent / name if name else ROOT / readme
        there = path.exists()
        if there and anchor:
            there = anchor in anchors(markdown if not name else path.read_text(encoding="utf-8"))
        found += [] if there else [target]
    return found


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_links_and_images_lead_somewhere(readme):
    assert broken(readme, text(readme)) == []


def test_a_broken_link_is_seen():
    markdown = (
        "# One thing, or `two`\n[a](LICENSE) [b](gone.md) ![c](#one-thing-or-two) [d](#three) [e](README.md#gone)"
    )
    assert broken(Path("README.md"), markdown) == ["gone.md", "#three", "README.md#gone"]


# --- commands


def commands(markdown):
    """The command lines in a README's `bash` blocks, and in its text those that begin like one of ours."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    ours = r"`((?:(?:spinal|python|pytest|pip) |\./scripts/)[^`]+)`"
    spans = re.findall(ours, without_code(markdown).replace("\n", " "))
    return [line for line in lines if line.split("#")[0].strip()], spans


def wrong(line, whole=True):
    """Why a command cannot be run, or None. `whole`: it stands for itself; in a sentence arguments may be left out."""
    words = shlex.split(line, comments=True)
    words = [word.removeprefix(".venv/bin/") for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[0] in ("accelerate", "torchrun"):
        script = next(i for i, word in enumerate(words) if word.endswith(".py") or "spinal" in word)
        files = [word for word in words[:script] if "/" in word and "$" not in word]
        ours = ["spinal" if "spinal" in words[script] else "python", *words[script + ("spinal" in words[script]) :]]
        return next((f"no file {f}" for f in files if not (ROOT / f).is_file()), None) or wrong(shlex.join(ours), whole)
    if words[0].startswith("./"):
        there = (ROOT / words[0]).is_file() and os.access(ROOT / words[0], os.X_OK)
        return None if there else f"{words[0]} cannot be run"
    check = {"spinal": of_spinal, "python": of_script, "pytest": of_pytest, "pip": of_pip, "pre-commit": of_pre_commit}
    return check[words[0]](words[1:], whole) if words[0] in check else f"unknown command {words[0]}"


def of_spinal(words, whole):
    parser = cli._parser()
    words = words[: words.index("--")] if "--" in words else words  # after it comes another's command
    if whole:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                parser.parse_args([word for word in words if word != "..."])
            except SystemExit:
                return said.getvalue()
        return None
    (commands,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    if not words or words[0] not in commands:
        return f"spinal has no command {words[:1]}" if words else None
    known = commands[words[0]]._option_string_actions
    return next((f"spinal {words[0]} has no {w}" for w in words[1:] if w.startswith("-") and w not in known), None)


def of_script(words, whole):
    script = next((word for word in words if not word.startswith("-")), "")
    if words[0] == "-m":
        script = f"{script.replace('.', '/')}.py"
    if not (ROOT / script).is_file():
        return f"no file {script}"
    flags = {node.value for node in ast.walk(ast.parse(text(script))) if isinstance(node, ast.Constant)}
    if script == "recipes/dpo.py":
        flags |= dpo_flags()
    return next((f"{script} has no {w}" for w in words if w.startswith("--") and w not in flags), None)


def dpo_flags():
    from trl import DPOConfig, ModelConfig

    own = re.findall(r"^    (\w+): .* = field\(", text("recipes/dpo.py"), re.MULTILINE)
    spinal = [f"spinal_{field.name}" for field in dataclasses.fields(SpinalConfig)]
    theirs = [field.name for kind in (DPOConfig, ModelConfig) for field in dataclasses.fields(kind)]
    return {f"--{name}" for name in [*own, *spinal, *theirs, "config"]}


def of_pytest(words, whole):
    paths = [word.partition("::")[0] for word in words if "/" in word]
    return next((f"no file {path}" for path in paths if not (ROOT / path).exists()), None)


def of_pip(words, whole):
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    asked = [
        e for group in re.findall(r"(?:\.|spinal_callback)\[([\w,]+)\]", " ".join(words)) for e in group.split(",")
    ]
    return next((f"no extra {extra}" for extra in asked if extra not in extras), None)


def of_pre_commit(words, whole):
    return None if words[0] in ("install", "run") else f"pre-commit {words[0]}?"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_command_exists(readme):
    blocks, spans = commands(text(readme))
    answers = [(line, wrong(line)) for line in blocks] + [(line, wrong(line, whole=False)) for line in spans]
    assert [f"{line}: {answer}" for line, answer in answers if answer] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("spinal audot x", "audot"),
        ("spinal report a b --outptu x", "unrecognized"),
        ("./scripts/gone", "cannot be run"),
        ("python scripts/benchmarks/bench_probe.py --repeat 3", "no --repeat"),
        ("python -m spinal_callback.hosts.llama_factori x.yaml", "no file"),
        ("python recipes/dpo.py --spinal_evry 3", "no --spinal_evry"),
        ("accelerate launch --config_file recipes/accelerate/gone.yaml recipes/dpo.py", "gone.yaml"),
        ("torchrun --nproc_per_node 2 $(which spinal) audit A --bas B --outptu x", "unrecognized"),
        ('pip install ".[adit]"', "no extra adit"),
        ("pytest tests/test_gone.py", "no file"),
        ("make install", "unknown command"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(line, words):
    assert words in (wrong(line) or "")


@pytest.mark.parametrize("line", ["spinal shwo", "spinal audit --mdoel x"])
def test_in_a_sentence_too(line):
    assert wrong(line, whole=False)


# --- pictures of the code


def test_the_table_of_rules_is_the_rules():
    rows = re.findall(r"^\| `(\w+)` \|", text("README.md"), re.MULTILINE)
    assert [name for name in rows if name in RULES] == list(RULES)


def test_settings_that_are_named_exist_with_their_defaults():
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text("README.md"), re.MULTILINE)
    settings = {field.name: field.default for field in dataclasses.fields(SpinalConfig)}
    assert len(rows) >= 6
    for name, default in rows:
        value = settings[name]
        assert default == ("1/3" if name == "window" else repr(value).replace("'", '"'))


def test_the_tree_of_the_project_names_what_is_there():
    (tree,) = re.findall(r"^```\n(\S+/\n.*?)^```", text("README.md"), re.DOTALL | re.MULTILINE)
    names = [re.match(r" *(\S+)", line)[1] for line in tree.splitlines()[1:]]
    assert len(names) > 5 and all((ROOT / name).exists() for name in names)
