"""Two gloo ranks under torchrun, each scenario a real DPOTrainer run: see `worker.py`."""

import json

import pytest
import reference
import tiny
import torch
from launch import launch
from rank_checks import assert_same_reading, assert_twins, one_process, steps

from spinal_callback import load_trace
from spinal_callback.distributed import collectives as ranks
from spinal_callback.probe import sample
from spinal_callback.records import dump_record

CPU = torch.device("cpu")


def assert_concentration(rank):
    """Of each reading: that of the gradients just before the step, made whole and summed here in float64."""
    for reading in rank["watched"]["readings"][1:]:
        expected = reference.gradient_concentration(rank["norms"][reading["step"] - 1], 7, 9)
        assert 0 < expected < 1 and reading["gradient_concentration"] == pytest.approx(expected, rel=1e-6)


# --- DDP, and what fails on one rank of it

FAILURES = ("tokenizing", "hook", "in_measures", "in_gradients", "in_pooling", "memory_in_forward")
FAILURES += ("memory_in_lens", "memory_for_good", "nan", "stop", "sink")
FAILURES += ("other_prompts", "other_config", "sigterm")  # the last one ends the processes


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    """All scenarios of DDP in the same two processes."""
    folder = tmp_path_factory.mktemp("replicated")
    return folder, launch(folder, "ddp", "more_ranks_than_prompts", *FAILURES, killed_by_last=True)


def test_ddp_weights_and_logs_are_those_without_the_callback(replicated):
    assert_twins(replicated[1]["ddp"])


def test_ddp_readings_are_those_of_one_process(replicated):
    folder, results = replicated
    rank = results["ddp"][0]["watched"]
    alone = one_process(folder / "ddp" / "watched", rank, tiny.llama())
    for told, expected in zip((rank["readings"][0], rank["readings"][-1]), alone, strict=True):
        assert_same_reading(told, expected)


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


def test_failing_to_tokenize_on_one_rank_raises_on_all(replicated):
    first, second = replicated[1]["tokenizing"]
    assert first["raised"] == """RuntimeError("rank 1: OSError('no tokenizer here')")"""
    assert second["raised"] == "OSError('no tokenizer here')" and first["step"] == second["step"] == 0


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("hook", "no hidden states from layers [3]"),
        ("in_measures", "ArithmeticError('no spectrum')"),
        ("in_pooling", "ArithmeticError('no buffer')"),
    ],
)
def test_a_probe_that_fails_on_one_rank_is_left_out_on_all(replicated, scenario, words):
    folder, results = replicated
    for rank in results[scenario]:
        assert rank["step"] == 4 and steps(rank["readings"]) == [0, 4]
        assert rank["weights"] == results["hook"][0]["weights"], "the same training, whatever failed"
    (notice,) = load_trace(folder / scenario).notices
    assert (
        (notice.step, notice.event) == (2, "probe_failed") and "rank 1: " in notice.message and words in notice.message
    )


def test_gradients_that_fail_on_one_rank_are_left_out_on_all(replicated):
    folder, results = replicated
    for rank in results["in_gradients"]:
        assert steps(rank["readings"]) == [0, 2, 4]
        assert [r["gradient_concentration"] is None for r in rank["readings"]] == [True, True, False]
    (notice,) = load_trace(folder / "in_gradients").notices
    assert "no gradient concentration" in notice.message and "rank 1: ArithmeticError('no norm')" in notice.message


def test_out_of_memory_in_a_forward_pass_halves_the_batch_on_all_ranks(replicated):
    folder, results = replicated
    for rank in results["memory_in_forward"]:
        assert rank["batch"] == 2048 and steps(rank["readings"]) == [0, 2, 4]
    (notice,) = load_trace(folder / "memory_in_forward").notices
    assert (notice.step, notice.event) == (2, "probe_memory") and "2048 tokens at a time, not 4096" in notice.message


def test_out_of_memory_in_the_lens_halves_its_pieces_on_all_ranks(replicated):
    folder, results = replicated
    for rank in results["memory_in_lens"]:
        assert rank["block"] == sample.LOGITS_BLOCK // 2 and steps(rank["readings"]) == [0, 2, 4]
        for told, calm in zip(rank["readings"], results["memory_in_forward"][0]["readings"], strict=True):
            assert_same_reading(told, calm)
    (notice,) = load_trace(folder / "memory_in_lens").notices
    assert (notice.step, notice.event) == (
        2,
        "probe_memory",
    ) and "1048576 logits at a time, not 2097152" in notice.message


def test_a_lens_without_enough_memory_is_left_out_on_all_ranks(replicated):
    folder, results = replicated
    for rank in results["memory_for_good"]:
        assert rank["step"] == 4 and steps(rank["readings"]) == [0]
        assert rank["weights"] == results["hook"][0]["weights"]
    notices = load_trace(folder / "memory_for_good").notices
    assert [(n.step, n.event) for n in notices] == [(2, "probe_failed"), (4, "probe_failed")]
    assert "rank 1: OutOfMemoryError('lens')" in notices[0].message


def test_nan_on_one_rank_is_in_everyones_reading(replicated):
    folder, results = replicated
    for rank in results["nan"]:
        assert rank["step"] == 4 and [r["nonfinite"] for r in rank["readings"]] == [0, 32, 0]
        assert [i for i, alpha in enumerate(rank["readings"][1]["alpha"], 1) if alpha is None] == [5]
    assert [(a.step, a.rule) for a in load_trace(folder / "nan").alerts] == [(2, "nonfinite")]


def test_stop_on_stops_every_rank_at_the_same_step(replicated):
    for rank in replicated[1]["stop"]:
        assert rank["step"] == 2 and [a[:2] for a in rank["alerts"]] == [[2, "nonfinite"]]


def test_a_sink_that_throws_on_rank_zero(replicated):
    folder, results = replicated
    for rank, left in zip(results["sink"], (2, 0), strict=True):
        assert rank["step"] == 4 and steps(rank["readings"]) == [0, 2, 4] and rank["sinks"] == left
    (notice,) = load_trace(folder / "sink").notices
    assert (notice.step, notice.event) == (0, "sink_failed") and "OSError('tracker is down')" in notice.message


@pytest.mark.parametrize("what", ["prompts", "config"])
def test_ranks_that_disagree_are_refused(replicated, what):
    for rank in replicated[1][f"other_{what}"]:
        assert rank["step"] == 0 and rank["raised"].startswith(f"{what} must be the same on every rank")


def test_sigterm_to_one_rank_ends_all_and_leaves_a_whole_trace(replicated):
    folder, results = replicated
    assert results["sigterm"] == [None, None]
    assert (folder / "sigterm" / "_spinal" / "trace.jsonl").read_text().endswith("\n")
    assert [r.step for r in load_trace(folder / "sigterm").readings][:3] == [0, 1, 2]


@pytest.mark.slow
def test_killed_and_resumed_on_two_ranks_is_uninterrupted(tmp_path):
    launch(tmp_path, "killed", killed_by_last=True)
    assert (tmp_path / "killed" / "checkpoint-4").is_dir() and not (tmp_path / "killed" / "checkpoint-6").exists()
    for rank in launch(tmp_path, "resumed")["resumed"]:
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


# --- FSDP2

SHARDED = ("fsdp_resharded_untied", "fsdp_whole_tied", "fsdp_adapters")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return folder, launch(folder, *SHARDED, "fsdp_weights_change", "fsdp_fails_in_a_layer")


def assert_sharded_as_in_one_process(folder, result, scenario):
    assert_twins(result)
    assert_concentration(result[0])
    assert result[0]["batches"][0] != result[0]["batches"][1]
    model = tiny.llama(tie_word_embeddings=scenario.endswith("_tied"))
    if scenario == "fsdp_adapters":
        from peft import get_peft_model

        model = get_peft_model(model, tiny.lora()).eval()
    rank = result[0]["watched"]
    alone = one_process(folder / scenario / "watched", rank, model)
    for told, expected in zip((rank["readings"][0], rank["readings"][-1]), alone, strict=True):
        assert_same_reading(told, expected)


@pytest.mark.parametrize("scenario", SHARDED)
def test_fsdp_twins_and_readings(sharded, scenario):
    folder, results = sharded
    assert_sharded_as_in_one_process(folder, results[scenario], scenario)


@pytest.mark.slow
def test_fsdp_the_other_combinations(tmp_path):
    scenarios = ("fsdp_resharded_tied", "fsdp_whole_untied")
    results = launch(tmp_path, *scenarios)
    for scenario in scenarios:
        assert_sharded_as_in_one_process(tmp_path, results[scenario], scenario)


@pytest.mark.slow
def test_fsdp_mixed_precision(tmp_path):
    for result in launch(tmp_path, "fsdp_bfloat16", "fsdp_bfloat16_outputs").values():
        assert_twins(result)
        assert_concentration(result[0])
        for rank in result:
            ((autocast, weight, _),) = rank["forwards"]["training"]
            assert (autocast, weight) == ("None", "torch.bfloat16")
            assert rank["forwards"]["probe"] == rank["forwards"]["training"]


def test_fsdp_trains_on_stale_weights_unless_they_are_sharded_again(sharded):
    """Weights change after the probe: with `ranks.settle` training sees it, without it does not."""
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
    assert (failed.step, failed.event) == (4, "probe_failed") and "rank 1: ArithmeticError('layer 5')" in failed.message


# --- without other ranks


def test_one_process_passes_through():
    assert (ranks.world(), ranks.rank()) == (1, 0)
    assert ranks.least(3, CPU) == 3 and ranks.from_zero([1.5, 2.0], CPU) == [1.5, 2.0] and ranks.alike("ab" * 32, CPU)
    assert ranks.total(torch.ones(2)).tolist() == [1, 1]
    assert ranks.together(lambda: 7, CPU) == 7


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError("Unable to allocate 4 GiB"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory is not the word of a ValueError"), False),
    ],
)
def test_out_of_memory_goes_by_one_name(error, full):
    def work():
        raise error

    with pytest.raises(torch.OutOfMemoryError if full else type(error)) as caught:
        ranks.together(work, CPU)
    assert str(caught.value) == str(error) and isinstance(caught.value, torch.OutOfMemoryError) == full


@pytest.mark.parametrize("error", [ValueError("mine"), torch.OutOfMemoryError("full")])
def test_one_process_raises_its_own_error(error):
    def work():
        raise error

    with pytest.raises(type(error)) as caught:
        ranks.together(work, CPU)
    assert caught.value is error


def test_squared_gradients_of_layers_without_any_are_nan():
    model = tiny.llama(layers=3)
    layers = list(model.model.layers)
    assert ranks.squared_gradients(layers, CPU).isnan().all()
    layers[1].mlp.up_proj.weight.grad = torch.full_like(layers[1].mlp.up_proj.weight, 0.5)
    norms = ranks.squared_gradients(layers, CPU)
    assert norms.isnan().tolist() == [True, False, True]
    assert float(norms[1]) == pytest.approx(0.25 * layers[1].mlp.up_proj.weight.numel())
