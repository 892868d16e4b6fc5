"""Work in a process of its own: how long it takes, and how much memory at most."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def alone(module: str, function: str, *arguments: Any) -> dict[str, Any]:
    """{"result", "seconds", "peak"} of a call of benchmarks.`module`.`function`; the peak in MB."""
    call = [sys.executable, "-m", "benchmarks.alone", module, function, json.dumps(arguments)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(f"{module}.{function}{arguments} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> float:
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss this forgets what the parent had before the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    module, function, arguments = sys.argv[1:]
    called = getattr(__import__(f"benchmarks.{module}", fromlist=[function]), function)
    start = time.perf_counter()
    result = called(*json.loads(arguments))
    seconds = time.perf_counter() - start
    print(json.dumps({"result": result, "seconds": seconds, "peak": peak_memory()}))


if __name__ == "__main__":
    main()
