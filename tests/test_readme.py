"""What the README says of the repository is so: the files it names, their lengths, the commands."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import textwrap
from pathlib import Path

import mutation
import pytest

from minidl.check_operations import UNCHECKED
from minidl.cli import _parser
from minidl.operations import OPERATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE_SPANS = re.findall(r"`([^`\n]+)`", README)
LINKS = re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", README)
FILE = re.compile(r"(?:[\w-]+/)*[\w.-]+\.(?:py|md|cfg|toml)")  # pictures and weights are the reader's own
COMMANDS = next(a.choices for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))


def named_files() -> list[str]:
    """The source files in code spans, and the targets of all relative links."""
    spans = {span for span in CODE_SPANS if FILE.fullmatch(span)}
    return sorted(spans | {link.split("#")[0] for link in LINKS})


def table_under(heading: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table under a heading."""
    section = README.partition(heading)[2].partition("\n##")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in row] for row in table]
    return header, rows


def reading_guide() -> list[tuple[str, int]]:
    """(file, lines) of each row of the table under "Read the source"."""
    header, rows = table_under("\n## Read the source\n")
    assert header == ["file", "lines", "what"]
    return [(FILE.search(file)[0], int(lines)) for file, lines, _ in rows]


def command_lines() -> list[str]:
    """What stands behind each `minidl`, in indented blocks and in code spans."""
    blocks = re.findall(r"^    (.*)", README, re.MULTILINE)
    parts = [part.strip() for line in blocks + CODE_SPANS for part in line.split("&&")]
    return sorted({part.removeprefix("minidl ") for part in parts if part.startswith("minidl ")})


def snippets() -> list[tuple[str, str]]:
    """(Python, what the page says it prints: in a comment, or in the indented block that comes after it)"""
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```$(.*?)(?=^```|^#)", README, re.MULTILINE | re.DOTALL):
        code, rest = match.groups()
        comment = re.search(r"^print\(.*\)   # (-?\d.*)", code, re.MULTILINE)
        block = re.search(r"(?:^(?:    .*)?\n)+", rest.lstrip("\n"), re.MULTILINE)
        shown = comment[1] if comment else textwrap.dedent(block[0]) if block else ""
        found.append((code, shown.strip()))
    return found


def test_every_file_exists():
    assert "CONTRIBUTING.md" in named_files()
    assert [name for name in named_files() if not (ROOT / name).exists()] == []


def test_the_reading_guide_counts_right():
    guide = reading_guide()
    assert len(guide) == 10
    assert guide == [(name, len((ROOT / name).read_bytes().splitlines())) for name, _ in guide]


def test_the_engine_is_read_in_one_sitting():
    lines = dict(reading_guide())
    assert lines["minidl/tensor.py"] + lines["minidl/autograd.py"] <= 400


def test_the_table_of_gradients_is_complete():
    header, rows = table_under("\n### Every gradient, checked\n")
    assert header == ["operation", "cases", "gradient", "its gradient"]
    differentiable = {name for name, row in OPERATIONS.items() if row.differentiable}
    assert {name.strip("`") for name, *_ in rows} == differentiable - set(UNCHECKED)
    for name, cases, *errors in rows:
        assert int(cases) == len(OPERATIONS[name.strip("`")].listed())
        assert all(float(error) <= 1e-6 for error in errors)
    summary = re.search(r"<summary>(\d+) operations, (\d+) samples, no error above (.*)</summary>", README)
    largest = max(float(error) for _, _, *errors in rows for error in errors)
    found = len(rows), sum(int(cases) for _, cases, *_ in rows), largest
    assert (int(summary[1]), int(summary[2]), float(summary[3])) == found


def test_the_number_of_planted_mistakes():
    planted = sum(1 for place in mutation.places() for _ in mutation.mistakes(mutation.parse(place.right)))
    assert f"plants {planted - len(mutation.EQUIVALENT)} mistakes" in README


CHEAP = [(code, shown) for code, shown in snippets() if "vgg16" not in code]


def test_most_snippets_are_run():
    assert len(CHEAP) == README.count("```python") - 2
    assert [bool(shown) for _, shown in CHEAP] == [True, False, True, True]


@pytest.mark.parametrize(("code", "shown"), CHEAP)
def test_a_snippet_prints_what_is_shown(code, shown, tmp_path, capsys):
    """Word for word, but for the time that it took; the beginning and the end may be left out."""
    file = tmp_path / "circuit.py"
    file.write_text(code, encoding="utf-8")
    runpy.run_path(str(file))
    shown, printed = (re.sub(r"in \d+\.\d\d s", "in … s", text) for text in (shown, capsys.readouterr().out))
    assert f"\n{shown}\n" in f"\n{printed}\n"


def test_the_main_commands_are_shown():
    shown = {line.split()[0] for line in command_lines()}
    assert {
        "demo",
        "finetune",
        "train",
        "predict",
        "evaluate",
        "submission",
        "download",
        "gradcheck",
    } <= shown


@pytest.mark.parametrize("line", command_lines())
def test_every_command_parses(line):
    name, *arguments = shlex.split(line, comments=True)
    assert name in COMMANDS
    if arguments:  # a name alone is prose
        assert callable(_parser().parse_args([name, *arguments]).command)


def test_every_option_exists():
    """Also those that the text names without their command."""
    named = {word for span in CODE_SPANS for word in re.findall(r"(?<!\S)--[a-z-]+", span)}
    known = {option for command in COMMANDS.values() for option in command._option_string_actions}
    assert named - known == set()
