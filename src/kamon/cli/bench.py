"""Measure how fast Kamon is on this machine.

Takes about a minute. Close other programs first.
"""

from __future__ import annotations

from kamon.cli.output import print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json

EXAMPLES = """\
kamon bench
kamon bench --seconds 0.1 --json
"""


def add_arguments(parser: Parser) -> None:
    options(parser, {"--seconds S": "seconds to spend on each figure [default: 0.5]"}, seconds=0.5)
    add_json(parser)


def run(args: Args) -> None:
    import os
    import platform

    from kamon.benchmark import measure
    from kamon.errors import ConfigError
    from kamon.native import library

    if not 0 <= args.seconds <= 3600:
        raise ConfigError(f"--seconds must be from 0 to 3600, not {args.seconds}")
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "instructions": "" if library.why_not() else library.best_level(),
        "python": platform.python_version(),
    }
    if args.json:
        print_json({"machine": machine, "figures": list(measure(args.seconds))})
        return
    for name, value in machine.items():
        print(f"{name:13} {value}")
    print()
    for row in measure(args.seconds):
        more = ""
        if "ratio" in row:
            more = f"{row['ratio']:,.0f}× the scalar engine"
        if "share_of_peak" in row:
            more = f"{row['gflops']:.1f} GFLOP/s, {row['share_of_peak']:.0%} of peak"
        if "speedup" in row:
            more += f", {row['speedup']:.2f}× one thread"
        if "ratio_to_bare" in row:
            more = f"{row['ratio_to_bare']:.2f}× bare Python"
        if "ratio_to_click" in row:
            more += f", {row['ratio_to_click']:.2f}× `import click`"
        print(
            f"{row['what']:48} {amount(row['value'], row['unit']):20} {more}".rstrip(), flush=True
        )


def amount(value: float, unit: str) -> str:
    """Return a figure with three significant digits.

    >>> amount(221_857.2, "µs a step"), amount(23_456, "names a second")
    ('222 ms per step', '23,500 names per second')
    """
    if unit.startswith("µs"):
        for factor, larger in ((1e6, "s"), (1e3, "ms")):
            if value >= factor:
                value, unit = value / factor, larger + unit.removeprefix("µs")
    rounded = float(f"{value:.3g}")
    digits = f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:g}"
    return f"{digits} {unit}"


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
