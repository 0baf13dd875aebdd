"""FSDP2 on two gloo ranks, each scenario a real DPOTrainer run of `worker_fsdp.py`."""

import pytest
import tiny
from launch import launch
from rank_checks import assert_as_in_one_process, assert_concentration, assert_twins, steps

from spinal_callback import load_trace

SHARDED = ("fsdp_resharded_untied", "fsdp_whole_tied", "fsdp_adapters")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return folder, launch(folder, *SHARDED, "fsdp_weights_change", "fsdp_fails_in_a_layer", worker="worker_fsdp.py")


def assert_sharded_as_in_one_process(folder, result, scenario):
    assert_twins(result)
    assert {rank["watched"]["backend"] for rank in result} == {"FSDP2"}
    assert_concentration(result[0])
    assert result[0]["batches"][0] != result[0]["batches"][1]
    model = tiny.llama(tie_word_embeddings=scenario.endswith("_tied"))
    if scenario == "fsdp_adapters":
        from peft import get_peft_model

        model = get_peft_model(model, tiny.lora()).eval()
    rank = result[0]["watched"]
    assert_as_in_one_process(folder / scenario / "watched", rank, model)


@pytest.mark.parametrize("scenario", SHARDED)
def test_fsdp_twins_and_readings(sharded, scenario):
    folder, results = sharded
    assert_sharded_as_in_one_process(folder, results[scenario], scenario)


@pytest.mark.slow
def test_fsdp_the_other_combinations(tmp_path):
    scenarios = ("fsdp_resharded_tied", "fsdp_whole_untied")
    results = launch(tmp_path, *scenarios, worker="worker_fsdp.py")
    for scenario in scenarios:
        assert_sharded_as_in_one_process(tmp_path, results[scenario], scenario)


@pytest.mark.slow
def test_fsdp_mixed_precision(tmp_path):
    for result in launch(tmp_path, "fsdp_bfloat16", "fsdp_bfloat16_outputs", worker="worker_fsdp.py").values():
        assert_twins(result)
        assert_concentration(result[0])
        for rank in result:
            ((autocast, weight, _),) = rank["forwards"]["training"]
            assert (autocast, weight) == ("None", "torch.bfloat16")
            assert rank["forwards"]["probe"] == rank["forwards"]["training"]


def test_fsdp_trains_on_stale_weights_unless_they_are_sharded_again(sharded):
    """Weights change after the probe: with `FSDP2.settle` training sees it, without it does not."""
    for rank in sharded[1]["fsdp_weights_change"]:
        assert rank["watched"]["weights"] == rank["plain"]["weights"]
        assert rank["not settled"]["weights"] != rank["plain"]["weights"]


def test_fsdp_a_layer_that_fails_on_one_rank_leaves_nobody_waiting(sharded):
    folder, results = sharded
    for rank in results["fsdp_fails_in_a_layer"]:
        assert rank["step"] == 6 and steps(rank["readings"]) == [0, 2, 6] and rank["batch"] == 2048
        assert rank["weights"] == results["fsdp_resharded_untied"][0]["plain"]["weights"]
    out_of_memory, failed = load_trace(folder / "fsdp_fails_in_a_layer").notices
    assert (out_of_memory.step, out_of_memory.event) == (2, "probe_memory")
    assert (failed.step, failed.event) == (
        4,
        "probe_failed",
    ) and "rank 1: ArithmeticError in worker.py, line " in failed.message
