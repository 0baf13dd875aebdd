"""trackio.py: real trackio runs that get made-up records, read back from trackio's database."""

import json
import math
import sqlite3
from pathlib import Path

import pytest
from builders import alert, header, notice, reading
from PIL import Image

from spinal_callback.sinks.logged_values import scalars
from spinal_callback.sinks.trackio import TrackioSink


def trackio_run(folder, monkeypatch, *records):
    """The rows and alerts of a run in which the Trainer logs a row of its own, read from trackio's database."""
    trackio = pytest.importorskip("trackio")
    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", folder)
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", folder)
    for module in (trackio.utils, trackio.run, trackio.media.media):
        monkeypatch.setattr(module, "MEDIA_DIR", folder / "media")
    trackio.init("test", name="run", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    trackio.log({"train/loss": 0.5}, step=5)
    sink = TrackioSink()
    for record in records:
        sink.write(record)
    sink.close()
    trackio.finish()
    with sqlite3.connect(next(folder.glob("*.db"))) as base:
        rows = base.execute("select step, metrics from metrics order by id").fetchall()
        alerts = base.execute("select title, text, level from alerts order by id").fetchall()
    rows = [(step, json.loads(values)) for step, values in rows]
    pictures = [(step, row.pop("spinal/heatmaps")) for step, row in rows if "spinal/heatmaps" in row]
    return [(step, row) for step, row in rows if row], alerts, pictures


def test_trackio_is_given_headlines_and_alerts(tmp_path, monkeypatch):
    records = (header(), reading(5, score=math.nan), alert(5), alert(6), alert(6, level="warn"), reading(10))
    rows, alerts, pictures = trackio_run(tmp_path, monkeypatch, *records)
    assert rows[0] == (5, {"train/loss": 0.5})
    assert [step for step, _ in rows[1:]] == [5, 5, 6, 6, 10]
    assert rows[5][1] == scalars(reading(10)) | {"spinal/alerts": 3}
    assert "spinal/score" not in rows[1][1] and rows[1][1]["spinal/alerts"] == 0
    assert alerts == [
        ("spinal: nonfinite", "7 are NaN. Try: stop.", "error"),
        ("spinal: nonfinite", "7 are NaN. Try: stop.", "warn"),  # the second error is held back
    ]
    assert [(step, picture["_type"]) for step, picture in pictures] == [(5, "trackio.image"), (10, "trackio.image")]
    drawn = [Image.open(next(tmp_path.rglob(Path(picture["file_path"]).name))) for _, picture in pictures]
    assert [image.size for image in drawn] == [(1000, 660)] * 2 and drawn[0].tobytes() != drawn[1].tobytes()


def test_trackio_gets_the_last_picture_before_the_trainer_closes_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(TrackioSink, "close", TrackioSink.complete)
    assert [step for step, _ in trackio_run(tmp_path, monkeypatch, header(), reading(0), reading(5))[2]] == [0, 5]


def test_a_calm_run_sends_trackio_no_alert_and_a_notice_is_none(tmp_path, monkeypatch):
    rows, alerts, _ = trackio_run(tmp_path, monkeypatch, header(), reading(0), notice(0), reading(5))
    assert alerts == [] and [(step, row["spinal/alerts"]) for step, row in rows[1:]] == [(0, 0), (5, 0)]


def test_without_a_trackio_run_nothing_happens(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.chdir(tmp_path)
    sink = TrackioSink()
    for record in (header(), reading(0), alert(0)):
        sink.write(record)
    sink.close()
    assert list(tmp_path.iterdir()) == []
