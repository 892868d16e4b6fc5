"""Do the tests notice? Small mistakes are planted in every backward, one after another: the checks must fail.

    python tests/mutation.py                # every operation
    python tests/mutation.py Multiply Conv2d

A mistake is one change of the syntax tree: another operator, a factor or a term left out, a sign, two
arguments or two gradients exchanged, the wrong one of the saved arrays, another constant, a statement
forgotten. The mistaken backward takes the place of the right one, and the checks of the table of operations
run, as the tests run them, at the samples and kinks of every row that goes backward through it. Exits with 1
if a mistake survives.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import pkgutil
import sys
import textwrap
import time
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import minidl.functional
from minidl.autograd import Function
from minidl.operations import OPERATIONS, Operation, checks

# Mistakes that change no result: (where, the line, what it becomes, why that is the same)
EQUIVALENT = [
    (
        "Power",
        "(a == 0), 1.0,",
        "(a == 0), 2.0,",
        "whatever x = 0 is raised to, a = 0 is the factor before it",
    ),
    (
        "bias_gradient",
        "sum_(sum_(dy, (2, 3)), 0)",
        "sum_(dy, (2, 3))",
        "the engine adds up what a bias (C,) was broadcast to",
    ),
    ("Conv2d", "(self, dy, weight,", "(self, dy, x,", "it decides whether they are computed at once"),
    (
        "ConvTranspose2d",
        "(self, dy, weight,",
        "(self, dy, x,",
        "it decides whether they are computed at once",
    ),
    ("Linear", "dy.sum(axis=0)", "dy", "the engine adds up what a bias (out,) was broadcast to"),
    ("CrossEntropy", "reshape(-1, 1)", "reshape(-2, 1)", "NumPy takes any negative length for the rest"),
    ("BatchNorm", "if not is_grad_enabled():", "pass", "the formulas say the same as the blocks"),
    ("BatchNorm", "if not self.needs_grad[0]:", "pass", "∂L/∂x is computed, and nobody asks for it"),
    (
        "_in_blocks",
        "multiply, dy, *_broadcast(x, (scale,)), dx",
        "multiply, *_broadcast(x, (scale,)), dy, dx",
        "the factors of a product may change places",
    ),
    ("_in_blocks", "wrap(a.astype(dtype, copy=False))", "wrap(a)", "it is float64; float16 has its own test"),
    ("_in_blocks", "copy=False", "copy=True", "a copy has the same numbers"),
    ("_wide", "a.astype('float32') if", "a if", "it is float64; float16 has its own test"),
    ("_wide", "itemsize < 4", "itemsize <= 4", "float32 is float32 already"),
    ("_wide", "itemsize < 4", "itemsize < 5", "float32 is float32 already"),
    ("expand_axes", "if reduction.keepdims:", "pass", "the reduced axes have length 1 already"),
]


# What can be got wrong

OTHER_OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}


def parse(function: Callable) -> ast.FunctionDef:
    """The syntax tree of a function, without its docstring and annotations."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    tree.returns = None
    for argument in tree.args.args:
        argument.annotation = None
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    return tree


def mistakes(function: ast.FunctionDef) -> Iterator[str]:
    """The source of the function with one mistake in it, for each that can be made."""
    saved = _saved_names(function)
    seen = {ast.unparse(function)}  # two equal gradients exchanged are no mistake
    for parent in list(ast.walk(function)):
        if isinstance(parent, ast.keyword) and parent.arg == "strict":
            continue  # an assertion
        for name, value in ast.iter_fields(parent):
            siblings = value if isinstance(value, list) else [value]
            for i, node in enumerate(siblings):
                for wrong in _wrong(node, saved):
                    changed = [*siblings[:i], wrong, *siblings[i + 1 :]]
                    setattr(parent, name, changed if isinstance(value, list) else wrong)
                    source = ast.unparse(ast.fix_missing_locations(function))
                    if source not in seen:
                        seen.add(source)
                        yield source
            setattr(parent, name, value)


def _saved_names(function: ast.FunctionDef) -> set[str]:
    """The names that the function gives to what forward saved."""
    return {
        name.id
        for statement in function.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.value) == "self.saved"
        for name in ast.walk(statement.targets[0])
        if isinstance(name, ast.Name)
    }


def _wrong(node: Any, saved: set[str]) -> Iterator[ast.AST]:
    """What may stand wrongly in the place of a node."""
    match node:
        case ast.operator() | ast.boolop() | ast.cmpop():
            yield from (other() for other in OTHER_OPERATORS.get(type(node), ()))
        case ast.BinOp():
            yield from (node.left, node.right)
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield ast.Constant(node.value + 1)
        case ast.Name(ctx=ast.Load()) if node.id in saved:
            yield from (ast.Name(other, ast.Load()) for other in sorted(saved - {node.id}))
        case ast.Subscript(ctx=ast.Load()) if not ast.unparse(node.value).endswith(".needs_grad"):
            yield node.value
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Call() if ast.unparse(node.func) != "tuple":
            yield from _wrong_calls(node)
        case ast.Assign() if not isinstance(node.value, ast.Constant | ast.Attribute):
            yield ast.Pass()
            yield from (ast.Assign(node.targets, value, lineno=0) for value in _wrong_values(node.value))
        case ast.AugAssign() | ast.If():
            yield ast.Pass()
        case ast.Return():
            yield from (ast.Return(value) for value in _wrong_returns(node.value))


def _wrong_calls(call: ast.Call) -> Iterator[ast.AST]:
    """f(a, b) → a, f(b, a);   a.f(b) → a"""
    if isinstance(call.func, ast.Attribute):
        yield call.func.value
    elif call.args:
        yield call.args[0]
    for i in range(len(call.args) - 1):
        yield ast.Call(call.func, _exchanged(call.args, i), call.keywords)


def _wrong_returns(value: Any) -> Iterator[Any]:
    """One gradient wrong, or two exchanged."""
    if not isinstance(value, ast.Tuple):
        yield from _wrong_values(value)
        return
    for i, element in enumerate(value.elts):
        for wrong in _wrong_values(element):
            yield ast.Tuple([*value.elts[:i], wrong, *value.elts[i + 1 :]])
        if i:
            yield ast.Tuple(_exchanged(value.elts, i - 1))


def _wrong_values(value: Any) -> Iterator[Any]:
    """e → −e, 2e, 0e;   e if needed else None → the same of e"""
    match value:
        case ast.IfExp():
            yield from (ast.IfExp(value.test, wrong, value.orelse) for wrong in _wrong_values(value.body))
        case ast.Constant() | ast.Starred():
            return
        case _:
            yield ast.UnaryOp(ast.USub(), value)
            yield from (ast.BinOp(ast.Constant(factor), ast.Mult(), value) for factor in (2.0, 0.0))


def _exchanged(nodes: list[Any], i: int) -> list[Any]:
    return [*nodes[:i], nodes[i + 1], nodes[i], *nodes[i + 2 :]]


# Where


@dataclass
class Place:
    """A backward, or a function that it calls for help: where it stands, and the rows that go through it."""

    owner: Any  # the class or the module
    attribute: str
    rows: list[Operation] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.owner.__name__ if self.attribute == "backward" else self.attribute

    @property
    def right(self) -> Any:
        return vars(self.owner)[self.attribute]

    @contextlib.contextmanager
    def replaced(self, function: Callable) -> Iterator[None]:
        right = self.right
        setattr(self.owner, self.attribute, function)
        try:
            yield
        finally:
            setattr(self.owner, self.attribute, right)


def places() -> list[Place]:
    """Every backward in minidl/functional, and the functions beside it that help it and are no operations."""
    found = []
    for info in pkgutil.iter_modules(minidl.functional.__path__, "minidl.functional."):
        module = importlib.import_module(info.name)
        own = [v for v in vars(module).values() if getattr(v, "__module__", None) == module.__name__]
        classes = [
            v for v in own if isinstance(v, type) and issubclass(v, Function) and "backward" in vars(v)
        ]
        code, helpers = [cls.backward.__code__ for cls in classes], []
        for caller in code:  # helpers have helpers
            for name in sorted(_names(caller)):
                function = vars(module).get(name)
                helps = isinstance(function, types.FunctionType) and function in own
                if helps and function not in helpers and name not in minidl.functional.__all__:
                    helpers.append(function)
                    code.append(function.__code__)
        found += [Place(cls, "backward") for cls in classes]
        found += [Place(module, function.__name__) for function in helpers]
    return found


def _names(code: types.CodeType) -> set[str]:
    """What the code calls by name, and the functions within it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def find_rows(found: list[Place]) -> None:
    """Note for each place the rows whose first or second gradient goes through it."""
    for row in OPERATIONS.values():
        if not row.differentiable:
            continue
        with contextlib.ExitStack() as stack:
            for place in found:
                stack.enter_context(place.replaced(_noting(place, row)))
            for sample in row.listed():
                checks.check(row, sample, "projection")


def _noting(place: Place, row: Operation) -> Callable:
    right = place.right

    def noting(*args: Any) -> Any:
        if row not in place.rows:
            place.rows.append(row)
        return right(*args)

    return noting


# Whether it is noticed


def plant(place: Place, source: str) -> Callable:
    """The function that the source defines, with the globals of the right one."""
    defined: dict[str, Any] = {}
    exec(compile(source, f"<{place.name} with a mistake>", "exec"), place.right.__globals__, defined)
    return defined[place.right.__name__]


def ending(place: Place, source: str) -> str:
    """What the checks say to this mistake: "wrong" numbers, an "error", or "" if they pass."""
    with place.replaced(plant(place, source)):
        try:
            for row in place.rows:
                for sample in row.listed():
                    checks.check(row, sample)
                for kink in row.kinks:
                    checks.check_kink(row, kink)
        except AssertionError:
            return "wrong"
        except Exception:
            return "error"
    return ""


def change(right: str, wrong: str) -> tuple[str, str]:
    """The first line that differs, in both."""
    lines = zip(right.splitlines(), [*wrong.splitlines(), ""], strict=False)
    return next((a.strip(), b.strip()) for a, b in lines if a != b)


def main(names: list[str]) -> int:
    warnings.simplefilter("error")  # as pytest does
    start, total = time.perf_counter(), Counter[str]()
    found = [place for place in places() if not names or place.name in names]
    find_rows(found)
    print(f"{'':<18}planted  wrong numbers  an error  survived  (the same)")
    for place in found:
        counts, survivors = try_mistakes(place)
        show(place.name, counts)
        for line, mistaken in survivors:
            print(f"    survived: {line}\n           →  {mistaken}")
        total += counts
    show("all", total)
    noticed = total["wrong"] + total["error"]
    print(f"{noticed} of {noticed + total['']} mistakes noticed, in {time.perf_counter() - start:.0f} s")
    return int(total[""] > 0)


def try_mistakes(place: Place) -> tuple[Counter[str], list[tuple[str, str]]]:
    """How many mistakes ended how, and the lines of those that survived."""
    counts, survivors = Counter[str](), []
    same = [(a, b) for name, a, b, _ in EQUIVALENT if name == place.name]
    function = parse(place.right)
    right = ast.unparse(function)
    for wrong in mistakes(function):
        line, mistaken = change(right, wrong)
        if any(line.replace(a, b) == mistaken for a, b in same if a in line):
            counts["same"] += 1
            continue
        end = ending(place, wrong)
        counts[end] += 1
        if not end:
            survivors.append((line, mistaken))
    assert counts["same"] == len(same), f"EQUIVALENT lists mistakes that are not made in {place.name}"
    return counts, survivors


def show(name: str, counts: Counter[str]) -> None:
    planted = counts["wrong"] + counts["error"] + counts[""]
    row = f"{name:<18}{planted:>7}{counts['wrong']:>15}{counts['error']:>10}{counts['']:>10}"
    print(row + (f"{counts['same']:>12}" if counts["same"] else ""), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
