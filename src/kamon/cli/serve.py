"""Open the playground in the browser: train live, make names, teach it your taste, look inside.

Everything stays on this machine. Without a model it trains a small one on US first names at once.
The page saves models in the folder --save-to, and opens them again the next time.
The printed address contains a token, without which nobody else on this machine can use the server.
Set KAMON_TOKEN to choose the token, or turn it off with --no-token.
Programs can use the same server: /api/v1/openapi.json describes it.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from kamon.cli.output import print_json, say
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

FIRST_BUDGET = 1.0  # seconds, for the first model if no DIR is given


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dir", nargs="*", metavar="DIR", help="saved models to open")
    parser.add_argument(
        "--save-to",
        default="models",
        metavar="FOLDER",
        help="folder where the page saves models [default: models]",
    )
    parser.add_argument(
        "--port",
        type=whole_number,
        metavar="N",
        help="port to listen at [default: 8042, or any free one]",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="IP",
        help="address to listen at; 0.0.0.0 is every address of this machine "
        "[default: 127.0.0.1, only this machine]",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine, for others to use; may be repeated",
    )
    parser.add_argument(
        "--no-token",
        action="store_true",
        help="ask for no token: every user of this machine can use the server, and fill --save-to",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="change a limit, such as jobs=4 for four trainings at a time; may be repeated",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--budget",
        type=number,
        metavar="SECONDS",
        help="time for the first training, if no DIR is given [default: 1]",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.budget is not None and args.dir:
        raise ConfigError("--budget is of the first training, and a model is given: leave one out")
    if "" in (args.save_to, *args.dir, *args.allow_host):
        raise ConfigError("DIR, --save-to and --allow-host need a name, not an empty one")
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise ConfigError(f"the playground needs {name}: `pip install 'kamon[web]'` brings it")
    from kamon.web.limits import Limits, with_options
    from kamon.web.server.address import listen
    from kamon.web.services.playground import Playground
    from kamon.web.services.worker import Request

    playground = Playground(Path(args.save_to), with_options(Limits(), args.limit))
    for problem in playground.registry.add_saved():
        say(f"left out: {problem}")
    for path in args.dir:
        playground.registry.add_directory(Path(path))
    token = os.environ.get("KAMON_TOKEN") or None
    address = listen(args.host, args.port, token, args.allow_host, no_token=args.no_token)
    if not args.dir:
        budget = FIRST_BUDGET if args.budget is None else args.budget
        playground.jobs.start(Request("names", budget, playground.limits))
    from kamon.web.serve import serve  # takes half a second, in which the training begins

    def on_start() -> None:
        if args.json:
            models = list(playground.registry.entries)
            print_json({"url": address.url, "urls": address.urls, "models": models})
            sys.stdout.flush()
        else:
            print(address.url, flush=True)
            for url in address.urls[1:]:
                say(f"or {url}")
        say("the playground is open there; Ctrl-C ends it")

    serve(playground, address, open_browser=not args.no_browser, on_start=on_start)
    return 0
