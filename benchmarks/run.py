"""Runs every benchmark, one after the other, and keeps what it printed.

Each script prints one JSON value to stdout. The results go to ``benchmarks/results/NAME.json`` with commit, machine
and date; ``docs/performance.md`` quotes them. Usage: ``python benchmarks/run.py [NAME …] [-- ARGUMENT …]``; the arguments
are passed on. Default: all but ``peers``, which fetches other stream processors, ``load_traces``, which needs
a folder of traces and fetches other forecasts, and ``nab_…``, which need the Numenta benchmark's folder.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
NEEDS_MORE = {"peers", "load_traces", "nab_reference", "nab_robustness"}
"""Only run when named."""


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import psutil

    info = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip()
        for line in info.read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit measured, with ``+`` if the tree had changes."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--", "../src"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def main(words: list[str]) -> int:
    at = words.index("--") if "--" in words else len(words)
    names, arguments = words[:at], words[at + 1 :]
    scripts = {
        script.stem: script
        for folder in ("micro", "pipeline", "models", "peers")
        for script in (ROOT / folder).glob("*.py")
    }
    unknown = [name for name in names if name not in scripts]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(sorted(scripts))}", file=sys.stderr)
        return 2
    failed = 0
    for name in names or sorted(scripts.keys() - NEEDS_MORE):
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, str(scripts[name]), *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        if run.returncode != 0:
            print(f"{name} failed with exit code {run.returncode}", file=sys.stderr)
            failed += 1
            continue
        record = {
            "benchmark": name,
            "commit": commit(),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "result": json.loads(run.stdout),
        }
        text = json.dumps(record, indent=2)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")
        print(text)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
