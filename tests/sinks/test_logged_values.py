"""logged_values.py: a reading as {name: value}."""

import dataclasses
import math

from builders import reading

from spinal_callback.sinks.logged_values import scalars

HEADLINES = {"late_alpha", "late_transport", "displacement", "localization", "score", "overhead", "interval"}


def test_scalars_of_a_reading():
    whole = reading(alpha=[0.5, 0.6, 0.7, 0.8])
    row = scalars(whole)
    layers = {f"spinal/alpha/layer_{i}" for i in (1, 2, 3, 4)} | {f"spinal/transport/layer_{i}" for i in (2, 3, 4)}
    assert set(row) == {f"spinal/{name}" for name in HEADLINES} | layers
    assert row["spinal/alpha/layer_1"] == 0.5 and row["spinal/alpha/layer_4"] == 0.8
    assert row["spinal/transport/layer_2"] == whole.transport[0]  # named after the layer where the step ends
    assert row["spinal/late_alpha"] == 0.85 and row["spinal/late_transport"] == 1.35
    assert [row[f"spinal/{name}"] for name in ("displacement", "localization", "score", "overhead")] == [
        whole.displacement, whole.localization, whole.score, whole.overhead
    ]  # fmt: skip


def test_scalars_name_what_is_not_to_be_had_too():
    row = scalars(reading(score=math.nan))  # so that W&B hears of every name with the first row
    assert set(row) == set(scalars(reading(alpha=[0.1] * 4)))
    assert [name for name, value in row.items() if math.isnan(value)] == ["spinal/score", "spinal/alpha/layer_1"]


def test_records_are_left_as_they_are():
    record = reading(0)
    before = dataclasses.asdict(record)
    scalars(record)
    assert repr(dataclasses.asdict(record)) == repr(before)
