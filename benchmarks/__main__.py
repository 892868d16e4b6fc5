"""python -m benchmarks [NAME ...] [--quick] [--batch N] [--repetitions N] [--json FILE] [--plot FILE]"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import minidl
from benchmarks import (
    convolution,
    engine,
    finetuning,
    gpu,
    layers,
    memory,
    networks,
    optimizer,
    scaling,
)
from benchmarks.compare import Series, Timing, print_table
from benchmarks.plot import draw
from minidl.backend.compiled import numba

SECTIONS: dict[str, tuple[str, Callable[[int, int, bool], dict[str, Any]]]] = {
    "engine": ("The engine", engine.run),
    "convolutions": ("Convolutions", convolution.run),
    "layers": ("Other layers", layers.run),
    "forward": ("VGG16 forward", networks.forward),
    "training": ("VGG16 training", networks.training),
    "frozen": ("VGG16, frozen convolutions", networks.frozen),
    "small-cnn": ("A small network", networks.small_cnn),
    "small-networks": ("Other small networks", networks.small_networks),
    "optimizer": ("The optimizer", optimizer.run),
    "memory": ("Peak memory", memory.run),
    "finetuning": ("Fine-tuning, the whole job", finetuning.run),
    "gpu": ("On the GPU", gpu.run),
    "scaling-depth": ("Scaling with the depth of the graph", scaling.depth),
    "scaling-batch": ("Scaling with the size of the batch", scaling.batch),
    "scaling-size": ("Scaling with the size of the pictures", scaling.size),
    "scaling-data": ("Scaling with the number of pictures", scaling.data),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="does it work: small sizes, one repetition")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the results to those in FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, and what FILE has")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(SECTIONS)):
        parser.error(f"no section called {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    batch, repetitions = (2, 1) if arguments.quick else (arguments.batch, arguments.repetitions)

    machine = describe_machine() | (gpu.describe() if "gpu" in (arguments.names or SECTIONS) else {})
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    if arguments.quick:
        print("--quick: other, small networks, timed once, to see that it works. These ratios mean nothing.")
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.names or SECTIONS:
        title, run = SECTIONS[name]
        results[title] = run(batch, repetitions, arguments.quick)
        if arguments.quick:
            results[title] = {name: _without_aim(row) for name, row in results[title].items()}
        print_table(title, results[title])
    if arguments.json:
        results = {**load(arguments.json), **results}
        results = {title: results[title] for title, _ in SECTIONS.values() if title in results}
        save(results, machine, arguments.json)
    if arguments.plot:
        draw(results, arguments.plot)


def _without_aim(row: Any) -> Any:
    return replace(row, aim=None) if isinstance(row, Timing) else row


def describe_machine() -> dict[str, str]:
    import numpy
    import torch

    torch.set_num_threads(minidl.get_num_threads())
    compiler = numba()
    return {
        "CPU": _cpu(),
        "OpenBLAS code for": _blas(),
        "threads": str(minidl.get_num_threads()),
        "Python": platform.python_version(),
        "NumPy": numpy.__version__,
        "PyTorch": torch.__version__,
        "Numba": compiler.__version__ if compiler else "none",
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.split(":") for line in info.read_text().splitlines() if ":" in line]
        facts = {name.strip(): value.strip() for name, value in lines}
        if "model name" in facts:
            family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
            return f"{os.cpu_count()} × {facts['model name']} {family}"
    return platform.processor() or platform.machine()


def _blas() -> str:
    """Which processor OpenBLAS takes this one for: an old one's code can take twice as long."""
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").info()
    names = {library.get("architecture", "?") for library in libraries if "numpy" in library["filepath"]}
    told = " (OPENBLAS_CORETYPE says so: unset it to compare)" if "OPENBLAS_CORETYPE" in os.environ else ""
    return "/".join(sorted(names)) + told


def save(results: dict[str, dict[str, Any]], machine: dict[str, str], path: Path) -> None:
    tables = {
        title: {name: row if isinstance(row, str) else asdict(row) for name, row in table.items()}
        for title, table in results.items()
    }
    text = json.dumps({"machine": machine, "results": tables}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, dict[str, Any]]:
    """What `save` wrote, or nothing."""
    if not path.exists():
        return {}

    def row(values: Any) -> Any:
        if isinstance(values, str):
            return values
        return Series(**values) if "sizes" in values else Timing(**values)

    tables = json.loads(path.read_text(encoding="utf-8"))["results"]
    return {title: {name: row(values) for name, values in table.items()} for title, table in tables.items()}


if __name__ == "__main__":
    main()
