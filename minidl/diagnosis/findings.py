"""What a gradient check found, in words and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from minidl.words import escape

# Where an error stands in the course notes of Stanford's CS231n ("Gradient checks"): up to here, this.
CS231N = (
    (1e-7, "be happy"),
    (1e-4, "fine where f has kinks, look closer where it has none"),
    (1e-2, "uncomfortable"),
    (float("inf"), "probably wrong"),
)
KINK_TOL = 1e-4  # the relative error up to which a derivative near a kink is right


def standing(error: float) -> str:
    """What CS231n says of a relative error."""
    return next(words for limit, words in CS231N if error <= limit)


@dataclass
class InputCheck:
    """What was found for one input, or one parameter, and one order of derivative."""

    name: str
    order: int
    tried: int = 0  # elements, or directions
    wrong: int = 0
    finer: int = 0  # tried with a smaller step because of kinks, and right
    left_out: list[int] = field(default_factory=list)  # at a kink: f has no derivative to compare with
    noise: int = 0  # zero both times, but for rounding: right
    beside_kink: int = 0  # of the wrong ones: at a kink, and the slope of neither side
    error: float = 0.0  # the largest relative error of the others
    where: str = ""  # of that error
    analytic: float = 0.0
    numeric: float = 0.0
    cause: str = ""

    @property
    def kinks(self) -> int:
        """How many met a kink of f, or came nearer to one than the step."""
        return self.finer + len(self.left_out)

    @property
    def title(self) -> str:
        return self.name if self.order == 1 else f"{self.name}, second derivative"

    @property
    def ratio(self) -> str:
        return f"{self.analytic / self.numeric:.6g}" if self.numeric else "∞"

    def __str__(self) -> str:
        findings = []
        if self.wrong:
            findings.append(
                f"{self.wrong} of {self.tried} wrong, the worst {self.where}: analytic {self.analytic:.10g}, "
                f"numerical {self.numeric:.10g}, ratio {self.ratio}, relative error {self.error:.2e}"
            )
        if self.finer:
            findings.append(f"{self.finer} of {self.tried} tried with a smaller step, because of kinks")
        if self.left_out:
            findings.append(
                f"{len(self.left_out)} of {self.tried} at a kink, where f has no derivative: not counted"
            )
        if self.noise:
            findings.append(f"{self.noise} of {self.tried} zero but for rounding: right")
        text = f"{self.title}: {'; '.join(findings) or 'right'}"
        return text + (f"\n    likely cause: {self.cause}" if self.cause else "")


@dataclass
class GradcheckResult:
    """True if the gradients are right; printed, it says what was found. A notebook shows it as a table."""

    tol: float
    checks: list[InputCheck] = field(default_factory=list)
    problem: str = ""  # why the comparison could not be made or trusted
    seconds: float = 0.0

    @property
    def error(self) -> float:
        """The largest relative error."""
        return max((check.error for check in self.checks), default=0.0)

    @property
    def standing(self) -> str:
        """What CS231n says of the largest relative error."""
        return standing(self.error)

    @property
    def compared(self) -> int:
        """How many derivatives could be compared."""
        return sum(check.tried - len(check.left_out) for check in self.checks)

    def __bool__(self) -> bool:
        blind = not self.compared and any(check.tried for check in self.checks)
        return not self.problem and not blind and not any(check.wrong for check in self.checks)

    @property
    def headline(self) -> str:
        if not self.compared and not self:
            return "gradcheck FAILED: nothing could be compared"
        tried, noise = (sum(getattr(check, count) for check in self.checks) for count in ("tried", "noise"))
        if not self.problem and not tried:
            return "gradcheck passed: the inputs hold no numbers, nothing was compared"
        if not self.problem and noise == self.compared:
            return f"gradcheck passed: {noise} of {tried} derivatives tried are zero but for rounding"
        return (
            f"gradcheck {'passed' if self else 'FAILED'}: largest relative error {self.error:.2e} "
            f"(CS231n: {self.standing}), tolerance {self.tol:.0e}"
            f"{f', near kinks {KINK_TOL:.0e}' if any(check.finer for check in self.checks) else ''}; "
            f"{tried} derivatives tried in {self.seconds:.2f} s"
        )

    def __str__(self) -> str:
        lines = [self.headline]
        lines += [self.problem] if self.problem else []
        special: list[InputCheck] = []
        for check in self.checks:
            if check.wrong:
                lines.append(str(check))
            elif check.kinks or check.noise:
                special.append(check)
        if len(special) > 3:  # a network: one line for all its parameters
            together = InputCheck(f"{len(special)} inputs and parameters", 1)
            for check in special:
                together.tried += check.tried
                together.finer += check.finer
                together.left_out += check.left_out
                together.noise += check.noise
            special = [together]
        return "\n  ".join([*lines, *map(str, special)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A line for each input and parameter; under a wrong one its worst element and the cause."""
        heads = ("", "tried", "wrong", "near a kink", "relative error")
        rows = [_row(heads, "color:#888")]
        for check in self.checks:
            cells = (check.title, check.tried, check.wrong or "–", check.kinks or "–", f"{check.error:.1e}")
            rows.append(_row(cells, f"color:{WRONG}" if check.wrong else ""))
            if check.wrong or check.noise:
                rows += [_line(line) for line in str(check).partition(": ")[2].splitlines()]
        problem = f"<p>{escape(self.problem)}</p>" if self.problem else ""
        table = f'<table style="border-collapse:collapse">{"".join(rows)}</table>' if self.checks else ""
        return (
            f'<div><p style="color:{RIGHT if self else WRONG}"><b>{escape(self.headline)}</b></p>'
            f"{problem}{table}</div>"
        )


RIGHT, WRONG = "#2f7d4a", "#c0392b"
CELL = "padding:.2em 1.2em .2em 0;text-align:left;vertical-align:top;background:none"


def _row(cells: Iterable[object], style: str) -> str:
    inside = "".join(f'<td style="{CELL}">{escape(str(cell))}</td>' for cell in cells)
    return f'<tr style="{style};background:none">{inside}</tr>'


def _line(text: str) -> str:
    return f'<tr style="background:none"><td colspan="5" style="{CELL}">{escape(text.strip())}</td></tr>'
