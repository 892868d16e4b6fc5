"""Causes that are slips in a formula: a factor or a term is missing, or a value was taken for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from minidl.diagnosis.evidence import Evidence

ENOUGH = 4  # elements: with fewer, some formula fits anything

# What stands in the derivatives of common functions of a number z.
EXPRESSIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "{z}": lambda z: z,
    "{z}²": lambda z: z**2,
    "{z}³": lambda z: z**3,
    "|{z}|": abs,
    "√{z}": np.sqrt,
    "(1 − {z})": lambda z: 1 - z,
    "(1 + {z})": lambda z: 1 + z,
    "(1 + |{z}|)": lambda z: 1 + abs(z),
    "(1 + |{z}|)²": lambda z: (1 + abs(z)) ** 2,
    "(1 − {z}²)": lambda z: 1 - z**2,
    "(1 + {z}²)": lambda z: 1 + z**2,
    "{z}·(1 − {z})": lambda z: z * (1 - z),
    "exp {z}": np.exp,
    "log {z}": np.log,
    "sin {z}": np.sin,
    "cos {z}": np.cos,
    "tanh {z}": np.tanh,
    "(1 − tanh² {z})": lambda z: 1 - np.tanh(z) ** 2,
    "σ({inside})": lambda z: 1 / (1 + np.exp(-z)),
    "σ({inside})·(1 − σ({inside}))": lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
    "{z}·σ({inside})·(1 − σ({inside}))": lambda z: z * np.exp(-z) / (1 + np.exp(-z)) ** 2,
    "{z}·exp {z}": lambda z: z * np.exp(z),
    "{z}·sin {z}": lambda z: z * np.sin(z),
    "{z}·cos {z}": lambda z: z * np.cos(z),
}


def both_formulas(e: Evidence) -> str:
    """What backward computes is known, and what it should."""
    if not (e.elementwise and len(e.places) >= ENOUGH):
        return ""
    dy = e.dy.ravel()[e.places]
    right, wrong = _formula(e, e.n, dy), _formula(e, e.a, dy)
    return _legend(e, f"it is {wrong}, and should be {right}") if right and wrong else ""


def _formula(e: Evidence, gradient: np.ndarray, dy: np.ndarray) -> str:
    """The gradient as dy times a number times an expression, or divided by it."""
    for name, value in [("", np.ones_like(dy)), *_expressions(e)]:
        times = _number(gradient, dy * value)
        if e.equal(times * dy * value, gradient):
            return _product(times, "dy", name)
        times = _number(gradient, dy / value)
        if e.equal(times * dy / value, gradient):
            return f"{_product(times, 'dy')} / {name}"
    return ""


def factor(e: Evidence) -> str:
    """The wrong gradient and the right one differ by a factor that depends on the input or the output."""
    if len(e.places) < ENOUGH or np.count_nonzero(e.n) < ENOUGH:
        return ""
    for name, value in _expressions(e):
        times = _number(e.n, e.a * value)
        if e.equal(times * e.a * value, e.n):
            text = f"it is the right one divided by {_product(times, name)}: is that factor missing?"
            return _legend(e, text)
        times = _number(e.a, e.n * value)
        if e.equal(times * e.n * value, e.a):
            ask = "is that too much, or a division by it missing?"
            if name.endswith("²") and name[:-1] in _values(e):
                ask = f"does it multiply by {name[:-1]} instead of dividing?"
            return _legend(e, f"it is the right one times {_product(times, name)}: {ask}")
    return ""


def term(e: Evidence) -> str:
    """What is missing is dy times a number, or times something that depends on the input or the output."""
    if len(e.places) < ENOUGH or not (e.dy.size == 1 or e.y.shape == e.shape):
        return ""
    dy, missing = np.broadcast_to(e.dy, e.shape).ravel()[e.places], e.n - e.a
    for name, value in [("", np.ones(len(e.places))), *_expressions(e)]:
        times = _number(missing, dy * value)
        if e.equal(times * dy * value, missing):
            return _legend(e, f"the term {_product(times, 'dy', name)} is missing")
    if e.dy.size == 1 and 2 <= e.wrong.sum() <= len(dy) // 2:  # softmax − onehot without the onehot
        times = _number(missing[e.wrong], dy[e.wrong])
        if e.equal(times * dy[e.wrong], missing[e.wrong]):
            text = _product(times, "dy")
            return f"the term {text} is missing at {e.wrong.sum()} elements, and it is right elsewhere"
    return ""


def same_along_an_axis(e: Evidence) -> str:
    """What is missing, or is too much, is the same all along an axis: a sum or a mean over it is."""
    if not e.whole or e.leaf.numel() < ENOUGH or np.count_nonzero(e.n) < ENOUGH:
        return ""
    a, missing = e.a.reshape(e.shape), (e.n - e.a).reshape(e.shape)
    one, x = np.ones(e.shape), e.x.reshape(e.shape)
    parts = {"a number": [one], "x times a number": [x]}
    if e.y.shape == e.shape:
        parts |= {"y times a number": [e.y], "a number plus y times another": [one, e.y]}
    for axis, length in enumerate(e.shape):
        for name, basis in parts.items():
            if length > len(basis) + 1 and _spanned(e, missing, basis, axis):
                return (
                    f"what is missing is {name}, the same all along axis {axis}: "
                    "is a sum or mean over that axis forgotten, or taken over another?"
                )
        if length > 2 and _spanned(e, a, [e.n.reshape(e.shape)], axis):
            return (
                f"it is the right one times a number that is the same all along axis {axis}: "
                "is it to be divided by a sum or mean over that axis, or not to be?"
            )
    return ""


def _spanned(e: Evidence, wanted: np.ndarray, basis: list[np.ndarray], axis: int) -> bool:
    """Whether along the axis w = c₀ b₀ + c₁ b₁ for the wanted w, with numbers c for each line."""
    lines = np.moveaxis(wanted, axis, -1).reshape(-1, wanted.shape[axis])
    columns = np.stack([np.moveaxis(b, axis, -1).reshape(lines.shape) for b in basis], axis=-1)
    fitted = columns @ (np.linalg.pinv(columns) @ lines[..., None])
    return e.equal(fitted[..., 0], lines)


def _expressions(e: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    for text, function in EXPRESSIONS.items():
        for z, value in _values(e).items():
            found = function(value)
            if np.isfinite(found).all() and found.all() and np.ptp(found) > 1e-6 * abs(found).max():
                yield text.format(z=z, inside=z.strip("()")), found


def _values(e: Evidence) -> dict[str, np.ndarray]:
    """What a formula is made of: the output, the input, the other inputs, and their products with x."""
    values = {"y": e.y.ravel()[e.places]} if e.y.shape == e.shape else {}
    values["x"] = e.x
    for letter, name in _letters(e).items():
        values[letter] = np.broadcast_to(e.check.leaves[name].numpy(), e.shape).ravel()[e.places]
        values[f"(x{letter})"] = e.x * values[letter]
    return values


def _letters(e: Evidence) -> dict[str, str]:
    """A letter for each of the first other inputs that can be broadcast to the shape of x."""
    names = (name for name, leaf in e.check.leaves.items() if name != e.name and _fits(leaf.shape, e.shape))
    return dict(zip(("z", "z₂"), names, strict=False))


def _fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, into) == into
    except ValueError:
        return False


def _legend(e: Evidence, text: str) -> str:
    """Which inputs the letters are, where there are several."""
    if len(e.check.leaves) == 1:
        return text
    used = {"x": e.name} | {letter: name for letter, name in _letters(e).items() if letter in text}
    return f"{text} ({', '.join(f'{letter} is {name}' for letter, name in used.items())})"


def _number(wanted: np.ndarray, given: np.ndarray) -> float:
    """The c for which c · given is nearest to what is wanted."""
    square = float((given * given).sum())
    return float((wanted * given).sum()) / square if square else 0.0


def _product(number: float, *factors: str) -> str:
    numbers = [] if np.isclose(number, 1.0, rtol=1e-5) else [f"{number:.5g}".replace("-", "−")]
    if np.isclose(number, -1.0, rtol=1e-5):
        return "−" + _product(1.0, *factors)
    return "·".join([*numbers, *filter(None, factors)])


FORMULA: tuple[Callable[[Evidence], str], ...] = (both_formulas, same_along_an_axis, term, factor)
