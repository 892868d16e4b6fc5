"""python -m benchmarks [--quick] [--batch N] [--repetitions N] [--json FILE]"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

import numpy
import torch

import minidl
from benchmarks import convolution, vgg16
from benchmarks.compare import print_table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it work: small sizes, one repetition")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    batch, repetitions = (2, 1) if arguments.quick else (arguments.batch, arguments.repetitions)

    torch.set_num_threads(minidl.get_num_threads())
    where = f"NumPy {numpy.__version__}, PyTorch {torch.__version__}, {minidl.get_num_threads()} threads"
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {where}")
    results = {}
    for title, module in (("3×3 convolutions", convolution), ("VGG16", vgg16)):
        results[title] = module.run(batch, repetitions, arguments.quick)
        print_table(title, results[title])
    if arguments.json:
        rows = {t: {name: asdict(timing) for name, timing in table.items()} for t, table in results.items()}
        arguments.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


main()
