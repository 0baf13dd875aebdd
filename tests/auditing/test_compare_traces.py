"""Changes between two traces, with the errors that traces hold."""

import math

import pytest
from builders import header, reading

from spinal_callback.auditing.compare_traces import unpaired

NAN = math.nan


def test_two_traces_by_the_errors_they_have():
    one = reading(10, alpha_se=[NAN, 0.03, 0.03, 0.03])
    far = reading(
        10, alpha=[NAN, 0.9, 0.8, 0.9], alpha_se=[NAN, 0.04, 0.04, 0.04], late={"alpha": 0.85, "transport": 1.45}
    )
    found = unpaired(header(), (reading(0), reading(0)), (one, far))
    assert found.alpha[1].se == pytest.approx(0.05) and found.alpha[1].change == pytest.approx(0.2)
    assert found.layers == [2] and found.first.layer == 2 and found.first.low == 0 and not found.paired
    assert found.late["transport"].se == pytest.approx(math.hypot(0.003, 0.003)) and found.late["transport"].significant
    assert math.isnan(found.alpha[0].p) and "first 2, last 2 (Holm" in found.where()


def test_late_means_of_other_starts_have_no_error():
    found = unpaired(header(), (reading(0), reading(0, alpha=[NAN, 1, 1, 1])), (reading(10), reading(10)))
    assert math.isnan(found.late["alpha"].se) and not found.late["alpha"].significant
