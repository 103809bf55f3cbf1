"""Shared torch modules used privately: a view has the same weights, and attention processors and flags of its own.

Drawing and fitting act on a model through processors, an exchanged embedding table, exchanged weights. Done to the
module that all calls share, one call would draw with another's processors. Done to a view, nobody else sees it, and
there is nothing to put back afterwards.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

M = TypeVar("M", bound=nn.Module)

_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_making_locks = threading.Lock()


def lock_of(module: nn.Module) -> Any:
    """Return the reentrant lock of a module: held by whoever changes it, or reads what others may be changing.

    Locks of several modules are taken in one order: the UNet's, then the text encoder's. Nobody waits for a view's.
    """
    with _making_locks:
        return _locks.setdefault(module, threading.RLock())


@contextmanager
def undisturbed(*modules: Any) -> Iterator[None]:
    """Hold the locks of several modules, given in their order."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(lock_of(module))
        yield


def private_view(module: M) -> M:
    """Return a module with the same weights, whose structure is its own.

    Parameters and buffers are the very tensors of ``module``, so a view costs milliseconds and no memory to speak of.
    Submodules are new objects: processors, modes, layers put in and weights exchanged belong to the view alone. Hooks
    are shared, so those that a user adds later are called, too.

    A module whose calls are redirected (offloaded by accelerate, compiled) is returned itself, because it would be
    called in the view's place. Who changes it holds its lock as long as the change lasts, so that calls take turns.
    """
    with lock_of(module):
        if redirected(module):
            return module
        return _copied(module, {})


def private_views(*modules: Any) -> list[Any]:
    """Return views of several modules at one moment: none of them changes between the first and the last."""
    with undisturbed(*modules):
        return [private_view(module) for module in modules]


@contextmanager
def in_turn(module: nn.Module) -> Iterator[None]:
    """Let calls of a module take turns if its calls are redirected; of any other they run side by side."""
    if redirected(module):
        with lock_of(module):
            yield
    else:
        yield


def float32_view(module: M) -> M:
    """Return a view whose weights are float32 copies; the module keeps its own."""
    view = private_view(module)
    if view is module:
        return copy.deepcopy(module).float()
    for each in view.modules():
        for name, weight in each._parameters.items():
            if weight is not None and weight.is_floating_point():
                each._parameters[name] = nn.Parameter(weight.detach().float(), requires_grad=False)
        for name, buffer in each._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                each._buffers[name] = buffer.float()
    return view


def redirected(module: nn.Module) -> bool:
    """Whether calls of a module, or of one in it, are redirected: offloaded by accelerate, compiled."""
    return any(map(_redirected, module.modules()))


def _redirected(module: nn.Module) -> bool:
    """Whether calling a module runs something that was bound to this very object."""
    return "forward" in module.__dict__ or module.__dict__.get("_compiled_call_impl") is not None


def _copied(module: M, done: dict[int, nn.Module]) -> M:
    if id(module) in done:
        return done[id(module)]  # type: ignore[return-value]
    view = object.__new__(type(module))
    done[id(module)] = view
    own = dict(module.__dict__)
    for name, value in own.items():
        # Containers are copied, or what a LoRA notes by name in them would vanish from a view when it is unloaded.
        if "_hooks" not in name and type(value) in (dict, list, set, OrderedDict):
            own[name] = value.copy()
    own["_modules"] = {k: None if m is None else _copied(m, done) for k, m in module._modules.items()}
    view.__dict__.update(own)
    return view
