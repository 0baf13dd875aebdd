"""Stand-ins for frameworks that are not installed: packages with the real interface, made in a folder."""

import contextlib
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

FRAMEWORKS = ("axolotl", "swift", "llamafactory")


def make(folder, distribution, number, files):
    """A package of the files `{path: source}`; `importlib.metadata` knows it as `distribution`, version `number`."""
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.relative_to(folder).parents:
            if parent.name:
                (folder / parent / "__init__.py").touch()
        path.write_text(source)
    about = folder / f"{distribution.replace('-', '_')}-{number}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {number}\n")
    return folder


@contextlib.contextmanager
def importable(monkeypatch, folder=None):
    """Inside, the frameworks and our hosts are imported afresh, from `folder` if given; then they are forgotten."""
    if folder is not None:
        monkeypatch.syspath_prepend(folder)
    _forget()
    try:
        yield
    finally:
        _forget()


def _forget():
    for name in list(sys.modules):
        if name.split(".")[0] in FRAMEWORKS or name.startswith("spinal_callback.hosts."):
            del sys.modules[name]


def check_refusals(monkeypatch, tmp_path, name, distribution, files, old):
    """Without its framework, or with a version that does not work, a host says which one would be right."""
    with contextlib.suppress(PackageNotFoundError):
        version(distribution)
        pytest.skip(f"{distribution} is installed")
    with importable(monkeypatch), pytest.raises(ImportError, match=rf"^{distribution} is not installed: pip install '"):
        importlib.import_module(f"spinal_callback.hosts.{name}")
    make(tmp_path, distribution, old, files)
    right = rf"pip install '{distribution}>=[\d.]+'"
    words = rf"^{distribution} {old} does not work with spinal_callback, because it .+: {right}$"
    with importable(monkeypatch, tmp_path), pytest.raises(ImportError, match=words):
        importlib.import_module(f"spinal_callback.hosts.{name}")
