"""Make new names with a saved model, one per line. The same seed makes the same names.

Entries of the list and duplicates are left out, unless --copies includes them. In a terminal, the
entries of the list are then marked. If too few candidates fulfil the conditions, there are fewer
than N names.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    one_line,
    print_json,
    print_marked,
    say,
    say_left_out,
    say_notes,
    say_unfinished,
)
from kamon.cli.parser import Args, Parser, name_of, number, options
from kamon.cli.settings import (
    add_engine,
    add_json,
    add_reading,
    check_unread,
    chosen_engine,
    reading,
)
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.generation.constraints import SampleResult
    from kamon.model import Model

# Flags that are conditions: what argparse needs, and the help.

OPTIONS = {
    "DIR": "the directory that `kamon train -o` wrote",
    "-n N": "how many (20; of a model of text, 1)",
    "--length N": "of a model of text: how many tokens to write (500)",
    "--temperature T": "0 takes the likeliest, 1 the model's odds; by default as in training",
    "--seed S": "by default as in training",
    "--copies": "include entries of the list and duplicates",
}
CONDITIONS = {
    "--prompt TEXT": "each answers TEXT; of a model that `kamon sft` tuned",
    "--prefix P": "each begins with P",
    "--min-len N": "no fewer characters",
    "--max-len N": "no more characters: longer ones are dropped, none is cut",
    "--top-k K": "draw among the K likeliest tokens alone",
    "--top-p P": "draw among the fewest likeliest tokens that have probability P together",
    "--suffix S": "each ends with S",
    "--contains C": "each has C in it",
    "--regex R": "R, in Python's syntax, matches all of it; one such as (a+)+b may take for ever",
    "--exclude FILE": "none that is in FILE, a list as `kamon train` reads it",
}
DETAILS = {
    "--details": "after each a tab and its log probability in nats, a tab and if it is in the list",
    "--nearest": "--details, a tab and the most similar document of the list, a tab and how "
    "similar",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, length=argparse.SUPPRESS)
    group = parser.add_argument_group(
        "conditions", "lengths are in code points: ö is one, 👩‍🔧 three"
    )
    absent: dict[str, Any] = {name_of(usage): argparse.SUPPRESS for usage in CONDITIONS}
    absent["top_p"] = {"type": number, "default": argparse.SUPPRESS}
    absent["suffix"] = {"type": str, "default": argparse.SUPPRESS}
    options(group, CONDITIONS, **absent)
    add_reading(parser, "the FILE of --exclude")
    options(parser, DETAILS)
    add_engine(parser)
    add_json(parser)


def run(args: Args) -> int:
    from kamon.generation.constraints import make_constraints
    from kamon.model import load

    names = ["length", *map(name_of, CONDITIONS)]
    conditions = {name: getattr(args, name) for name in names if hasattr(args, name)}
    make_constraints({**conditions, "exclude": ()})  # raises ConfigError before anything is read
    if "exclude" in conditions:
        from kamon.data import corpus

        # As it is: `find` brings it to the model's form.
        excluded = corpus.read(conditions["exclude"], **reading(args), composed=False)
        say_notes(excluded)
        conditions["exclude"] = excluded.docs
    else:
        check_unread(args, "the FILE of --exclude, and there is none")
    model = load(args.dir, **chosen_engine(args))
    is_text = model.config.mode == "text"
    if is_text and (args.details or args.nearest or args.copies):
        raise ConfigError(
            "--copies, --details and --nearest compare documents, and this model writes text"
        )
    n = args.n if args.n is not None else 1 if is_text else 20
    if not args.copies and "prompt" not in conditions:
        conditions |= new_entries(model)
    result = model.generate(n, temperature=args.temperature, seed=args.seed, **conditions)
    if args.json and is_text:
        print_json({"directory": args.dir, "samples": [{"text": text} for text in result.texts]})
    elif args.json or args.details or args.nearest:
        samples = described(model, result, args.nearest, conditions.get("prompt"))
        if args.json:
            about = {"directory": args.dir, "tried": result.num_candidates}
            print_json({**about, "left_out": left_out_json(result), "samples": samples})
        else:
            print_details(samples)
    elif is_text:
        print(*result.texts, sep="\n\n")
    else:
        marks = sys.stdout.isatty() and not conditions.get("novel")
        print_marked(result.texts, model.docs.intersection(result.texts) if marks else ())
    if not is_text:
        say_unfinished(result.sizes, result.room, model.tokenizer.unit)
        if num_empty := result.texts.count(""):
            num = f"{num_empty:,} of {len(result.texts):,}"
            say(f"{num} samples are empty: the model ended them at once")
    say_left_out(result, n, "--copies")
    return 0 if result.texts or not n else 1


def new_entries(model: Model) -> dict[str, bool]:
    """Return the conditions that leave out entries of the model's list and duplicates."""
    if model.writes_text:
        return {}
    return {"novel": not model.training.corpus.packed, "unique": True}


def left_out_json(result: SampleResult) -> dict[str, int]:
    return {"copies": result.num_copies, "duplicates": result.num_duplicates}


def described(
    model: Model, result: SampleResult, nearest: bool, prompt: str | None = None
) -> list[dict[str, Any]]:
    """Return what --json shows of each sample."""
    from kamon.evaluation.nearest import sample_infos

    known = model.docs.intersection(result.texts)
    infos = sample_infos(model, result.texts, prompt, known=known, nearest=nearest)
    samples: list[dict[str, Any]] = []
    for place, info in zip(result.numbers, infos, strict=True):
        sample = {"text": info.text, "number": place, "logprob": info.logprob}
        sample["in_list"] = info.in_list
        if info.nearest:
            sample["nearest"] = dict(zip(("text", "similarity"), info.nearest, strict=True))
        samples.append(sample)
    return samples


def print_details(samples: list[dict[str, Any]]) -> None:
    """Print columns between tabs, which no text has as `one_line` shows it."""
    for sample in samples:
        mark = "in the list" if sample["in_list"] else "new"
        columns = [one_line(sample["text"]), f"{sample['logprob']:.3f}", mark]
        if near := sample.get("nearest"):
            columns += [one_line(near["text"]), f"{near['similarity']:.3f}"]
        print("\t".join(columns))
