"""scripts/pictures.py: the README's pictures of two made-up runs, by a real browser and a real trackio."""

import os
import subprocess
import sys

import pytest
from builders import alert, header, reading, write
from chromium import chromium
from made_up import drifting
from paths import PYTHONPATH, ROOT
from PIL import Image, ImageStat


@pytest.mark.timeout(300)
def test_all_pictures_are_made_on_light_paper(tmp_path):
    chromium()
    pytest.importorskip("trackio")
    write(tmp_path, header(), *drifting(), name="healthy/_spinal/trace.jsonl")
    write(tmp_path, header(), reading(0), reading(10), alert(10), name="warned/_spinal/trace.jsonl")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "pictures.py", "healthy", "warned", "--output", "pictures"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    made = {path.stem: Image.open(path).convert("L") for path in (tmp_path / "pictures").iterdir()}
    assert set(made) == {"heatmaps", "report", "terminal", "trackio"}
    for name, image in made.items():
        assert 800 <= image.width <= 1000 and 500 <= image.height <= 2000, (name, image.size)
        paper = ImageStat.Stat(image)
        assert paper.median[0] > 100 and paper.stddev[0] > 10, name
