"""workspace.py: the dashboard's spec, from the real package, without a network."""

import json
import re
import socket
import sys

import pytest
from builders import reading

from spinal_callback.cli.main import main
from spinal_callback.sinks import wandb_workspace as workspace
from spinal_callback.sinks.logged_values import STEP, layer_names, scalars

ARGUMENTS = ["workspace", "--entity", "me", "--project", "dpo"]


@pytest.fixture
def no_network(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)


def dry_run(capsys):
    pytest.importorskip("wandb_workspaces")
    assert main([*ARGUMENTS, "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def panels(view):
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections if section["panels"]}


def test_the_spec_is_printed_without_a_network(no_network, capsys):
    view = dry_run(capsys)
    assert (view["entity"], view["project"], view["displayName"]) == ("me", "dpo", "SPINAL")
    assert {name: len(found) for name, found in panels(view).items()} == {
        "Is it healthy?": 7,
        "Answers of preference pairs": 3,
        "Score and its terms": 4,
        "Layers": 4,
        "Training": 6,
        "Every reading and layer": 1,
    }


def test_every_curve_runs_over_the_trainers_steps_and_names_what_is_logged(capsys):
    view, logged = dry_run(capsys), set(scalars(reading(0))) | {"spinal/alerts"}
    curves = [p["config"] for found in panels(view).values() for p in found if p["viewType"] == "Run History Line Plot"]
    assert len(curves) == 7 + 3 + 4 + 2 + 6 and {curve["xAxis"] for curve in curves} == {STEP}
    named = [name for curve in curves for name in curve.get("metrics", [])]
    assert {name for name in named if name.startswith("spinal/")} == logged and len(named) == len(set(named))


def test_a_change_is_drawn_with_its_error(capsys):
    healthy = {
        panel["config"]["chartTitle"]: panel["config"]["metrics"] for panel in panels(dry_run(capsys))["Is it healthy?"]
    }
    assert healthy["Late contraction, change, healthy: slowly up"] == ["spinal/delta_alpha", "spinal/delta_alpha_se"]
    assert healthy["Late transport, change (rad), healthy: slowly down"] == [
        "spinal/delta_transport", "spinal/delta_transport_se"
    ]  # fmt: skip


@pytest.mark.parametrize("layers", [12, 126])
def test_the_layers_curves_are_found_also_in_runs_of_the_earlier_names(capsys, layers):
    curves = [p["config"] for p in panels(dry_run(capsys))["Layers"] if p["viewType"] == "Run History Line Plot"]
    earlier = [f"spinal/alpha/layer_{i}" for i in range(1, layers + 1)]
    earlier += [f"spinal/transport/layer_{i}" for i in range(2, layers + 1)]
    other = [*scalars(reading(0)), "spinal/alerts", "spinal/layers", "train/loss"]
    for names in (layer_names(layers), earlier):
        drawn = [[name for name in (*names, *other) if re.search(curve["metricRegex"], name)] for curve in curves]
        assert drawn == [names[:layers], names[layers:]]


def test_the_pictures_and_the_table_are_there(capsys):
    text = json.dumps(dry_run(capsys))
    for name in ("spinal/heatmaps", "spinal/depth_trace", "spinal/layers"):
        assert name in text


@pytest.mark.parametrize("arguments", [["--entity", " ", "--project", "p"], ["--entity", "me", "--project", "a/b"]])
def test_a_name_that_is_none_is_refused(arguments, capsys):
    assert main(["workspace", *arguments, "--dry-run"]) == 2
    assert re.fullmatch(
        r"spinal workspace: --(entity|project) must be a name on W&B without a slash, got '.*'\n",
        capsys.readouterr().err,
    )


def test_without_the_package_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main([*ARGUMENTS, "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "spinal workspace: needs wandb-workspaces, which is not installed: pip install wandb-workspaces\n"
    )


def test_what_wandb_says_is_one_line(monkeypatch, capsys):
    class Refusing:
        def save(self):
            raise RuntimeError("No API key configured.\nLong explanation")

    monkeypatch.setattr(workspace, "workspace", lambda entity, project: Refusing())
    assert main(ARGUMENTS) == 2
    said = "W&B did not take the workspace for me/dpo: No API key configured. (try: wandb login)"
    assert capsys.readouterr().err == f"spinal workspace: {said}\n"


def test_made_it_tells_where(monkeypatch, capsys):
    class Made:
        url = "https://wandb.ai/me/dpo?nw=abc"

        def save(self):
            return self

    monkeypatch.setattr(workspace, "workspace", lambda entity, project: Made())
    assert main(ARGUMENTS) == 0 and capsys.readouterr().out == "made https://wandb.ai/me/dpo?nw=abc\n"
