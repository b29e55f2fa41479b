"""Open the playground in the browser: train live, make names, teach it your taste, look inside.

Everything stays on this machine. Without a model it trains a small one on US first names at once.
Models that are saved from the page go to the folder --save-to, and are there again the next time.
Programs use the same server: /api/v1/openapi.json tells how.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kamon.cli.output import print_json, say
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

FIRST_BUDGET = 1.0  # seconds, for the model that is trained where there is none


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dir", nargs="*", metavar="DIR", help="saved models to begin with")
    parser.add_argument(
        "--save-to",
        default="models",
        metavar="FOLDER",
        help="where models are saved from the page (models)",
    )
    parser.add_argument("--port", type=whole_number, metavar="N", help="(8042, or a free one)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="IP",
        help="the address to listen at (127.0.0.1: this machine alone); any other asks for a token",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which others address this machine; may be given again",
    )
    parser.add_argument(
        "--token", metavar="TEXT", help="that each request must bring (beyond loopback a new one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    parser.add_argument(
        "--budget",
        type=number,
        metavar="SECONDS",
        help="of the training that it begins with where no DIR is given (1)",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.budget is not None and args.dir:
        raise ConfigError("--budget is of the first training, and a model is given: leave one out")
    if "" in (args.save_to, *args.dir, *args.allow_host):
        raise ConfigError("DIR, --save-to and --allow-host need a name, not an empty one")
    try:
        from kamon.web.serve import address, make_playground, serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the playground needs {error.name}: `pip install 'kamon[web]'` brings it"
        ) from None
    from kamon.web.limits import Limits

    playground = make_playground(Path(args.save_to), Limits())
    for problem in playground.shelf.add_saved():
        say(f"left out: {problem}")
    for path in args.dir:
        playground.shelf.add_directory(Path(path))
    where = address(args.host, args.port, args.token, args.allow_host)

    def on_start() -> None:
        if not args.dir:
            budget = FIRST_BUDGET if args.budget is None else args.budget
            playground.jobs.start(builtin="names", budget=budget)
        if args.json:
            print_json({"url": where.url, "models": list(playground.shelf.entries)})
            sys.stdout.flush()
        else:
            print(where.url, flush=True)
        say("the playground is open there; Ctrl-C ends it")

    serve(playground, where, open_browser=not args.no_browser, on_start=on_start)
    return 0
