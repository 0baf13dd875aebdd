"""axolotl.py: Axolotl's plugin interface, as its version 0.19.0 calls it."""

import inspect

import pydantic
import pytest
import stand_ins
from training import trainer

from spinal_callback import SpinalCallback, load_trace

BASE = """
class BasePlugin:
    def __init__(self): pass
    def register(self, cfg: dict): pass
    def get_input_args(self) -> str | None: return None
    def add_callbacks_post_trainer(self, cfg, trainer) -> list: return []
"""
FILES = {"axolotl/integrations/base.py": BASE}


@pytest.fixture
def axolotl(tmp_path, monkeypatch):
    with stand_ins.importable(monkeypatch, stand_ins.make(tmp_path / "stand_in", "axolotl", "0.19.0", FILES)):
        from spinal_callback.hosts import axolotl

        yield axolotl


def configuration(axolotl):
    """As Axolotl merges the class that the plugin names into its own."""
    module, name = axolotl.SpinalPlugin().get_input_args().rsplit(".", 1)
    assert module == "spinal_callback.hosts.axolotl"

    class Own(pydantic.BaseModel):
        base_model: str

    class Merged(Own, getattr(axolotl, name)):
        pass

    return Merged


def test_the_plugin_watches_the_trainer(axolotl, tmp_path):
    merged = configuration(axolotl)(base_model="m", spinal={"every": 2, "num_prompts": 24})
    built = trainer(tmp_path / "run")
    for callback in axolotl.SpinalPlugin().add_callbacks_post_trainer(merged.model_dump(exclude_none=True), built):
        built.add_callback(callback)
    built.train()
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 2, 4] and trace.header.prompts == 24


def test_the_section_may_be_left_out(axolotl, tmp_path):
    merged = configuration(axolotl)(base_model="m").model_dump(exclude_none=True)
    built = trainer(tmp_path)
    axolotl.SpinalPlugin().add_callbacks_post_trainer(merged, built)
    [callback] = [c for c in built.callback_handler.callbacks if isinstance(c, SpinalCallback)]
    assert callback.config.every == "auto"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"evry": 25}, r"spinal: there is no setting evry \(got evry=25\): did you mean every\?"),
        ({"window": 3}, r'spinal: window must be a share of the depth in \(0, 1\], \(first, last\) or "paper", got 3'),
        ("fast", "spinal must be a section of settings, such as every: 25, got 'fast'"),
    ],
)
def test_a_wrong_section_is_refused_with_the_configuration(axolotl, section, words):
    with pytest.raises(pydantic.ValidationError, match=words):
        configuration(axolotl)(base_model="m", spinal=section)


def test_other_versions_are_refused(monkeypatch, tmp_path):
    stand_ins.check_refusals(monkeypatch, tmp_path, "axolotl", "axolotl", FILES, old="0.12.2")


def test_the_stand_in_is_like_the_real_one():
    theirs = pytest.importorskip("axolotl.integrations.base", reason="Axolotl is not installed").BasePlugin
    assert list(inspect.signature(theirs.add_callbacks_post_trainer).parameters) == ["self", "cfg", "trainer"]
    assert list(inspect.signature(theirs.get_input_args).parameters) == ["self"]
