"""Two gloo ranks under torchrun with DeepSpeed on the CPU, each scenario a real DPOTrainer run: `worker_deepspeed.py`."""

import pytest
import tiny
from launch import launch
from test_ranks import assert_same_reading, assert_twins, one_process

pytest.importorskip("deepspeed", reason="needs DeepSpeed: pip install 'spinal_callback[deepspeed]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWINS = ("zero1_untied", "zero2_tied", "zero3_untied", "zero3_tied")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All scenarios in the same two processes. The first run of DeepSpeed on a machine compiles for a minute."""
    folder = tmp_path_factory.mktemp("deepspeed")
    return folder, launch(folder, *TWINS, worker="worker_deepspeed.py", limit=400)


@pytest.mark.parametrize("scenario", TWINS)
def test_twins_and_readings(runs, scenario):
    folder, results = runs
    assert_twins(results[scenario])
    told = results[scenario][0]["watched"]
    model = tiny.llama(tie_word_embeddings=scenario.endswith("_tied"))
    alone = one_process(folder / scenario / "watched", told, model)
    for reading, expected in zip((told["readings"][0], told["readings"][-1]), alone, strict=True):
        assert_same_reading(reading, expected)
