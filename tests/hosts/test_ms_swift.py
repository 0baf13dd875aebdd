"""ms_swift.py: ms-swift's callback table, as its version 4.6.0 reads it."""

import importlib.util

import pytest
import stand_ins
from training import trainer

from spinal_callback import SpinalConfig, load_trace

FILES = {
    "swift/callbacks/mapping.py": "callbacks_map = {}\n",
    "swift/callbacks/__init__.py": "from .mapping import callbacks_map\n",
}
PLUGIN = "from spinal_callback.hosts.ms_swift import register\nregister({})\n"


@pytest.fixture
def swift(tmp_path, monkeypatch):
    with stand_ins.importable(monkeypatch, stand_ins.make(tmp_path / "stand_in", "ms-swift", "4.6.0", FILES)):
        import swift.callbacks

        yield swift


def load_plugin(path, monkeypatch):
    """As ms-swift imports a file of `--external_plugins`."""
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location("_swift_external_1", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_plugin_file_makes_the_callback_known(swift, tmp_path, monkeypatch):
    path = tmp_path / "spinal_plugin.py"
    path.write_text(PLUGIN.format("every=2, num_prompts=24"))
    load_plugin(path, monkeypatch)
    callback = swift.callbacks.callbacks_map["spinal"](object(), object())
    trainer(tmp_path / "run", callback).train()
    trace = load_trace(tmp_path / "run")
    assert [r.step for r in trace.readings] == [0, 2, 4] and trace.header.prompts == 24


def test_each_trainer_gets_a_callback_of_its_own(swift):
    from spinal_callback.hosts.ms_swift import register

    register(SpinalConfig(every=3))
    first, second = (swift.callbacks.callbacks_map["spinal"](None, None) for _ in range(2))
    assert first is not second and first.config == second.config == SpinalConfig(every=3)


def test_wrong_settings_are_refused_when_the_plugin_file_is_read(swift, tmp_path, monkeypatch):
    path = tmp_path / "spinal_plugin.py"
    path.write_text(PLUGIN.format("evry=2"))
    with pytest.raises(ValueError, match=r"there is no setting evry \(got evry=2\): did you mean every\?"):
        load_plugin(path, monkeypatch)


def test_other_versions_are_refused(monkeypatch, tmp_path):
    stand_ins.check_refusals(monkeypatch, tmp_path, "ms_swift", "ms-swift", FILES, old="3.12.0")


def test_the_stand_in_is_like_the_real_one():
    callbacks = pytest.importorskip("swift.callbacks", reason="ms-swift is not installed")
    assert isinstance(callbacks.callbacks_map, dict) and "early_stop" in callbacks.callbacks_map
