"""wandb.py: real offline runs of Weights & Biases that get made-up records, read back from their files."""

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
from builders import alert, header, notice, reading
from wandb_runs import history, inspect, metrics, run_folder, summaries

from spinal_callback.sinks import throttle
from spinal_callback.sinks.logged_values import STEP, layer_names, layer_scalars, scalars
from spinal_callback.sinks.wandb import WandbSink, _rows
from spinal_callback.traces import Trace


def run_with(folder, *records, earlier=()):
    """A run in which the Trainer logs a row of its own, and the sink gets `records`."""
    wandb = pytest.importorskip("wandb")
    page = folder.parent / "report.html"
    page.write_text("the page")
    folder.mkdir()
    with wandb.init(project="test", dir=folder, mode="offline") as run:
        run.log({"train/loss": 0.5, "train/global_step": 5})
        sink = WandbSink()
        sink.begin(folder / "trace.jsonl", page)
        if earlier:
            sink.resume(earlier)
        for record in records:
            sink.write(record)
        sink.close()
    wandb.teardown()
    return inspect(folder)


@pytest.fixture(scope="module")
def wandb_run(tmp_path_factory):
    quiet = [math.nan] * 4
    first = reading(5, layers=4, alpha=quiet, localization=math.nan, score=math.nan)  # as at step 0 of a run
    whole = [reading(step, alpha=[0.5, 0.6, 0.7, 0.8]) for step in (5, 10)]
    folder = tmp_path_factory.mktemp("wandb")
    return {
        "folder": folder,
        "whole": run_with(folder / "whole", header(), whole[0], alert(5), alert(5, rule="other"), whole[1]),
        "holed": run_with(folder / "holed", header(), first, whole[1]),
        "alert first": run_with(folder / "alert", header(), alert(0), whole[1], alert(10)),
    }


def test_wandb_rows_carry_the_step_one_for_each(wandb_run):
    rows = history(wandb_run["whole"])
    assert [row.get(STEP) for row in rows] == [None, 5, 10] and [row["_step"] for row in rows] == [0, 1, 2]
    named = [{k: v for k, v in row.items() if k.startswith("spinal") and k != STEP} for row in rows]
    assert named[0] == {} and rows[0]["train/loss"] == 0.5
    whole = reading(5, alpha=[0.5, 0.6, 0.7, 0.8])
    assert named[1] == named[2] == {"spinal/alerts": 2, **scalars(whole), **layer_scalars(whole)}


class Others:
    """Logs as `steps` say: at each of them the sink gets a reading, then the Trainer logs, then the user."""

    def __init__(self, folder, steps, trainer_every, users_every, watched):
        import wandb

        folder.mkdir()
        with wandb.init(project="test", dir=folder, mode="offline") as run:
            sink = WandbSink()
            sink.begin(folder / "trace.jsonl", folder / "none.html")
            for record in [header()] if watched else []:
                sink.write(record)
            for step in range(max(steps) + 1):
                if watched and step in steps:
                    sink.write(reading(step))
                if step and trainer_every and step % trainer_every == 0:
                    run.log({"train/loss": 1.0 / step, "train/global_step": step})
                if step and users_every and step % users_every == 0:
                    run.log({"mine": float(step)}, step=step)
            if watched:
                sink.close()
        wandb.teardown()
        self.rows = history(inspect(folder))

    def of(self, *names):
        return [[row[name] for name in names] for row in self.rows if names[0] in row]


@pytest.mark.parametrize(
    ("every", "trainer_every", "users_every"), [(1, 1, 1), (1, 1, 0), (5, 1, 1), (1, 10, 10), (5, 10, 5), (1, 0, 0)]
)
def test_nobodys_row_is_lost_or_moved(tmp_path, every, trainer_every, users_every):
    """Rows of the Trainer and of a user, who gives W&B the step, are those of a run without the sink."""
    pytest.importorskip("wandb")
    steps = range(0, 31, every)
    plain, watched = (
        Others(tmp_path / name, steps, trainer_every, users_every, watched)
        for name, watched in (("plain", False), ("watched", True))
    )
    if users_every:
        assert len(plain.of("mine")) == 30 // users_every
    assert watched.of("mine", "_step") == plain.of("mine", "_step")
    assert watched.of("train/loss", "train/global_step") == plain.of("train/loss", "train/global_step")
    ours = [step for _, step in watched.of("spinal/alerts", STEP)]
    assert ours == sorted(set(ours)) and ours[0] == 0
    # where every step is probed there may be no room for the last of them, which are in the table
    assert ours == list(steps) if every > 1 else len(ours) >= len(steps) - 2


def test_wandb_is_given_no_nan(wandb_run):
    holed = next(row for row in history(wandb_run["holed"]) if "spinal/alerts" in row)
    assert "spinal/late_alpha" in holed
    assert not {"spinal/score", "spinal/localization", "spinal_layers/alpha_01"} & set(holed)


def test_wandb_shows_the_headlines_and_hides_layers_and_errors(wandb_run):
    defined = metrics(wandb_run["whole"])
    for name in (*scalars(reading()), *layer_names(4)):
        metric, per_layer = defined[name], name.startswith("spinal_layers/")
        assert metric["step_metric"] == STEP
        assert metric["options"].get("hidden", False) == (per_layer or name.endswith("_se"))
        assert metric.get("summary", {}).get("none", False) == per_layer


@pytest.mark.parametrize("name", ["whole", "holed", "alert first"])
def test_wandb_defines_every_name_that_is_logged(wandb_run, name):
    rows = [*history(wandb_run[name]), *history(wandb_run[name], media=True)]
    logged = {k.split(".")[0] for row in rows for k in row if k.startswith("spinal")}
    assert logged >= {"spinal/score", "spinal/alerts", "spinal_layers/alpha_01"}
    assert logged == {k for k in metrics(wandb_run[name]) if k.startswith("spinal")}


def test_wandb_gets_pictures_at_the_start_and_of_the_last_state(wandb_run):
    """Between them less than half a minute passed."""
    shown = [row for row in history(wandb_run["whole"], media=True) if "spinal/heatmaps.path" in row]
    assert [row[STEP] for row in shown] == [5, 10]
    for row in shown:
        sizes = [(row[f"spinal/{name}.width"], row[f"spinal/{name}.height"]) for name in ("heatmaps", "depth_trace")]
        assert sizes == [(1000, 660), (1000, 330)]
        assert row["spinal/heatmaps.format"] == "png"


def test_wandb_gets_pictures_when_it_is_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(throttle, "IMAGE_SECONDS", 0.0)
    rows = history(run_with(tmp_path / "w", header(), *map(reading, (0, 5, 10))), media=True)
    assert [row[STEP] for row in rows if "spinal/heatmaps.path" in row] == [0, 5, 10]  # the end has nothing new


def test_wandb_gets_a_table_of_every_reading_and_layer(wandb_run):
    (row,) = (row for row in history(wandb_run["whole"], media=True) if "spinal/layers.path" in row)
    assert row[STEP] == 10
    table = json.loads((run_folder(wandb_run["folder"] / "whole") / "files" / row["spinal/layers.path"]).read_text())
    assert table["columns"] == [
        "step", "layer", "alpha", "alpha_se", "alpha_r2", "effective_rank", "transport", "transport_se"
    ]  # fmt: skip
    assert [line[:2] for line in table["data"]] == [[step, layer] for step in (5, 10) for layer in (1, 2, 3, 4)]
    assert table["data"][0] == [5, 1, 0.5, None, None, None, None, None]  # no step ends at the first layer
    assert table["data"][7] == [10, 4, 0.8, 0.01, 0.99, 12.5, reading().transport[2], 0.02]


def test_a_table_of_a_long_run_has_evenly_spaced_readings():
    trace = Trace(header(80, (54, 80)), [reading(step, 80) for step in range(1000)])
    rows = _rows(trace)
    steps = sorted({row[0] for row in rows})
    assert len(rows) == 10_000 and steps[0] == 0 and steps[-1] == 999
    assert {b - a for a, b in itertools.pairwise(steps)} == {8, 9}


def test_wandb_gets_the_report_as_an_artifact(wandb_run):
    (artifact,) = (r["artifact"] for r in wandb_run["whole"] if r.get("artifact", {}).get("type") == "spinal-report")
    (page,) = artifact["manifest"]["contents"]
    assert page["path"] == "report.html" and page["size"] == str(len("the page"))
    assert Path(page["local_path"]).read_text() == "the page"
    assert set(artifact["aliases"]) == {"latest", "step-10"}


def test_wandbs_summary_has_the_start(wandb_run):
    assert set(summaries(wandb_run["whole"], "spinal/start/late_alpha")) == {0.85}
    assert set(summaries(wandb_run["whole"], "spinal/start/late_transport")) == {1.35}


@pytest.mark.parametrize(
    ("records", "verdicts", "worst"),
    [
        ([reading(0)], ["Too early"], ["none"]),
        ([reading(0), reading(5), reading(10)], ["Too early", "Healthy"], ["none", "none"]),
        ([reading(0), reading(5), notice(5)], ["Too early", "Healthy"], ["none", "none"]),
        ([reading(0), alert(5, level="warn"), alert(6)], ["Too early", "Warned: look", "Unstable: stop"],
         ["none", "warn", "error"]),
        ([reading(0), alert(5), alert(6, level="warn")], ["Too early", "Unstable: stop", "Unstable: stop"],
         ["none", "error", "error"]),
    ],
    ids=["one reading", "healthy", "notice", "worse", "not better again"],
)  # fmt: skip
def test_wandbs_summary_has_the_verdict_at_any_time(tmp_path, records, verdicts, worst):
    """So a run that is killed has one, too."""
    run = run_with(tmp_path / "w", header(), *records)
    assert summaries(run, "spinal/verdict") == verdicts
    assert summaries(run, "spinal/worst_alert") == worst


def test_a_resumed_run_shows_and_counts_what_came_before(tmp_path):
    before = reading(0, late={"alpha": 0.5, "transport": 2.0})
    records = run_with(tmp_path / "w", header(), reading(10), earlier=[header(), before, alert(5)])
    (row,) = history(records)[1:]
    assert row["spinal/alerts"] == 1
    assert set(summaries(records, "spinal/start/late_alpha")) == {0.5}
    (row,) = (row for row in history(records, media=True) if "spinal/layers.nrows" in row)
    assert row["spinal/layers.nrows"] == 2 * 4


def test_without_pillow_there_are_no_pictures_and_that_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.warns(UserWarning, match="no images in W&B without Pillow: pip install pillow") as caught:
        rows = history(run_with(tmp_path / "w", header(), reading(0), reading(5)), media=True)
    assert len([w for w in caught if "Pillow" in str(w.message)]) == 1
    assert [{k.split(".")[0] for k in row if k.endswith("path")} for row in rows] == [{"spinal/layers"}]


def test_wandb_sends_alerts_of_its_own_and_holds_back_what_repeats(tmp_path):
    told = (alert(5), alert(6), alert(6, rule="other"), alert(7, level="warn"), alert(8))
    sent = [r["alert"] for r in run_with(tmp_path / "w", header(), *told) if r["type"] == "alert"]
    assert [(a["title"], a["level"]) for a in sent] == [
        ("spinal: nonfinite", "ERROR"),
        ("spinal: other", "ERROR"),
        ("spinal: nonfinite", "WARN"),
    ]
    assert sent[0]["text"] == "7 are NaN. Try: stop."


def test_wandb_is_told_again_after_the_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(throttle, "ALERT_SECONDS", 0.0)
    sent = [r for r in run_with(tmp_path / "w", header(), alert(5), alert(6)) if r["type"] == "alert"]
    assert len(sent) == 2


def test_a_healthy_run_sends_wandb_no_alert(wandb_run):
    assert [r for r in wandb_run["holed"] if r["type"] == "alert"] == []


def test_wandb_is_told_the_settings_once(wandb_run):
    updates = [r["run"]["config"]["update"] for r in wandb_run["whole"] if "config" in r.get("run", {})]
    updates += [r["config"]["update"] for r in wandb_run["whole"] if r["type"] == "config"]
    (told,) = [u["spinal"] for u in updates if "spinal" in u]
    assert told["probe"] == header().probe and told["num_prompts"] == 64
    assert told["layers"] == 4 and told["late_window"] == [3, 4]
    assert told["window"] == 1 / 3  # as it was asked for


def test_no_run_nothing_happens(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    sink = WandbSink()
    for record in (header(), reading(0), alert(0)):
        sink.write(record)
    sink.close()
    assert wandb.run is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_disabled_run_and_one_that_was_finished_hurt_nothing(tmp_path, monkeypatch, mode):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").write_text("the page")
    sink = WandbSink()
    sink.begin(tmp_path / "trace.jsonl", tmp_path / "report.html")
    with wandb.init(project="test", dir=tmp_path, mode=mode):
        for record in (header(), reading(0), alert(0)):
            sink.write(record)
        if mode == "disabled":
            sink.close()
    for record in (reading(5), alert(5)):
        sink.write(record)
    sink.close()
    wandb.teardown()
    assert (mode == "disabled") == (not list(tmp_path.glob("wandb/*")))
    if mode == "offline":
        assert {row[STEP] for row in history(inspect(tmp_path)) if STEP in row} == {0}


def test_a_notice_is_neither_a_row_nor_an_alert(tmp_path):
    records = run_with(tmp_path / "w", header(), reading(0), notice(0), reading(5))
    assert [row["spinal/alerts"] for row in history(records)[1:]] == [0, 0]
    assert [r for r in records if r["type"] == "alert"] == []


@pytest.mark.parametrize(
    ("layer_logging", "scalars_too", "table_too"),
    [("scalars", True, True), ("table", False, True), ("off", False, False)],
)
def test_layer_logging_says_how_much_is_logged_per_layer(tmp_path, layer_logging, scalars_too, table_too):
    settings = {**header().config, "layer_logging": layer_logging}
    records = run_with(tmp_path / "w", header(config=settings), reading(0), reading(5))
    rows, media = history(records), history(records, media=True)
    assert scalars_too == any(name.startswith("spinal_layers/") for row in rows for name in row)
    assert scalars_too == any(name.startswith("spinal_layers/") for name in metrics(records))
    assert table_too == any("spinal/layers.path" in row for row in media)
    assert [row["spinal/late_alpha"] for row in rows[1:]] == [0.85, 0.85]
    assert any("spinal/heatmaps.path" in row for row in media)


def test_a_trace_of_before_layer_logging_is_logged_by_scalars(tmp_path):
    """A run resumed by this version may have a header without the setting."""
    old = {name: value for name, value in header().config.items() if name != "layer_logging"}
    rows = history(run_with(tmp_path / "w", header(config=old), reading(0)))
    assert any(name.startswith("spinal_layers/") for name in rows[-1])
