"""An audit under torchrun: two ranks share the prompts and find the same as one."""

import pytest
import saved
import worker_audit
from launch import launch


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved.models(tmp_path_factory.mktemp("models"))


@pytest.mark.slow
def test_two_ranks_share_the_prompts_and_find_the_same(place, tmp_path):
    (zero, one) = launch(tmp_path, "audits", worker="worker_audit.py", extra={"PLACE": str(place)}, limit=280)["audits"]
    assert zero["found"] == one["found"]
    alone = saved.read(place, "new", "base").to_json()
    for told, here in zip(zero["found"]["readings"], alone["readings"], strict=True):
        assert told["alpha"] == pytest.approx(here["alpha"], rel=1e-6)
        assert told["transport"] == pytest.approx(here["transport"], abs=1e-5)
        assert told["displacement"] == pytest.approx(here["displacement"], abs=1e-5)
    assert zero["paired"] == one["paired"]
    whole = saved.read(place, "new", "base", **worker_audit.WITH_PAIRS).to_json()
    for told, here in zip(zero["paired"]["readings"], whole["readings"], strict=True):
        assert told["transport"] == pytest.approx(here["transport"], abs=1e-5)
        assert told["gradient_concentration"] == pytest.approx(here["gradient_concentration"], rel=1e-4)
    assert zero["found"]["changes"][0]["layers"] == alone["changes"][0]["layers"]
    assert 0 < zero["rows"] < 80 and zero["rows"] + one["rows"] == 80  # two readings of 40 prompts, shared out
    assert zero["printed"] and not one["printed"] and zero["codes"] == one["codes"] == [1, 2]
    assert zero["error"].count("spinal audit: there is no") == 1 and one["error"] == ""
