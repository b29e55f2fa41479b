"""Open the playground in the browser: train live, make names, teach it your taste, look inside.

Everything stays on this machine. Without a model it trains a small one on US first names at once.
The page saves models in the folder --save-to, and opens them again the next time.
The printed address contains a token, without which nobody else on this machine can use the server.
Set KAMON_TOKEN to choose the token, or turn it off with --no-token.
Programs can use the same server: /api/v1/openapi.json describes it.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from kamon.cli.output import print_json, say
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

FIRST_BUDGET = 1.0  # seconds, for the first model if no DIR is given

OPTIONS = {
    "[DIR...]": "saved models to open",
    "--save-to FOLDER": "folder where the page saves models [default: models]",
    "--port N": "port to listen at [default: 8042, or any free one]",
    "--host IP": "address to listen at; 0.0.0.0 is every address of this machine [default: "
    "127.0.0.1, only this machine]",
    "--allow-host NAME": "another name of this machine, for others to use; may be repeated",
    "--no-token": "ask for no token: every user of this machine can use the server, and fill "
    "--save-to",
    "--limit NAME=NUMBER": "change a limit, such as jobs=4 for four trainings at a time; may be "
    "repeated",
    "--no-browser": "do not open a browser",
    "--budget SECONDS": "time for the first training, if no DIR is given [default: 1]",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, save_to="models", host="127.0.0.1", allow_host=[], limit=[])
    add_json(parser)


def run(args: Args) -> int:
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
