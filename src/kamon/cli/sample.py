"""Make new names with a saved model, one a line. The same seed makes the same names.

In a terminal those that are copies of the list are marked, as --details does everywhere. Where too
few fulfil the conditions, there are fewer than N, and that is said.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    entry_line,
    has_line_end,
    one_line,
    print_json,
    print_marked,
    print_texts,
    say,
    say_empty,
    say_line_ends,
    say_notes,
    say_unfinished,
)
from kamon.cli.parser import Parser, name_of, number, options
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
    "--novel": "none that is in the list that was learned",
    "--unique": "none twice",
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


def run(args: argparse.Namespace) -> int:
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
    if is_text and (args.details or args.nearest):
        raise ConfigError("--details and --nearest compare documents, and this model writes text")
    n = args.n if args.n is not None else 1 if is_text else 20
    found = model.generate(n, temperature=args.temperature, seed=args.seed, **conditions)
    if args.json and is_text:
        print_json({"directory": args.dir, "samples": [{"text": text} for text in found.texts]})
    elif args.json:
        samples = described(model, found, args.nearest, conditions.get("prompt"))
        print_json({"directory": args.dir, "tried": found.num_candidates, "samples": samples})
    elif args.details or args.nearest:
        for sample in described(model, found, args.nearest, conditions.get("prompt")):
            print("\t".join(columns(sample)))
    elif is_text:
        print_texts(found.texts)
    elif sys.stdout.isatty():  # a program gets each text and no more
        known = model.docs.intersection(found.texts)
        print_marked([(text, text in known) for text in found.texts])
    else:
        for text in found.texts:
            print(entry_line(text))
        say_line_ends(sum(map(has_line_end, found.texts)))
    if not is_text:
        say_unfinished(found.sizes, found.room, model.tokenizer.unit)
        say_empty(found.texts.count(""), len(found.texts))
    if len(found.texts) == n:
        return 0
    say(
        f"{len(found.texts):,} of {n:,} found: "
        f"among {found.num_candidates:,} candidates no more fulfil the conditions"
    )
    return 0 if found.texts else 1


def described(
    model: Model, found: SampleResult, nearest: bool, prompt: str | None = None
) -> list[dict[str, Any]]:
    """What --json shows of each sample."""
    from kamon.evaluation.nearest import sample_infos

    known = model.docs.intersection(found.texts)
    found_out = sample_infos(model, found.texts, prompt, known=known, nearest=nearest)
    samples: list[dict[str, Any]] = []
    for place, each in zip(found.numbers, found_out, strict=True):
        sample = {
            "text": each.text,
            "number": place,
            "logprob": each.logprob,
            "in_list": each.in_list,
        }
        if each.nearest:
            text, similarity = each.nearest
            sample["nearest"] = {"text": text, "similarity": similarity}
        samples.append(sample)
    return samples


def columns(sample: dict[str, Any]) -> list[str]:
    """What --details and --nearest show of one; as `one_line` shows it, no text has a tab."""
    mark = "in the list" if sample["in_list"] else "new"
    shown = [one_line(sample["text"]), f"{sample['logprob']:.3f}", mark]
    if "nearest" in sample:
        near = sample["nearest"]
        shown += [one_line(near["text"]), f"{near['similarity']:.3f}"]
    return shown
