"""`minidl gradcheck`: the gradients of the operations in the table, or of the reader's own in her file."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minidl.autograd import Function
from minidl.errors import MinidlError
from minidl.gradcheck import GradcheckResult, gradcheck
from minidl.nn import Module
from minidl.operations import OPERATIONS, Operation, Sample
from minidl.tensor import Tensor

UNCHECKED = {"astype": "float32 has too few digits for differences"}


class CheckError(MinidlError, ValueError):
    """There is nothing to check by that name, or it cannot be called."""


# The table


@dataclass
class Row:
    """A line of the table."""

    cells: tuple[str, ...]
    right: bool = True

    def __bool__(self) -> bool:
        return self.right

    def line(self, markdown: bool = False) -> str:
        """In columns, or in Markdown, where the heads get a rule below them."""
        if markdown:
            rule = "\n|---|---:|---:|---:|---:|---|" if self is HEADS else ""
            return f"| {' | '.join(self.cells)} |{rule}"
        name, *numbers, verdict = self.cells
        return f"{name:<33}{''.join(f'{number:>11}' for number in numbers)}   {verdict}".rstrip()


HEADS = Row(("operation", "cases", "1st error", "2nd error", "time", ""))


def check_operations(names: Sequence[str]) -> Iterator[Row]:
    """Check the operations of those names, or all: the heads, and a line for each as soon as it is done.

    Raises:
        CheckError: there is no operation of that name; before anything is checked.
    """
    for name in names:
        if name not in OPERATIONS:
            close = difflib.get_close_matches(name, OPERATIONS, 5, 0.5)
            known = f"did you mean {' or '.join(close)}?" if close else "--all lists those that there are"
            raise CheckError(f"no operation called {name!r}: {known}")
    yield HEADS
    for name in names or OPERATIONS:
        yield _check(OPERATIONS[name])


def _check(operation: Operation) -> Row:
    """Both derivatives at every sample of its row: how many, the largest errors, the time."""
    why_not = UNCHECKED.get(operation.name, "" if operation.differentiable else "has no gradient")
    if why_not:
        return Row((operation.name, *"–" * 4, why_not))
    start, errors, right = time.perf_counter(), {1: 0.0, 2: 0.0}, True
    samples = operation.listed()
    for sample in samples:
        f = functools.partial(_apply, operation, sample)
        result = gradcheck(f, *sample.inputs, order=2)
        right &= bool(result)
        for check in result.checks:
            errors[check.order] = max(errors[check.order], check.error)
    first, second = (f"{error:.1e}" for error in errors.values())
    seconds = f"{time.perf_counter() - start:.2f} s"
    return Row(
        (operation.name, str(len(samples)), first, second, seconds, "right" if right else "WRONG"), right
    )


def _apply(operation: Operation, sample: Sample, *inputs: Tensor) -> Tensor:
    return sample.apply(operation.function, inputs)


# The reader's own


def check_own(
    place: str, shapes: Sequence[tuple[int, ...]] = (), positive: bool = False, order: int = 2
) -> GradcheckResult:
    """Check what is at path/to/file.py:NAME: a subclass of Function, a function of tensors, or a Module.

    The inputs are drawn: one array for each argument without a default, of shape (3, 4) or those given, of
    normal numbers or, if positive, of numbers in [½, 2].

    Raises:
        CheckError: the file or the name is missing, or what is there fails; it says in which line.
    """
    path, _, name = place.rpartition(":") if not place.endswith(".py") else (place, "", "")
    with _errors_told(path, "while it was imported"):
        f, forward = _find(path, name, _import(Path(path)))
    arguments = inspect.signature(forward).parameters.values()
    count = sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in arguments
    )
    if any(p.kind == p.VAR_POSITIONAL for p in arguments):
        count = max(count, len(shapes), 1)
    if len(shapes) > 1 and len(shapes) != count:
        raise CheckError(
            f"{name} takes {count} array{'s'[: count != 1]}, and {len(shapes)} shapes were given"
        )
    shapes = shapes if len(shapes) > 1 else [*(shapes or [(3, 4)])] * count
    rng = np.random.default_rng(0)
    if not count:
        raise CheckError(f"{name} takes no array, so there is nothing to differentiate it by")
    if not any(map(math.prod, shapes)):
        raise CheckError("there is nothing to compare in arrays without elements: give another --shape")
    drawn = " and ".join("×".join(map(str, shape)) or "0-d" for shape in shapes)
    with (
        _errors_told(path, f"with inputs of shape {drawn}, which --shape changes"),
        np.errstate(all="ignore"),
    ):
        inputs = [rng.uniform(0.5, 2.0, shape) if positive else rng.normal(size=shape) for shape in shapes]
        return gradcheck(f, *inputs, order=order)


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise CheckError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CheckError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # it may import its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _find(path: str, name: str, module: ModuleType) -> tuple[Any, Callable[..., Any]]:
    """(what gradcheck takes, the function whose arguments are the arrays)"""
    found = getattr(module, name, None)
    if inspect.isclass(found) and issubclass(found, (Function, Module)):
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise CheckError(
                f"{name} cannot be made without arguments ({error}): check a function that makes it"
            ) from None
        if issubclass(found, Function):
            return found, found().forward
        found = found()
    if isinstance(found, Module):
        return found, found.forward
    if inspect.isfunction(found):
        return found, found
    own = [key for key, value in vars(module).items() if _is_own(value, module)]
    if not name:
        raise CheckError(f"say what to check in it, as {path}:NAME: it has {', '.join(own) or 'nothing'}")
    shown = difflib.get_close_matches(name, own, 5, 0.5) or own[:10]
    raise CheckError(
        f"{path} has no Function, function or Module called {name!r}: it has {', '.join(shown) or 'nothing'}"
        f"{' and others' if len(shown) < len(own) else ''}"
    )


def _is_own(value: Any, module: ModuleType) -> bool:
    """Whether a file defines something that can be checked."""
    checkable = inspect.isclass(value) and issubclass(value, (Function, Module))
    return getattr(value, "__module__", "") == module.__name__ and (checkable or inspect.isfunction(value))


@contextmanager
def _errors_told(path: str, when: str) -> Iterator[None]:
    """An exception in the reader's file becomes one sentence with its line."""
    try:
        yield
    except CheckError:
        raise
    except (Exception, SystemExit) as error:
        file = Path(path).resolve()
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == file]
        place = f"{path}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else path
        problem = str(error)
        if isinstance(error, SyntaxError):
            place, problem = f"{error.filename}, line {error.lineno}", error.msg
        raise CheckError(f"{place}: {type(error).__name__}: {problem} ({when})") from error
