"""The committed tables are what the rules say of the committed traces, so that no limit moves without its tables."""

import json
import sys

import pytest
from paths import ROOT

SUITE = ROOT / "scripts" / "stability"
sys.path.insert(0, str(SUITE))

import report  # noqa: E402

from spinal_callback.alerts.rules import RULES  # noqa: E402
from spinal_callback.records import LEVELS  # noqa: E402

COUNTED = ("caught", "late", "false", "unharmed_alarms", "leads")


@pytest.fixture(scope="module")
def real():
    """The testing half of the real tier as it is judged now, and the table that is committed."""
    runs = [run for run in report.judged_runs("real") if run.job.half == "test"]
    return runs, json.loads((SUITE / "results" / "real.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rule", [report.OVERALL, *RULES])
def test_a_rule_says_of_the_committed_traces_what_its_table_says(real, rule, level):
    runs, table = real
    now = report.counted(runs, rule, level)
    assert {name: now[name] for name in COUNTED} == {name: table["rules"][level][rule][name] for name in COUNTED}
