"""State beside the weights that a forward pass, or the reading of a row, may change: noted, and put back afterwards.

Dynamic rotary embeddings keep the longest length they have seen, batch norm its statistics, some modules and data sets
count their calls or own a random generator. Whatever is found in the attributes of the objects is put back: numbers,
texts, tensors, arrays, random generators, and lists, dictionaries and sets of them. What an attribute refers to is put
back too, whatever its type. Not seen: attributes of classes, and what lies inside objects of other types.
"""

from __future__ import annotations

import contextlib
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

COPIED_BYTES = 64 << 20  # of tensors at most, smallest first; a larger one is watched instead
MOST_ELEMENTS = 1000  # of a list or dictionary that is looked into
MOST_OBJECTS = 5000  # that are reached from one data set
DEEPEST = 6
OWN = {
    "_parameters",
    "_modules",
    "training",
}  # of nn.Module: weights, structure, and the mode, which `undisturbed` keeps
LIBRARIES = ("torch.distributed.", "deepspeed.")  # their wrappers set themselves up in the first pass, and stay so

Undo = Callable[[], None]


@contextlib.contextmanager
def state_kept(owners: Iterable[Any]) -> Iterator[None]:
    """Afterwards the attributes of `owners` are as before, also if the body raises.

    Args:
        owners: objects with a `__dict__`: the modules of a model, or what `reachable` finds.

    Raises:
        ValueError: afterwards, if a tensor has changed that is too large to be copied (`COPIED_BYTES` for all); names
            it.
    """
    kept = _Kept()
    for owner in owners:
        kept.add(owner)
    kept.copy()
    try:
        yield
    finally:
        kept.restore()


def module_state_kept(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """`state_kept` of every module of a model but the wrappers of `LIBRARIES`."""
    return state_kept(m for m in model.modules() if not type(m).__module__.startswith(LIBRARIES))


def reachable(root: Any) -> list[Any]:
    """`root` and the objects that it holds: in attributes, lists, dictionaries, closures, and globals by name.

    Modules, classes and tensors are not followed. `MOST_OBJECTS` at most.
    """
    found: dict[int, Any] = {}
    waiting = deque([(root, 0)])
    while waiting and len(found) < MOST_OBJECTS:
        value, depth = waiting.popleft()
        if depth > DEEPEST or id(value) in found or isinstance(value, type | types.ModuleType | nn.Module | Tensor):
            continue
        found[id(value)] = value
        waiting.extend((inner, depth + 1) for inner in _inside(value))
    return [value for value in found.values() if hasattr(value, "__dict__") or _is_generator(value)]


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, list | tuple | set | deque):
        return list(value) if len(value) <= MOST_ELEMENTS else ()
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= MOST_ELEMENTS else ()
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        named = (value.__globals__.get(name) for name in value.__code__.co_names)
        return [*cells, *(value.__defaults__ or ()), *(x for x in named if _is_generator(x))]
    methods = (m for kind in type(value).__mro__ for m in vars(kind).values() if isinstance(m, types.FunctionType))
    return [*getattr(value, "__dict__", {}).values(), *methods]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


class _Kept:
    """What has been noted, and how to put each of it back."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []
        self._tensors: list[tuple[str, Tensor]] = []
        self._seen: dict[int, Any] = {}  # the objects themselves: an id may be used again

    def add(self, owner: Any) -> None:
        if _is_generator(owner):
            self._note(type(owner).__name__, owner, 0)
        elif isinstance(getattr(owner, "__dict__", None), dict):
            own = vars(owner)
            before = {name: value for name, value in own.items() if not _is_of_module(owner, name)}
            for name, value in before.items():
                self._note(f"{type(owner).__name__}.{name}", value, 0)
            self._undo.append(lambda: _put_back(owner, before))

    def copy(self) -> None:
        """Copies the tensors, smallest first; those beyond `COPIED_BYTES` are watched."""
        room = COPIED_BYTES
        for name, tensor in sorted(self._tensors, key=lambda pair: pair[1].nbytes):
            room -= tensor.nbytes
            self._undo.append(_tensor_undo(name, tensor, tensor.detach().clone() if room >= 0 else None))

    def restore(self) -> None:
        """Puts everything back, then raises the first error."""
        errors: list[Exception] = []
        with torch.no_grad():
            for undo in self._undo:
                try:
                    undo()
                except Exception as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def _note(self, name: str, value: Any, depth: int) -> None:
        """Notes what a value holds; a value that cannot change needs no note."""
        if id(value) in self._seen or depth > DEEPEST:
            return
        if _is_generator(value):
            self._undo.append(_generator_undo(value))
        elif isinstance(value, np.ndarray) and value.nbytes <= COPIED_BYTES:
            self._undo.append(_array_undo(value, value.copy()))
        elif isinstance(value, Tensor):
            if _is_plain(value):
                self._tensors.append((name, value))
        elif isinstance(value, list | dict | set | deque) and len(value) <= MOST_ELEMENTS:
            self._seen[id(value)] = value
            self._undo.append(_container_undo(value))
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                self._note(f"{name}.{key}", inner, depth + 1)
        self._seen[id(value)] = value


def _is_of_module(owner: Any, name: str) -> bool:
    return isinstance(owner, nn.Module) and (name in OWN or "_hooks" in name or name.startswith("ds_"))


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is state that can be copied: no weight, no shard, and with values."""
    return type(tensor) is Tensor and not (tensor.requires_grad or tensor.is_meta or tensor.is_inference())


def _put_back(owner: Any, before: dict[str, Any]) -> None:
    own = vars(owner)
    for name in [name for name in own if name not in before and not _is_of_module(owner, name)]:
        del own[name]
    for name, value in before.items():
        if own.get(name, owner) is not value:
            own[name] = value


def _tensor_undo(name: str, tensor: Tensor, copy: Tensor | None) -> Undo:
    version, place = tensor._version, tensor.data_ptr()

    def undo() -> None:
        if copy is not None and torch.equal(tensor, copy):  # batch norm changes its statistics without a new version
            return
        if copy is None and (tensor._version, tensor.data_ptr()) == (version, place):
            return
        if copy is None:
            raise ValueError(
                f"a forward pass changes {name}, which is too large to be copied ({tensor.nbytes >> 20} MiB):"
                " the probe would change training"
            )
        if tensor.shape == copy.shape:
            tensor.copy_(copy)
        else:
            tensor.data = copy

    return undo


def _array_undo(array: np.ndarray[Any, Any], copy: np.ndarray[Any, Any]) -> Undo:
    def undo() -> None:
        if array.flags.writeable:
            array[...] = copy

    return undo


def _container_undo(value: Any) -> Undo:
    if isinstance(value, dict):
        pairs = list(value.items())

        def undo_dict() -> None:
            if [(k, id(v)) for k, v in value.items()] != [(k, id(v)) for k, v in pairs]:
                value.clear()
                value.update(pairs)

        return undo_dict
    elements = list(value)

    def undo() -> None:
        if list(map(id, value)) != list(map(id, elements)):
            value.clear()
            value.update(elements) if isinstance(value, set) else value.extend(elements)

    return undo


def _is_generator(value: Any) -> bool:
    return isinstance(value, random.Random | np.random.Generator | np.random.RandomState | torch.Generator)


def _generator_undo(generator: Any) -> Undo:
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.Generator):
        state = generator.bit_generator.state
        return lambda: setattr(generator.bit_generator, "state", state)
    return functools.partial(generator.set_state, generator.get_state())
