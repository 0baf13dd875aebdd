"""What runs on several ranks must have in common with a run of one process."""

import json

import pytest
import reference
import tiny
import torch

from spinal_callback import SpinalConfig
from spinal_callback.probe import Probe
from spinal_callback.probe.prompts import PromptSet
from spinal_callback.records import dump_record


def steps(records):
    return [r["step"] for r in records]


def one_process(folder, rank, model):
    """The first and last reading of a scenario's run, taken by this process alone."""
    prompts = rank["prompts"]
    probe = Probe(model, PromptSet(prompts, [0] * len(prompts)), SpinalConfig(num_prompts=len(prompts)))
    first = probe.read(0)
    weights = torch.load(folder / "weights.pt")
    assert tiny.digest(weights) == rank["weights"]
    model.load_state_dict(weights)
    return [json.loads(dump_record(r)) for r in (first, probe.read(rank["step"]))]


def assert_same_reading(told, alone):
    for name in ("alpha", "alpha_r2", "effective_rank"):
        assert told[name] == pytest.approx(alone[name], rel=1e-6), name
    for name in ("transport", "displacement", "entropy"):
        assert told[name] == pytest.approx(alone[name], abs=1e-5), name
    assert told["delta"]["alpha"] == pytest.approx(alone["delta"]["alpha"], abs=1e-6)
    assert told["delta"]["transport"] == pytest.approx(alone["delta"]["transport"], abs=1e-5)
    assert told["prompts"] == alone["prompts"] == 21


def failures(run):
    """Failures of the probe or of a sink. (Alerts are no failures: a rule may warn of what such a small model does.)"""
    return run["notices"]


def assert_twins(result):
    """Weights and the Trainer's own logs are those without the callback, and every rank has every reading."""
    for rank in result:
        assert rank["plain"]["weights"] == rank["watched"]["weights"]
        assert rank["plain"]["logs"] == rank["watched"]["logs"]
        assert steps(rank["watched"]["readings"]) == [0, 2, 4, 6]
        assert failures(rank["watched"]) == []
    assert result[0]["watched"]["readings"] == result[1]["watched"]["readings"]


def assert_concentration(rank):
    """Of each reading: that of the gradients just before the step, made whole and summed here in float64."""
    for reading in rank["watched"]["readings"][1:]:
        expected = reference.gradient_concentration(rank["norms"][reading["step"] - 1], 7, 9)
        assert 0 < expected < 1 and reading["gradient_concentration"] == pytest.approx(expected, rel=1e-6)


def assert_as_in_one_process(folder, told, model):
    """The first and the last reading are those that one process takes of the same weights."""
    alone = one_process(folder, told, model)
    for reading, expected in zip((told["readings"][0], told["readings"][-1]), alone, strict=True):
        assert_same_reading(reading, expected)
