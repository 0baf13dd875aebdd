"""The stability suite's own words: what harm is, who is in which half, what the baselines and the report count."""

import dataclasses
import json
import math
import random
import sys
from collections import Counter

import pytest
from builders import reading
from paths import ROOT

from spinal_callback.records import Alert, Header
from spinal_callback.traces import Trace, load_trace

SUITE = ROOT / "scripts" / "stability"
sys.path.insert(0, str(SUITE))

import arms  # noqa: E402
import baselines  # noqa: E402
import draw  # noqa: E402
import harm  # noqa: E402
import heldout  # noqa: E402
import intervals  # noqa: E402
import pairs  # noqa: E402
import report  # noqa: E402
import suite  # noqa: E402

NAN = math.nan
ARM = {arm.name: arm for arm in arms.ARMS}


# --- harm


def measures(**columns):
    """Seven evaluations of a run in which nothing happens, but for the columns given."""
    still = {"step": list(range(0, 35, 5)), "neutral": [3.0] * 7, "chosen": [2.5] * 7}
    return {**still, "accuracy": [0.5] + [0.8] * 6, "repetition": [0.1] * 7, **columns}


def late(start, risen, at=3):
    """A column that stays at `start` and is at `start + risen` from the evaluation `at` on."""
    return [start] * at + [start + risen] * (7 - at)


@pytest.mark.parametrize(
    ("name", "start", "harm_", "fine"),
    [("neutral", 3.0, 0.11, 0.09), ("chosen", 2.5, 0.31, 0.29), ("repetition", 0.1, 0.21, 0.19)],
)
def test_harm_is_a_rise_beyond_its_limit(name, start, harm_, fine):
    assert harm.harm_step(measures(**{name: late(start, harm_)})) == 15
    assert harm.harm_step(measures(**{name: late(start, fine)})) is None
    assert harm.harm_step(measures(**{name: late(start, -harm_)})) is None


def test_accuracy_is_held_against_the_best_so_far():
    assert harm.harm_step(measures(accuracy=[0.5, 0.6, 0.9, 0.8, 0.69, 0.69, 0.69])) == 20
    assert harm.harm_step(measures(accuracy=[0.5, 0.6, 0.9, 0.8, 0.71, 0.71, 0.71])) is None
    assert harm.harm_step(measures(accuracy=[0.5, 0.29, 0.29, 0.6, 0.7, 0.8, 0.9])) == 5  # below the start's half
    assert harm.harm_step(measures(accuracy=[0.5, 0.4, 0.4, 0.6, 0.7, 0.8, 0.9])) is None


def test_a_blip_is_no_harm_but_the_last_evaluation_counts():
    assert harm.harm_step(measures(neutral=[3.0, 3.0, 3.2, 3.0, 3.0, 3.0, 3.0])) is None
    assert harm.harm_step(measures(neutral=[3.0, 3.0, 3.2, 3.0, 3.2, 3.2, 3.0])) == 20
    assert harm.harm_step(measures(neutral=late(3.0, 0.2, at=6))) == 30
    # one sign of harm may follow another
    both = measures(neutral=[3.0, 3.0, 3.2, 3.0, 3.0, 3.0, 3.0], chosen=[2.5, 2.5, 2.5, 2.9, 2.5, 2.5, 2.5])
    assert harm.harm_step(both) == 10


@pytest.mark.parametrize("name", ["neutral", "chosen", "accuracy", "repetition"])
def test_what_is_not_a_number_is_harm(name):
    column = measures()[name]
    assert harm.harm_step(measures(**{name: column[:4] + [NAN] * 3})) == 20
    assert harm.harm_step(measures(**{name: column[:4] + [math.inf] * 3 if name != "accuracy" else [NAN] * 7})) in (
        20,
        0,
    )
    assert harm.harm_step(measures()) is None


def test_repetition_is_the_share_of_grams_seen_before():
    assert heldout.repeated([1, 2, 3, 4, 5, 6]) == 0
    assert heldout.repeated([7] * 6) == 0.75  # four 3-grams, one of them new
    assert heldout.repeated([1, 2, 3, 1, 2, 3]) == 0.25
    assert heldout.repeated([1, 2]) == 0


# --- arms and halves


def test_the_table_of_arms_is_complete():
    assert len(ARM) == len(arms.ARMS)
    kinds = {"healthy", "x10", "x60", "beta", "flip", "corrupt", "spike", "noise", "nowarmup", "alike"}
    assert {arm.kind for arm in arms.ARMS} == kinds
    assert {arm.lora for arm in arms.ARMS if arm.healthy} == {True, False}
    assert len({arm.rate for arm in arms.ARMS if arm.healthy}) >= 3
    for arm in arms.ARMS:
        plain = dataclasses.replace(arm, name="", kind="", lora=False, rate=1.0, hh=False, beta=0.1, small=0, real=0)
        harmless = plain == arms.Arm("", "") and arm.rate <= 2 and arm.beta >= 0.1
        assert arm.healthy == harmless, arm.name


@pytest.mark.parametrize(("tier", "healthy", "destabilized"), [("small", 60, 100), ("real", 12, 24)])
def test_a_tier_has_as_many_runs_as_it_must(tier, healthy, destabilized):
    jobs = arms.jobs(tier, hh=False)
    assert sum(job.arm.healthy for job in jobs) >= healthy
    assert sum(not job.arm.healthy for job in jobs) >= destabilized
    assert len({job.name for job in jobs}) == len(jobs)
    assert len(arms.jobs("small")) >= 200
    assert {job.arm.hh for job in jobs} == {False} and any(job.arm.hh for job in arms.jobs("real"))


@pytest.mark.parametrize("tier", list(arms.TIERS))
def test_both_halves_have_healthy_and_destabilized_runs(tier):
    halves = Counter((job.half, job.arm.healthy) for job in arms.jobs(tier, hh=False))
    assert set(halves) == {(half, healthy) for half in ("fit", "test") for healthy in (True, False)}
    assert min(halves.values()) >= 4


@pytest.mark.parametrize("tier", list(arms.TIERS))
def test_every_beginning_is_balanced(tier):
    jobs = arms.jobs(tier)
    share = sum(job.arm.healthy for job in jobs) / len(jobs)
    for count in range(4, len(jobs)):
        assert abs(sum(job.arm.healthy for job in jobs[:count]) - share * count) < 1.5


def test_the_split_is_by_seed_and_by_destabilizer():
    for arm in arms.ARMS:
        expected = ["test"] * 4 if arm.kind in arms.UNSEEN else ["test", "fit"] * 2
        assert [arms.half(arm, seed) for seed in range(4)] == expected
    assert {"spike", "noise", "alike"} == arms.UNSEEN and not any(ARM[a].healthy for a in ("spike-full", "noise-full"))


def test_what_is_done_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "TRACES", tmp_path)
    (tmp_path / "small").mkdir()
    whole = [job.name for job in suite.missing("small", "*", hh=False)]
    (tmp_path / "small" / f"{whole[3]}.truth.json").write_text("{}")
    (tmp_path / "small" / f"{whole[5]}.jsonl.gz").write_text("")  # a trace without its truth: killed in between
    assert [job.name for job in suite.missing("small", "*", hh=False)] == whole[:3] + whole[4:]
    assert {job.arm.kind for job in suite.missing("small", "x60-*", hh=False)} == {"x60"}


# --- what runs read


def rows(count=60):
    return [pairs._row(f"question {i}", f"good answer {i} of many words", f"bad answer {i}") for i in range(count)]


def words(row, key):
    return row[key][0]["content"]


@pytest.mark.parametrize("name", ["flip-full", "corrupt-full"])
def test_rows_change_from_the_onset_on_and_not_before(name):
    tier = arms.TIERS["small"]
    first = tier.onset * tier.batch
    plain = pairs.script(rows(), ARM["healthy-full-r1"], tier, seed=1)
    told = pairs.script(rows(), ARM[name], tier, seed=1)
    assert len(plain) == tier.steps * tier.batch
    assert told[:first] == plain[:first]
    assert all(words(a, "chosen") != words(b, "chosen") for a, b in zip(told[first:], plain[first:], strict=True))
    if name == "flip-full":
        assert [words(r, "chosen") for r in told[first:]] == [words(r, "rejected") for r in plain[first:]]
    else:
        same = zip(told[first:], plain[first:], strict=True)
        assert all(sorted(words(a, "chosen")) == sorted(words(b, "chosen")) for a, b in same)


def test_alike_pairs_differ_by_one_word_at_most():
    told = pairs.script(rows(), ARM["alike-full"], arms.TIERS["small"], seed=0)
    apart = [
        sum(a != b for a, b in zip(words(r, "chosen").split(), words(r, "rejected").split(), strict=True)) for r in told
    ]
    assert max(apart) == 1 and sum(apart) > 0.6 * len(apart)


def test_the_held_out_pairs_are_not_trained_on():
    training, held = pairs.own()
    assert len(held) == pairs.HELD_OUT
    assert not {words(r, "prompt") for r in training} & {words(r, "prompt") for r in held}
    assert pairs.own() == (training, held)


def test_the_neutral_texts_are_there():
    texts = pairs.neutral()
    assert len(set(texts)) == 32 and all(25 <= len(text.split()) <= 70 for text in texts)


# --- baselines


def log(steps=40, **columns):
    draw_ = random.Random(3)
    quiet = {name: [1 + 0.02 * draw_.gauss(0, 1) for _ in range(steps)] for name in ("loss", "grad_norm", "entropy")}
    rewards = {f"rewards/{name}": [0.01] * steps for name in ("chosen", "rejected", "margins")}
    rewards["logps/chosen"] = [-50.0] * steps
    return {"step": list(range(1, steps + 1)), **quiet, **rewards, **columns}


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_z_score_rule_fires_at_the_jump(name):
    jumped = log()
    assert baselines.alarm(jumped, baselines.BASELINES[name](jumped, 0.1), 6) is None
    jumped[name] = [*jumped[name][:20], 1.5, *jumped[name][21:]]
    assert baselines.alarm(jumped, baselines.BASELINES[name](jumped, 0.1), 6) == 21


@pytest.mark.parametrize(("name", "column"), [("kl", "chosen"), ("margin", "margins"), ("chosen", "chosen")])
def test_a_kl_like_rule_counts_nats(name, column):
    far = log(**{f"rewards/{column}": [0.01] * 29 + [-2.0] * 11})
    nats = {"kl": (2.0 + 0.01) / 2 / 0.1, "margin": 20.0, "chosen": 20.0}[name]
    scores = baselines.BASELINES[name](far, 0.1)
    assert scores[29] == pytest.approx(nats)
    assert baselines.alarm(far, scores, nats * 0.99) == 30
    assert baselines.alarm(far, scores, nats * 1.01) is None


def test_a_missing_number_is_the_greatest_score():
    assert baselines.z_scores([1.0] * 6 + [None, 1.0])[6:] == [math.inf, 0.0]
    assert baselines.z_scores([1.0, 9.0, 1.0])[1] == 0  # too early to tell


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 9.0), (0.1, 8.0), (0.25, 7.0), (1.0, 0.0)])
def test_a_threshold_leaves_the_rate_above_it(rate, expected):
    peaks = [float(i) for i in range(10)]
    assert baselines.threshold_at(peaks, rate) == expected
    assert sum(peak > expected for peak in peaks) <= rate * 10


def test_rlwatch_fires_and_its_twin_is_silent():
    pytest.importorskip("rlwatch")
    quiet, loud = log(), log()
    loud["grad_norm"] = [*loud["grad_norm"][:30], 5.0, *loud["grad_norm"][31:]]
    assert baselines.rlwatch_alarms(loud, 0.1, short=False)["critical"] == 31
    assert "critical" not in baselines.rlwatch_alarms(quiet, 0.1, short=False)


def test_rlwatch_that_is_missing_is_said_plainly(monkeypatch):
    monkeypatch.setattr(baselines, "rlwatch_there", lambda: False)
    with pytest.raises(ImportError, match="pip install rlwatch"):
        baselines.rlwatch_alarms(log(), 0.1, short=False)


# --- statistics


def test_wilson_is_the_known_interval():
    assert intervals.wilson(0, 10)[1:] == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert intervals.wilson(9, 10) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-4)
    assert intervals.wilson(1, 20, 10)[0] == 0.5
    assert all(math.isnan(x) for x in intervals.wilson(0, 0))


def test_auroc_counts_pairs():
    assert intervals.auroc([3, 4], [1, 2]) == 1
    assert intervals.auroc([1, 2], [3, 4]) == 0
    assert intervals.auroc([1, 3], [1, 2]) == (0.5 + 0 + 1 + 1) / 4
    assert math.isnan(intervals.auroc([], [1]))


def test_the_bootstrap_holds_its_value():
    value, low, high = intervals.bootstrap([list(range(101))], intervals.median)
    assert value == 50 and 35 < low < 50 < high < 65
    assert intervals.bootstrap([[7.0] * 5], intervals.median) == (7, 7, 7)
    assert math.isnan(intervals.bootstrap([[]], intervals.median)[0])


# --- the report


def made(name, seed, harm_, **alarms):
    """A run; alarms: rule -> (warn step, error step), scores as many as there are levels."""
    said = {
        rule: {lvl: s for lvl, s in zip(("warn", "error"), steps, strict=False) if s} for rule, steps in alarms.items()
    }
    scores = {rule: float(len(steps)) for rule, steps in said.items()}
    everything = {
        lvl: min(s[lvl] for s in said.values() if lvl in s)
        for lvl in ("warn", "error")
        if any(lvl in s for s in said.values())
    }
    job = arms.Job("small", ARM[name], seed)
    return report.Run(job, harm_, None, log(), said | {report.OVERALL: everything}, scores)


RUNS = [
    made("x10-full", 0, 30, late_speed=(15, 20)),  # caught by 15
    made("x10-lora", 0, 30, late_speed=(30,)),  # at the very step of harm: caught
    made("x60-full", 0, 10, late_speed=(20,)),  # after harm
    made("beta-full", 0, 40),  # never
    made("flip-full", 0, None, late_speed=(20,)),  # destabilized without harm: no verdict is false
    made("healthy-full-r1", 0, None),
    made("healthy-full-r1", 2, None, late_speed=(25,)),
    made("healthy-lora-r1", 0, None),
    made("healthy-lora-r1", 2, 45),  # a healthy arm that was harmed counts as harmed
]


def test_a_row_counted_by_hand():
    row = report.row(RUNS, report.OVERALL, "warn")
    assert (row["harmed"], row["healthy"], row["unharmed"], row["unharmed_alarms"]) == (5, 3, 1, 1)
    assert (row["caught"], row["late"], row["false"]) == (2, 1, 1)
    assert row["recall"][0] == pytest.approx(2 / 5)
    assert row["precision"][0] == pytest.approx(2 / 4)  # four alarms: three of harmed runs, one false
    assert row["false_per_10"][0] == pytest.approx(10 / 3)
    assert row["leads"] == [-10, 0, 15] and row["lead"][0] == 0
    stops = report.row(RUNS, report.OVERALL, "error")
    assert (stops["caught"], stops["false"], stops["leads"]) == (1, 0, [10])


def test_a_rule_that_is_silent_is_counted_so():
    row = report.row(RUNS, "reversal", "warn")
    assert (row["caught"], row["false"], row["auroc"]) == (0, 0, None)
    assert math.isnan(row["precision"][0]) and math.isnan(row["lead"][0])


def alert(step, rule, level):
    return Alert(step, rule, level, [], 1.0, 1.0, "", "")


def test_an_error_is_a_warning_too():
    found = report.first_alarms([alert(20, "a", "error"), alert(10, "b", "warn"), alert(30, "a", "warn")])
    assert found["a"] == {"warn": 20, "error": 20}
    assert found["b"] == {"warn": 10}
    assert found[report.OVERALL] == {"warn": 10, "error": 20}
    assert report.first_alarms([]) == {}


def test_thinning_keeps_the_start_and_the_end():
    header = Header("0", "m", 4, (3, 4), "", 8, {})
    trace = Trace(header, [reading(step) for step in (0, 5, 10, 15, 20, 25)])
    assert [r.step for r in report.thinned(trace, 10).readings] == [0, 10, 20, 25]
    assert [r.step for r in report.thinned(trace, 5).readings] == [0, 5, 10, 15, 20, 25]


def test_baselines_are_fitted_to_the_rules_rate_on_the_fitting_half():
    quiet = [
        made("healthy-full-r1", seed, None, **({"late_speed": (5,)} if seed == 1 else {})) for seed in (1, 3, 5, 7)
    ]
    for i, run in enumerate(quiet):
        quiet[i] = dataclasses.replace(run, log=log(**{"rewards/margins": [0.1 * (i + 1)] * 40}))
    loud = dataclasses.replace(made("x60-full", 0, 20), log=log(**{"rewards/margins": [0.1] * 9 + [9.0] * 31}))
    found, limits = report.with_baselines([*quiet, loud])
    assert limits["margin"] == pytest.approx(3.0)  # one of four healthy runs is above it, as with the rules
    assert found[-1].alarms["margin"] == {"warn": 10}
    assert [bool(run.alarms["margin"]) for run in found[:4]] == [False, False, False, True]


def test_files_and_words_of_a_report(tmp_path, monkeypatch):
    numbers = {
        "tier": "small",
        "counts": {"fit": {"healthy": 1}, "test": {"healthy": 3}},
        "rules": {level: {report.OVERALL: report.row(RUNS, report.OVERALL, level)} for level in ("warn", "error")},
        "baselines": {"loss": report.row(RUNS, "loss", "warn")},
        "kinds": {},
        "thinned": {10: {"warn": {"runs": 3, "verdict": ["x"], "caught": [], "median_delay": 5.0}}},
        "missed": ["beta-full-s0: harm at 40, first warning at none"],
        "false": [],
    }
    text, figure = draw.drawn(numbers)
    assert "| all rules | 1/3: 3.3 (0.6 to 7.9) | 2/5 | 1 |" in text
    assert "| 10 | warn | 1/3 | 0/3 | 5 |" in text
    assert figure.count("<circle") == 3 and figure.startswith("<svg") and "NaN" not in figure + text
    assert json.loads(json.dumps(report.finite(numbers)))["baselines"]["loss"]["precision"] == [None] * 3


# --- traces


def test_a_trace_is_written_as_it_is_read(tmp_path, monkeypatch):
    import run

    monkeypatch.setattr(run, "TRACES", tmp_path)
    job = arms.Job("small", ARM["x10-full"], 0)
    header = Header("0", "/somebody/model", 4, (3, 4), "", 8, {})
    records = run._kept([header, reading(0, entropy=1 / 3), reading(5), alert(5, "a", "warn")], "small", steps=5)
    run.write(job, run.Told(records, {"heldout": {"neutral": [1 / 3, NAN]}}))
    trace = load_trace(tmp_path / "small" / "x10-full-s0.jsonl.gz")
    assert trace.header.model == "small" and trace.alerts == []
    assert [r.step for r in trace.readings] == [0, 5] and trace.readings[0].entropy == 0.333333
    told = json.loads((tmp_path / "small" / "x10-full-s0.truth.json").read_text())
    assert told == {"heldout": {"neutral": [0.33333, None]}}


def test_a_missing_reading_is_no_run():
    import run

    with pytest.raises(RuntimeError, match=r"no reading at the steps \[5\]"):
        run._kept([reading(0), reading(10)], "small", steps=10)
