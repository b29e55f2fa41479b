"""Measure how fast Kamon works on this machine. Takes about a minute; close other programs."""

from __future__ import annotations

from kamon.cli.output import print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json


def add_arguments(parser: Parser) -> None:
    options(parser, {"--seconds S": "to spend on each figure (0.5)"}, seconds=0.5)
    add_json(parser)


def run(args: Args) -> None:
    import os
    import platform

    from kamon.benchmark import measure
    from kamon.errors import ConfigError
    from kamon.native import library

    if not 0 <= args.seconds <= 3600:
        raise ConfigError(f"seconds must be from 0 to 3600, not {args.seconds}")
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "instructions": "" if library.why_not() else library.best_level(),
        "python": platform.python_version(),
    }
    if args.json:
        print_json({"machine": machine, "figures": list(measure(args.seconds))})
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for row in measure(args.seconds):
        more = ""
        if "ratio" in row:
            more = f"{row['ratio']:,.0f} times the scalar engine"
        if "share_of_peak" in row:
            more = f"{row['gflops']:.1f} GFLOP/s, {row['share_of_peak']:.0%} of the peak"
        if "speedup" in row:
            more += f", {row['speedup']:.2f} times one thread"
        if "ratio_to_bare" in row:
            more = f"{row['ratio_to_bare']:.2f} times the bare interpreter"
        if "ratio_to_click" in row:
            more += f", {row['ratio_to_click']:.2f} times `import click`"
        print(
            f"{row['what']:48} {row['value']:14,.2f} {row['unit']:14} {more}".rstrip(), flush=True
        )


def processor() -> str:
    import platform
    from pathlib import Path

    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
