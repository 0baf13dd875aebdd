"""DDP on two gloo ranks, each scenario a real DPOTrainer run of `worker_ddp.py`."""

import json

import pytest
import tiny
from launch import launch
from rank_checks import (
    assert_as_in_one_process,
    assert_concentration,
    assert_same_reading,
    assert_twins,
    one_process,
    steps,
)

from spinal_callback import load_trace
from spinal_callback.records import dump_record


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicated")
    return folder, launch(folder, "ddp", "more_ranks_than_prompts", worker="worker_ddp.py")


def test_ddp_weights_and_logs_are_those_without_the_callback(replicated):
    assert_twins(replicated[1]["ddp"])
    assert {rank["watched"]["backend"] for rank in replicated[1]["ddp"]} == {"Replicated"}


def test_ddp_readings_are_those_of_one_process(replicated):
    folder, results = replicated
    rank = results["ddp"][0]["watched"]
    assert_as_in_one_process(folder / "ddp" / "watched", rank, tiny.llama())


def test_ddp_gradient_concentration(replicated):
    assert_concentration(replicated[1]["ddp"][0])


def test_only_rank_zero_writes_the_trace(replicated):
    folder, results = replicated
    watched = [rank["watched"] for rank in results["ddp"]]
    assert [rank["sinks"] for rank in watched] == [2, 0]  # the trace and its page
    trace = load_trace(folder / "ddp" / "watched")
    assert [json.loads(dump_record(r)) for r in trace.readings] == watched[0]["readings"]  # each once


def test_a_rank_without_prompts(replicated):
    folder, results = replicated
    rank = results["more_ranks_than_prompts"][0]
    assert rank["readings"] == results["more_ranks_than_prompts"][1]["readings"]
    alone = one_process(folder / "more_ranks_than_prompts", rank, tiny.llama())
    assert_same_reading(rank["readings"][-1], alone[-1])


@pytest.mark.slow
def test_killed_and_resumed_on_two_ranks_is_uninterrupted(tmp_path):
    launch(tmp_path, "killed", worker="worker_ddp.py", killed_by_last=True)
    assert (tmp_path / "killed" / "checkpoint-4").is_dir() and not (tmp_path / "killed" / "checkpoint-6").exists()
    for rank in launch(tmp_path, "resumed", worker="worker_ddp.py")["resumed"]:
        resumed, through = rank["resumed"], rank["through"]
        assert resumed["weights"] == through["weights"] and resumed["alerts"] == through["alerts"]
        assert steps(resumed["readings"]) == [5, 6]
        assert unclocked(resumed["readings"]) == unclocked(through["readings"][5:])
    torn, whole = (
        [json.loads(dump_record(r)) for r in load_trace(tmp_path / name).readings] for name in ("killed", "resumed")
    )
    assert steps(torn) == [0, 1, 2, 3, 4, 5, 6] and unclocked(torn) == unclocked(whole)


def unclocked(readings):
    """Readings without what differs between two runs of the same thing."""
    return [{k: v for k, v in r.items() if k not in ("seconds", "overhead", "peak_bytes")} for r in readings]
