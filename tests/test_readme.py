"""The README's examples that are marked `<!-- tested -->`, run as they stand, where what they name is tiny."""

import re

import pytest
import saved
from builders import header, reading, write
from paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- tested -->\n+```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which the README's names are there: a model, a run of two checkpoints with its trace, prompts."""
    saved.policy(tmp_path / "Qwen" / "Qwen3-0.6B")
    for step, size in ((2, 0.02), (6, 0.1)):
        saved.policy(tmp_path / "runs" / "mine" / f"checkpoint-{step}", saved.aligned(size=size))
    write(tmp_path, header(), reading(0), reading(6), name="runs/mine/_spinal/trace.jsonl")
    saved.prompts_file(tmp_path / "prompts.jsonl")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs(place, number):
    names = {}
    exec(compile(EXAMPLES[number], f"README example {number}", "exec"), names)
    assert [r.step for r in names["found"].readings] == [0, 2, 6]
    assert names["found"].changes[-1].first.layer >= 7 and names["different"] is True


def test_there_are_examples():
    assert len(EXAMPLES) == 1 and "audit(" in EXAMPLES[0]
