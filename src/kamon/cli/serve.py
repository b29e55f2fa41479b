"""Open the playground in the browser.

Everything stays on this machine. Without DIR, the playground trains a small model on US first
names. It saves models in the folder --save-to, and opens them again the next time.

The printed address contains a token, so that nobody else can use the server. Set KAMON_TOKEN to
choose the token, or turn it off with --no-token. Programs can use the same server:
/api/v1/openapi.json describes its HTTP API.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from kamon.cli.output import GREEN, print_json, say, styled, warn
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

FIRST_BUDGET = 1.0  # seconds, for the first model if no DIR is given

OPTIONS = {
    "[DIR...]": "saved models to open",
    "--save-to FOLDER": "folder where the page saves models [default: models]",
    "--port N": "port to listen on [default: 8042, or a free port if it is taken]",
    "--host IP": "address to listen on: 0.0.0.0 lets other machines in [default: 127.0.0.1]",
    "--allow-host NAME": "another name of this machine that browsers may use (may be repeated)",
    "--no-token": "do not ask for a token: every user of this machine can use the server",
    "--limit NAME=NUMBER": "change a limit, such as jobs=4 for 4 runs at a time (may be repeated)",
    "--no-browser": "do not open a browser",
    "--budget SECONDS": "time of the first training without DIR, in seconds [default: 1]",
}
EXAMPLES = """\
kamon serve                       # train a small model, and open the page
kamon serve names                 # open a saved model
kamon serve --port 9000 --no-browser
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, save_to="models", host="127.0.0.1", allow_host=[], limit=[])
    add_json(parser)


def run(args: Args) -> int:
    if args.budget is not None and args.dir:
        raise ConfigError("--budget is only for a start without DIR", "leave one of them out")
    if "" in (args.save_to, *args.dir, *args.allow_host):
        raise ConfigError("DIR, --save-to and --allow-host need a name, not an empty one")
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            hint = "install it with `pip install 'kamon[web]'`"
            raise ConfigError(f"the playground needs {name}", hint)
    from kamon.web.limits import Limits, with_options
    from kamon.web.server.address import listen
    from kamon.web.services.playground import Playground
    from kamon.web.services.worker import Request

    playground = Playground(Path(args.save_to), with_options(Limits(), args.limit))
    for problem in playground.registry.add_saved():
        warn(problem)
    for path in args.dir:
        playground.registry.add_directory(Path(path))
    token = os.environ.get("KAMON_TOKEN") or None
    address = listen(args.host, args.port, token, args.allow_host, no_token=args.no_token)
    if not args.dir:
        budget = FIRST_BUDGET if args.budget is None else args.budget
        playground.jobs.start(Request("names", budget, playground.limits))
    from kamon.web.serve import serve  # takes half a second: the training begins meanwhile

    def on_start() -> None:
        if args.json:
            models = list(playground.registry.entries)
            print_json({"url": address.url, "urls": address.urls, "models": models})
            sys.stdout.flush()
        else:
            running = styled("Playground running", GREEN, sys.stdout)
            print(f"{running} at {address.url} (press Ctrl-C to stop)", flush=True)
            for url in address.urls[1:]:
                say(f"Also at {url}")

    serve(playground, address, open_browser=not args.no_browser, on_start=on_start)
    return 0
