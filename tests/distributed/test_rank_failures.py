"""What fails on one rank of two: the runs of `worker_failures.py`. Nobody waits, and all ranks act alike."""

import pytest
from launch import launch
from rank_checks import assert_same_reading, steps

from spinal_callback import load_trace
from spinal_callback.probe import sampler

SCENARIOS = ("tokenizing", "hook", "in_measures", "in_gradients", "in_pooling", "memory_in_forward")
SCENARIOS += ("at_entry", "at_exit", "before_a_pass", "one_rank")
SCENARIOS += ("memory_in_lens", "memory_for_good", "nan", "stop", "sink")
SCENARIOS += ("fast_log_on_zero", "fast_log_on_one")
SCENARIOS += ("other_prompts", "other_config", "sigterm")  # the last one ends the processes


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing")
    return folder, launch(folder, *SCENARIOS, worker="worker_failures.py", killed_by_last=True)


def test_failing_to_tokenize_on_one_rank_raises_on_all(failing):
    first, second = failing[1]["tokenizing"]
    assert first["raised"] == """RuntimeError("rank 1: OSError('no tokenizer here')")"""
    assert second["raised"] == "OSError('no tokenizer here')" and first["step"] == second["step"] == 0


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("hook", "no hidden states from layers [3]"),
        ("in_measures", "ArithmeticError in worker_failures.py, line "),
        ("in_pooling", "ArithmeticError in worker_failures.py, line "),
        ("at_entry", "ArithmeticError in worker_failures.py, line "),
        ("at_exit", "ArithmeticError in worker_failures.py, line "),
        ("before_a_pass", "ArithmeticError in worker_failures.py, line "),
    ],
)
def test_a_probe_that_fails_on_one_rank_is_left_out_on_all(failing, scenario, words):
    folder, results = failing
    for rank in results[scenario]:
        assert rank["step"] == 4 and steps(rank["readings"]) == [0, 4]
        assert rank["weights"] == results["hook"][0]["weights"], "the same training, whatever failed"
    (notice,) = load_trace(folder / scenario).notices
    assert (
        (notice.step, notice.event) == (2, "probe_failed") and "rank 1: " in notice.message and words in notice.message
    )


def test_gradients_that_fail_on_one_rank_are_left_out_on_all(failing):
    folder, results = failing
    for rank in results["in_gradients"]:
        assert steps(rank["readings"]) == [0, 2, 4]
        assert [r["gradient_concentration"] is None for r in rank["readings"]] == [True, True, False]
    (notice,) = load_trace(folder / "in_gradients").notices
    assert "no gradient concentration" in notice.message and "rank 1: ArithmeticError in worker" in notice.message


def test_out_of_memory_in_a_forward_pass_halves_the_batch_on_all_ranks(failing):
    folder, results = failing
    for rank in results["memory_in_forward"]:
        assert rank["batch"] == 2048 and steps(rank["readings"]) == [0, 2, 4]
    (notice,) = load_trace(folder / "memory_in_forward").notices
    assert (notice.step, notice.event) == (2, "probe_memory") and "2048 tokens at a time, not 4096" in notice.message


def test_out_of_memory_in_the_lens_halves_its_pieces_on_all_ranks(failing):
    folder, results = failing
    for rank in results["memory_in_lens"]:
        assert rank["block"] == sampler.LOGITS_BLOCK // 2 and steps(rank["readings"]) == [0, 2, 4]
        for told, calm in zip(rank["readings"], results["memory_in_forward"][0]["readings"], strict=True):
            assert_same_reading(told, calm)
    (notice,) = load_trace(folder / "memory_in_lens").notices
    assert (notice.step, notice.event) == (
        2,
        "probe_memory",
    ) and "1048576 logits at a time, not 2097152" in notice.message


def test_a_lens_without_enough_memory_is_left_out_on_all_ranks(failing):
    folder, results = failing
    for rank in results["memory_for_good"]:
        assert rank["step"] == 4 and steps(rank["readings"]) == [0]
        assert rank["weights"] == results["hook"][0]["weights"]
    notices = load_trace(folder / "memory_for_good").notices
    assert [(n.step, n.event) for n in notices] == [(2, "probe_failed"), (4, "probe_failed")]
    assert "rank 1: OutOfMemoryError in worker" in notices[0].message


def test_nan_on_one_rank_is_in_everyones_reading(failing):
    folder, results = failing
    for rank in results["nan"]:
        assert rank["step"] == 4 and [r["nonfinite"] for r in rank["readings"]] == [0, 32, 0]
        assert [i for i, alpha in enumerate(rank["readings"][1]["alpha"], 1) if alpha is None] == [5]
    assert [a.rule for a in load_trace(folder / "nan").alerts if a.step == 2] == ["nonfinite"]


def test_stop_on_stops_every_rank_at_the_same_step(failing):
    for rank in failing[1]["stop"]:
        assert rank["step"] == 2 and [a[:2] for a in rank["alerts"]] == [[2, "nonfinite"]]


def test_a_sink_that_throws_on_rank_zero(failing):
    folder, results = failing
    for rank, left in zip(results["sink"], (2, 0), strict=True):
        assert rank["step"] == 4 and steps(rank["readings"]) == [0, 2, 4] and rank["sinks"] == left
    (notice,) = load_trace(folder / "sink").notices
    assert (notice.step, notice.event) == (0, "sink_failed") and "OSError('tracker is down')" in notice.message


@pytest.mark.parametrize(("scenario", "probed"), [("fast_log_on_zero", [0, 4, 8]), ("fast_log_on_one", [0, 8])])
def test_a_log_that_asks_for_a_probe_is_rank_zeros(failing, scenario, probed):
    for rank in failing[1][scenario]:
        assert steps(rank["readings"]) == probed


def test_a_callback_on_the_main_process_alone_says_so_and_hangs_nobody(failing):
    main, other = failing[1]["one_rank"]
    assert main["said"] == (
        "only 1 of 2 ranks began training with SpinalCallback within 1 s:"
        " give SpinalCallback to the trainer on every rank, not on the main process alone"
    )
    assert main["step"] == other["step"] == 4 and main["weights"] == failing[1]["hook"][0]["weights"]


@pytest.mark.parametrize("what", ["prompts", "config"])
def test_ranks_that_disagree_are_refused(failing, what):
    for rank in failing[1][f"other_{what}"]:
        assert rank["step"] == 0 and rank["raised"].startswith(f"{what} must be the same on every rank")


def test_sigterm_to_one_rank_ends_all_and_leaves_a_whole_trace(failing):
    folder, results = failing
    assert results["sigterm"] == [None, None]
    assert (folder / "sigterm" / "_spinal" / "trace.jsonl").read_text().endswith("\n")
    assert [r.step for r in load_trace(folder / "sigterm").readings][:3] == [0, 1, 2]
