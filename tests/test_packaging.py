"""What a release holds: the sdist its tests and their helpers, the wheel the data and the types that mypy then sees."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from paths import ROOT

MYPY = ("-m", "mypy", "--ignore-missing-imports", "--no-incremental", "--config-file=")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder that an sdist and a wheel were built into, from a copy: the build leaves files beside the sources."""
    place = tmp_path_factory.mktemp("build")
    for entry in ROOT.iterdir():
        if entry.is_file():
            shutil.copy(entry, place)
    for name in ("spinal_callback", "recipes", "scripts", "tests"):
        ignore = shutil.ignore_patterns("__pycache__", "traces") if name == "scripts" else None
        shutil.copytree(ROOT / name, place / name, ignore=ignore or shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta as b; b.build_sdist('out'); b.build_wheel('out')"
    subprocess.run([sys.executable, "-c", build], cwd=place, check=True, capture_output=True)
    return place / "out"


def test_the_sdist_holds_the_tests_with_their_helpers(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "recipes", "spinal_callback"):
        ours = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {name for name in ours if "__pycache__" not in name} <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "scripts/test", "scripts/benchmarks/timing.py"} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def installed(built, place):
    """The wheel in the site-packages of a new virtual environment that has nothing else; its Python and its folder."""
    (wheel,) = built.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (site,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return place / "bin" / "python", site / "spinal_callback"


def test_mypy_sees_our_types_from_outside_while_py_typed_is_there(built, tmp_path):
    python, package = installed(built, tmp_path / "environment")
    assert (package / "report" / "assets" / "page.html").exists() and (package / "probe" / "prompts.jsonl").exists()
    assert (package / "hosts" / "startup" / "sitecustomize.py").exists()
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text("from spinal_callback import SpinalConfig\n\nSpinalConfig(every=25, window=(3, 9))\n")
    wrong.write_text('from spinal_callback import SpinalConfig\n\nSpinalConfig(every="never", num_prompts="64")\n')

    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}

    def check(file):
        command = [sys.executable, *MYPY, "--python-executable", python, file]
        return subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)

    assert check(right).returncode == 0, check(right).stdout
    said = check(wrong)
    assert said.returncode == 1
    assert 'Argument "every" to "SpinalConfig"' in said.stdout and 'Argument "num_prompts"' in said.stdout
    (package / "py.typed").unlink()
    assert check(wrong).returncode == 0, "without the marker mypy takes everything for Any"
