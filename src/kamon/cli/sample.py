"""Make new entries with a saved model, one per line.

The same seed makes the same entries. Kamon leaves out entries of the list and duplicates unless you
give --copies. Under conditions, the entries follow the model's distribution among all that satisfy
them. If too few candidates do, you get fewer than N entries.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    columns,
    one_line,
    padded,
    print_json,
    print_marked,
    say_hint,
    say_left_out,
    say_notes,
    say_unfinished,
    warn,
)
from kamon.cli.parser import Args, Parser, name_of, number, options
from kamon.cli.settings import (
    GIVEN,
    add_engine,
    add_json,
    add_reading,
    check_unread,
    chosen_engine,
    given_of,
    reading,
)
from kamon.cli.stop import stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.generation.constraints import SampleResult
    from kamon.model import Conditions, Model

MAX_LOOKED_AT = 1_000_000  # entries in which to look for a prefix in another case

EXAMPLES = """\
kamon sample names -n 10
kamon sample names --prefix mar --max-len 7
kamon sample names --pattern 'm__xo'
kamon sample names -n 5 --temperature 0.5 --details
kamon sample people --given country=fi,sex=f
"""
OPTIONS = {
    "DIR": "directory of a model, written by `kamon train -o`",
    "-n N": "number of samples [default: 20, or 1 for a model of text]",
    "--length N": "tokens to write, for a model of text [default: 500]",
    "--temperature T": "sampling temperature: 0 is greedy, 1 samples from the model's own "
    "distribution [default: as in training]",
    "--seed S": "seed of the random numbers [default: as in training]",
    **GIVEN,
    "--copies": "include entries of the list and duplicates",
}
CONDITIONS = {
    "--prompt TEXT": "follow the prompt TEXT, for a model of `kamon sft`",
    "--prefix P": "begin with P: upper and lower case differ, as in all conditions",
    "--min-len N": "have at least N characters",
    "--max-len N": "have at most N characters",
    "--top-k K": "sample from the K most likely tokens only",
    "--top-p P": "sample from the smallest set of tokens whose probabilities add up to P",
    "--suffix S": "end with S",
    "--contains C": "contain C",
    "--pattern P": "match P, with _ for one character and * for any number of characters",
    "--regex R": "match the regular expression R, without back-references, as a whole",
    "--exclude FILE": "leave out the entries of FILE, a list as `kamon train` reads it",
}
DETAILS = {
    "--details": "add tab-separated columns: log-probability in nats, and whether the sample is in "
    "the list",
    "--nearest": "like --details, with the most similar entry of the list and its similarity, "
    "whatever their case",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, length=argparse.SUPPRESS)
    group = parser.add_argument_group(
        "conditions", "a character is what people see as one: ö, कि and 👩‍🔧 are one each"
    )
    absent: dict[str, Any] = {name_of(usage): argparse.SUPPRESS for usage in CONDITIONS}
    absent["top_p"] = {"type": number, "default": argparse.SUPPRESS}
    absent["suffix"] = {"type": str, "default": argparse.SUPPRESS}
    options(group, CONDITIONS, **absent)
    add_reading(group, "the FILE of --exclude")
    options(parser, DETAILS)
    add_json(parser)
    add_engine(parser.add_argument_group("engine"))


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
            "--copies, --details and --nearest are for models of lists, and this model writes text",
            "leave them out, or give a model that was trained on a list",
        )
    n = args.n if args.n is not None else 1 if is_text else 20
    if not args.copies and "prompt" not in conditions:
        conditions |= new_entries(model)
    how = {"temperature": args.temperature, "seed": args.seed, "given": given_of(args)}
    with stop_on_signals("without the samples") as stop:
        result = model.generate(n, should_stop=stop.asked, **how, **conditions)
    stopped = stop.code(finished=len(result.texts) == n)
    if warning := model.prompt_warning(conditions.get("prompt")):
        warn(*warning)
    if args.json and is_text:
        print_json({"directory": args.dir, "samples": [{"text": text} for text in result.texts]})
    elif args.json or args.details or args.nearest:
        samples = described(model, result, args, conditions.get("prompt"))
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
            warn(f"{num} samples are empty")
    say_left_out(result, n, "--copies", stopped=bool(stopped))
    if not is_text:
        say_other_case(model, conditions)
    return stopped or (0 if result.texts or not n else 1)


def new_entries(model: Model) -> Conditions:
    """Return the conditions that leave out entries of the model's list and duplicates."""
    if model.writes_text:
        return {}
    return {"novel": not model.training.corpus.packed, "unique": True}


def say_other_case(model: Model, conditions: dict[str, Any]) -> None:
    """Print a hint if entries begin or end as asked, but only in another case."""
    for name, verb in (("prefix", "begin"), ("suffix", "end")):
        given = model.tokenizer.normal(conditions.get(name, ""))
        if not given or len(model.docs) > MAX_LOOKED_AT:
            continue
        part = slice(len(given)) if name == "prefix" else slice(-len(given), None)
        parts = Counter(doc[part] for doc in model.docs if doc[part].lower() == given.lower())
        if parts and given not in parts:
            ((other, number),) = parts.most_common(1)
            others = f'{number:,} {verb}{"s" * (number == 1)} with "{other}"'
            say_hint(f'no entry of the list {verb}s with "{given}", {others}')


def left_out_json(result: SampleResult) -> dict[str, int]:
    return {"copies": result.num_copies, "duplicates": result.num_duplicates}


def described(
    model: Model, result: SampleResult, args: Args, prompt: str | None = None
) -> list[dict[str, Any]]:
    """Return what --json shows of each sample."""
    from kamon.evaluation.nearest import sample_infos

    known = model.docs.intersection(result.texts)
    how = {"given": given_of(args), "nearest": args.nearest}
    infos = sample_infos(model, result.texts, prompt, known=known, **how)
    samples: list[dict[str, Any]] = []
    for place, info in zip(result.numbers, infos, strict=True):
        sample = {"text": info.text, "number": place, "logprob": info.logprob}
        sample["in_list"] = info.in_list
        if info.nearest:
            sample["nearest"] = dict(zip(("text", "similarity"), info.nearest, strict=True))
        samples.append(sample)
    return samples


def print_details(samples: list[dict[str, Any]]) -> None:
    """Print aligned columns on a terminal, otherwise tabs, which `one_line` escapes in texts."""
    rows = []
    for sample in samples:
        mark = "in the list" if sample["in_list"] else "new"
        row = [one_line(sample["text"]), f"{sample['logprob']:.3f}", mark]
        if near := sample.get("nearest"):
            row += [one_line(near["text"]), f"{near['similarity']:.3f}"]
        rows.append(row)
    if sys.stdout.isatty():
        widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
        rows = [[padded(*cell) for cell in zip(row, widths, strict=True)] for row in rows]
    for row in rows:
        print(("  " if sys.stdout.isatty() else "\t").join(row).rstrip(" "))
