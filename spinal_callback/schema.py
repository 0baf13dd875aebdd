"""Dataclasses from JSON that may be damaged or foreign: every field is checked against its annotation."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
LARGEST = 2**63 - 1  # of whole numbers: what NumPy and databases hold
GREATEST = 1e100  # of other numbers: what is computed from them must be finite too
DEEPEST = 10  # levels of lists and objects in a field annotated with Any
FITS: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST,
    float: lambda value: FITS[int](value) or (isinstance(value, float) and abs(value) <= GREATEST),
}
WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number of at most 64 bits",
    float: f"a number up to {GREATEST} or null",
    list: "a list",
    dict: "an object",
}


def load_json(text: str) -> Any:
    """`json.loads`, whose other ways to fail become ValueErrors too.

    Raises:
        ValueError: not JSON, brackets nested too deeply, or a number with more digits than Python converts.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None
    except ValueError:
        raise ValueError("a number has too many digits") from None


def build(cls: type[T], data: dict[str, Any]) -> T:
    """An instance of the dataclass `cls`. Keys that are no field of it are ignored: later versions may have more.

    Where a float is wanted null becomes NaN; a tuple is a list in JSON. Infinity and NaN are not JSON, and refused.

    Raises:
        ValueError: a field is missing, or a value does not fit its annotation; names the field, index and key.
    """
    made: Any = cls  # mypy knows no type of dataclasses
    fields = dataclasses.fields(made)
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(needed - set(data)):
        raise ValueError(f"{getattr(cls, 'kind', cls.__name__)} without {', '.join(missing)}")
    kinds = _annotations(made)
    return cls(**{f.name: _checked(data[f.name], kinds[f.name], f.name) for f in fields if f.name in data})


@cache
def _annotations(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(value: Any, kind: Any, where: str) -> Any:
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if outer is Any:
        return _plain(value, where)
    if outer is float and value is None:
        return math.nan
    if outer in FITS and FITS[outer](value):
        return outer(value)
    if outer is Literal and isinstance(value, str) and value in inner:
        return value
    if outer is list and isinstance(value, list):
        return [_checked(v, inner[0], f"{where}[{i}]") for i, v in enumerate(value)]
    if outer is tuple and isinstance(value, list) and len(value) == len(inner):
        return tuple(_checked(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, inner, strict=True)))
    if outer is dict and isinstance(value, dict):
        return {key: _checked(v, inner[1], f"{where}.{_short(key)}") for key, v in value.items()}
    words = f"one of {', '.join(map(repr, inner))}" if outer is Literal else WORDS.get(outer, f"a list of {len(inner)}")
    raise ValueError(f"{where} must be {words}, got {written(value)}")


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A value of any kind, with numbers as elsewhere, and nested no deeper than `DEEPEST`."""
    if depth == DEEPEST:
        raise ValueError(f"{where} is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        return {key: _plain(v, f"{where}.{_short(key)}", depth + 1) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    if value is None or any(fits(value) for fits in FITS.values()):
        return value
    raise ValueError(f"{where} must be {WORDS[float]}, got {written(value)}")


def written(value: Any) -> str:
    if isinstance(value, list | dict):
        return WORDS[type(value)]
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a larger number"  # Python may refuse to write its digits
    return _short(json.dumps(value))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
