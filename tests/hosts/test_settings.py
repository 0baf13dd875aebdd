"""settings.py: a host's settings and its framework's version, checked before anything is trained."""

import pytest

from spinal_callback import SpinalConfig
from spinal_callback.hosts.settings import checked, parse, require


def test_a_section_becomes_a_config():
    section = {"every": 25, "stop_on": "error", "window": [21, 30], "rules": None}
    assert checked(section) == SpinalConfig(every=25, stop_on="error", window=(21, 30))
    assert checked(None) == checked({}) == SpinalConfig()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"evry": 25}, r"spinal: there is no setting evry \(got evry=25\): did you mean every\?"),
        ({True: 25}, r"spinal: there is no setting True \(got True=25\): "),  # YAML for `on: 25`
        ({"every": 0}, 'spinal: every must be a whole number >= 1 or "auto", got 0'),
        ({"stop_on": "fatal"}, "spinal: stop_on must be one of None, 'warn', 'error', got 'fatal'"),
        (25, "spinal must be a section of settings, such as every: 25, got 25"),
        (["every"], r"spinal must be a section of settings, such as every: 25, got \['every'\]"),
    ],
)
def test_a_wrong_section_is_refused(section, words):
    with pytest.raises(ValueError, match="^" + words):
        checked(section)


def test_words_are_json_or_bare():
    words = ["every=auto", "num_prompts=32", "window=[21, 30]", "top_k=null", "gradients=false", "rules=a=b.json", "x="]
    assert parse(words) == {
        "every": "auto",
        "num_prompts": 32,
        "window": [21, 30],
        "top_k": None,
        "gradients": False,
        "rules": "a=b.json",
        "x": "",
    }


def test_a_framework_of_a_version_that_works_passes():
    require("pytest", "1.0", "it is old")


def test_a_framework_that_does_not_work_is_refused_by_version():
    words = r"^pytest [\d.]+ does not work with spinal_callback, because it is old: pip install 'pytest>=999\.1'$"
    with pytest.raises(ImportError, match=words):
        require("pytest", "999.1", "it is old")


def test_a_framework_that_is_not_there_is_named():
    with pytest.raises(ImportError, match=r"^no-such-thing is not installed: pip install 'no-such-thing>=2\.0'$"):
        require("no-such-thing", "2.0", "it is old")
