"""What every host needs: its settings checked, its framework's version checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from ..config import SpinalConfig

SECTION = "spinal"  # where a host's configuration file keeps our settings


def checked(section: Any) -> SpinalConfig:
    """The settings in the section `spinal` of a host's configuration; the defaults if there is none.

    Raises:
        ValueError: the section is not a mapping, has an unknown setting or a value out of its range. The message names
            the setting, the value and what would be right.
    """
    if section is None:
        return SpinalConfig()
    if not isinstance(section, Mapping):
        raise ValueError(f"{SECTION} must be a section of settings, such as every: 25, got {section!r}")
    try:
        return SpinalConfig.of(None, {str(name): value for name, value in section.items()})  # YAML reads `on` as True
    except ValueError as error:
        raise ValueError(f"{SECTION}: {error}") from None


def parse(words: Iterable[str]) -> dict[str, Any]:
    """Settings written as NAME=VALUE. A value is JSON (25, true, null, [21, 30]) or a bare word (auto)."""
    values = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def require(package: str, lowest: str, why: str) -> None:
    """Checks a host's framework before anything of it is imported.

    Args:
        package: its name on PyPI.
        lowest: the lowest version that works.
        why: what is wrong with a lower version: "it has no --callbacks".

    Raises:
        ImportError: not installed, or a version that does not work; the message says which one does.
    """
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ImportError(f"{package} is not installed: pip install '{package}>={lowest}'") from None
    if Version(found) < Version(lowest):
        raise ImportError(
            f"{package} {found} does not work with spinal_callback, because {why}: pip install '{package}>={lowest}'"
        )
