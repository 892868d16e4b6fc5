"""The formulas in the docstrings of Functions, read as data: the one place where the maths is written down.

A docstring begins with the value and goes on with the chain rule for each input, four spaces or a line apart:

    z = x · y        ∂L/∂x = ∂L/∂z · y        ∂L/∂y = ∂L/∂z · x

`explain` and `draw` show these with the names and the numbers of a real graph in the place of x, y and z.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minidl.autograd import Function

LETTERS = {"w": "weight", "γ": "weight", "b": "bias", "β": "bias"}  # of inputs with longer names in forward
EXPONENTS = {"ᵃ": "a", "ˣ": "x"}
_GRADIENT = re.compile(r"∂L/∂(\S+) = (.+?)(?=\s{4,}|$)", re.MULTILINE)
_LETTER = re.compile(  # a whole set of indices, a gradient, a letter that stands alone and wears no hat
    r"\{[^}]*\}|∂L/∂([A-Za-zℓγβ])(?![A-Za-z])|(?<![A-Za-zℓ_])([A-Za-zℓγβ])(?![A-Za-z\u0300-\u036f])"
)
_ARITHMETIC = re.compile(r"(?:∂L/∂[A-Za-zℓ]|[A-Za-zℓ](?![A-Za-z])|[\d ·/()+−²])+")


@dataclass(frozen=True)
class Formula:
    """What a Function computes and how its gradients arise, in the letters of its docstring."""

    value: str  # "z = x · y"; "" if the docstring has none
    output: str  # "z"
    gradients: tuple[str, ...]  # for each input of forward, "∂L/∂z · y"; "" where there is none
    letters: tuple[str, ...]  # for each input, "x"
    variadic: bool = False  # one formula for any number of inputs

    def letter(self, i: int) -> str:
        """The letter of input i."""
        return self.letters[0 if self.variadic else i] if self.letters else ""

    def gradient(self, i: int) -> str:
        """∂L/∂ of input i, the right side of the equation; "" if the docstring does not say."""
        return self.gradients[0 if self.variadic else i] if self.gradients else ""


def formula_of(kind: type[Function]) -> Formula:
    """The formula of a kind of Function. One without a formula in its docstring has empty texts."""
    return _parse(kind.__doc__ or "", tuple(kind._inputs))


@functools.cache
def _parse(doc: str, inputs: tuple[str, ...]) -> Formula:
    value = re.split(r"\s{3,}\(|,\s{3,}|∂L/∂", doc.partition("\n")[0])[0].strip()
    output = re.match(r"([A-Za-zℓ])[^=]* = ", value)
    gradients: dict[str, str] = {}
    letters: dict[str, str] = {}
    for symbol, text in _GRADIENT.findall(doc):
        name = _input_called(symbol, inputs)
        gradients.setdefault(name, text.strip())
        letters.setdefault(name, symbol.rstrip("ᵢⱼₙ"))
    names = inputs or list(gradients)[:1]  # forward(self, *xs) has no names
    return Formula(
        value if output else "",
        output[1] if output else "",
        tuple(gradients.get(name, "") for name in names),
        tuple(letters.get(name, name) for name in names),
        variadic=not inputs,
    )


def _input_called(symbol: str, inputs: Sequence[str]) -> str:
    """The input that a formula calls `symbol`: "w" and "W" mean weight, "xᵢ" and "X" mean x."""
    candidates = (symbol, symbol.lower(), LETTERS.get(symbol.lower(), ""), symbol[0])
    return next((name for name in candidates if name in inputs), symbol)


def rewrite(text: str, names: Mapping[str, str], loss: str) -> tuple[str, str]:
    """A formula with `names` in the place of its letters: "∂L/∂z · y" becomes "∂f/∂f · b".

    There are no raised names, so a letter that is also an exponent stays. The second text tells what such
    letters mean, "where a is 2", or is empty.
    """
    raised = {letter for sign, letter in EXPONENTS.items() if sign in text and names.get(letter) != letter}

    def put(match: re.Match[str]) -> str:
        gradient, letter = match.groups()
        if gradient:
            return f"∂{loss}/∂{names.get(gradient, gradient)}"
        return match[0] if letter is None or letter in raised else names.get(letter, letter)

    told = [f"{letter} is {name}" for letter, name in names.items() if letter in raised]
    return _LETTER.sub(put, text), f"where {' and '.join(told)}" if told else ""


def calculate(text: str, numbers: Mapping[str, str], arriving: str) -> str:
    """A formula with numbers in the place of its letters, "1 · (−4)"; "" if it is more than arithmetic.

    Args:
        numbers: of the inputs and of the output, by letter.
        arriving: the number of ∂L/∂output.
    """
    if not _ARITHMETIC.fullmatch(text) or any(m[2] and m[2] not in numbers for m in _LETTER.finditer(text)):
        return ""

    def put(match: re.Match[str]) -> str:
        number = numbers[match[2]] if match[2] else arriving
        if number.startswith("−") and match.start() > 0:
            number = f"({number})"
        return f"·{number}" if text[match.start() - 1 : match.start()].isdigit() else number

    return _LETTER.sub(put, text)
