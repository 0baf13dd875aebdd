"""logged_values.py: a reading as {name: value}, held against the reading's own fields."""

import dataclasses
import math

import pytest
from builders import alert, reading

from spinal_callback import Reading
from spinal_callback.report.labels import NUMBERS
from spinal_callback.sinks.logged_values import LOGGED, alert_text, headlines, layer_names, layer_scalars, scalars
from spinal_callback.traces import numbers

NAN = math.nan
# A number of its own for each name, so that no two can be taken for one another.
VALUES = {
    "spinal/late_alpha": 0.85,
    "spinal/late_transport": 1.35,
    "spinal/delta_alpha": 0.001,
    "spinal/delta_alpha_se": 0.004,
    "spinal/delta_transport": -0.002,
    "spinal/delta_transport_se": 0.003,
    "spinal/score": 1.253,
    "spinal/delta_align": 0.0031,
    "spinal/coherence": 0.75,
    "spinal/gradient_concentration": 0.5,
    "spinal/displacement": 0.125,
    "spinal/chosen_nll": 1.2,
    "spinal/margin": 0.8,
    "spinal/accuracy": 0.875,
    "spinal/localization": 0.4,
    "spinal/overhead": 0.01,
    "spinal/interval": 25.0,
}
WHOLE = reading(5, delta_align=0.0031, interval=25, entropy=7.7, seconds=8.8, alpha=[0.5, 0.6, 0.7, 0.8])


def test_scalars_of_a_reading():
    assert scalars(WHOLE) == VALUES
    assert len(set(VALUES.values())) == len(VALUES)


def test_what_has_no_value_is_nan():
    row = scalars(reading(score=NAN, delta={"alpha": NAN, "alpha_se": NAN, "transport": 0.1, "transport_se": NAN}))
    assert set(row) == set(VALUES)
    missing = {name for name, value in row.items() if math.isnan(value)}
    assert missing == {"spinal/score", "spinal/delta_alpha", "spinal/delta_alpha_se", "spinal/delta_transport_se"}


def test_scalars_of_the_layers():
    transport = WHOLE.transport  # named after the layer at which the step ends
    assert layer_scalars(WHOLE) == {
        "spinal_layers/alpha_01": 0.5,
        "spinal_layers/alpha_02": 0.6,
        "spinal_layers/alpha_03": 0.7,
        "spinal_layers/alpha_04": 0.8,
        "spinal_layers/transport_02": transport[0],
        "spinal_layers/transport_03": transport[1],
        "spinal_layers/transport_04": transport[2],
    }
    holed = layer_scalars(reading(alpha=[NAN, 0.6, 0.7, 0.8]))
    assert [name for name, value in holed.items() if math.isnan(value)] == ["spinal_layers/alpha_01"]


@pytest.mark.parametrize(("layers", "first", "last"), [(9, "01", "09"), (80, "01", "80"), (126, "001", "126")])
def test_layer_names_sort_by_layer(layers, first, last):
    names = layer_names(layers)
    assert len(names) == 2 * layers - 1 and names == sorted(names)
    assert (names[0], names[layers - 1]) == (f"spinal_layers/alpha_{first}", f"spinal_layers/alpha_{last}")
    assert names[-1] == f"spinal_layers/transport_{last}"


def test_headlines_are_the_numbers_and_the_count_of_alerts_without_nan():
    assert headlines(WHOLE, 3) == {**VALUES, "spinal/alerts": 3.0}
    row = headlines(reading(score=NAN, localization=math.inf), 0)
    assert set(VALUES) - set(row) == {"spinal/score", "spinal/localization"} and row["spinal/alerts"] == 0.0
    assert headlines(alert(5), 2) == {"spinal/alerts": 2.0}


def test_every_number_of_the_table_is_a_column_of_a_reading():
    """A measure that is added has a field and a row; a row without a field, or misspelled, fails here."""
    assert set(NUMBERS) <= set(numbers(WHOLE))
    assert {name: name.removeprefix("spinal/") for name in VALUES} == LOGGED


def test_every_measure_that_is_one_number_has_a_row():
    about_the_probe = {"step", "nonfinite", "prompts", "peak_bytes"}
    single = {f.name for f in dataclasses.fields(Reading) if f.type in ("float", "int")}
    assert single - about_the_probe == {name for name in NUMBERS if hasattr(WHOLE, name)}


def test_an_alerts_text():
    assert alert_text(alert(5)) == "7 are NaN. Try: stop."


def test_a_reading_is_left_as_it_is():
    """Its lists and dictionaries are shared by all sinks."""
    record = reading(0, trainer={"loss": 0.5})
    before = repr(dataclasses.asdict(record))
    for row in (scalars(record), layer_scalars(record), headlines(record, 1), numbers(record)):
        for name in list(row):
            row[name] = -1.0
    assert repr(dataclasses.asdict(record)) == before
