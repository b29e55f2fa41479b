"""Compare fine-tuned models with their base.

First come samples side by side. Samples in one line use the same random numbers, and * marks
entries of the base's list. Then come measurements of N samples of each model:

  KL          distance to the base, in nats per sample
  win rate    over the base, with its 95% interval (ties count as half)
  unique      share of samples without duplicates
  novel       share of samples that are not in the list
  length      mean number of characters
  loss        on the base's validation set, in nats per token

With a judge, there are also the rewards and the frontier: the win rate or the mean reward of each
model by its KL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    columns,
    count,
    done,
    marked_json,
    one_line,
    padded,
    print_json,
    say,
    warn,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.plot import FORMATS, check_free, write
from kamon.cli.settings import add_engine, add_json, chosen_engine, values
from kamon.data.graphemes import graphemes
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.compare import Comparison, ModelMetrics, RewardFunction

WIDTH = 80
MAX_WIDTH, MIN_WIDTH = 20, 12  # of a column of samples, or of names

OPTIONS = {
    "BASE": "directory of the base",
    "TUNED...": "directories of fine-tuned models",
    "-n N": "samples of each model [default: 1000]",
    "--show N": "samples to print [default: 10]",
    "--seed S": "seed of the samples [default: the base's]",
    "--prompt TEXT": "compare completions of TEXT, for models of `kamon sft`",
}
JUDGES = {
    "--reward DIR": "judge samples by this reward model",
    "--prefer RULE": "judge samples by this rule, as in `kamon dpo`",
}
PICTURE = {
    "-o, --output FILE": "plot the frontier as .png or .svg (needs a judge)",
    "--overwrite": "replace FILE if it exists",
}
EXAMPLES = """\
kamon compare names short                          # two models
kamon compare names short --prefer "len <= 5"      # with a rule as the judge
kamon compare names common --reward judge -o frontier.svg
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, n=1000, show=10)
    options(parser.add_mutually_exclusive_group(), JUDGES)
    options(parser, PICTURE)
    add_engine(parser)
    add_json(parser)


def run(args: Args) -> None:
    paths = [args.base, *args.tuned]
    check(args, paths)
    from kamon.finetuning.compare import compare, frontier_points
    from kamon.model import load

    if args.output is not None:
        from kamon import plotting
    engine = chosen_engine(args)
    judge = judge_of(args, engine)
    names = names_of(paths)
    base, *tuned = (load(path, **engine) for path in paths)
    named = dict(zip(names[1:], tuned, strict=True))
    how = values(args, "n", "seed", "prompt")
    comparison = compare(base, named, judge=judge, name=names[0], **how)
    for model in comparison.all:
        for note in model.notes:
            warn(note)
    by_wins = args.prefer is not None
    if judge:
        frontier_points(comparison, by_wins)  # raises ConfigError if a model cannot be judged
    if args.output is not None:
        output = Path(args.output)
        figure = plotting.draw_frontier(comparison, by_wins=by_wins)
        write({output: plotting.render(figure, output.suffix.removeprefix(".").lower())})
        say(done("Wrote", one_line(args.output)))
    if args.json:
        print_json(as_json(comparison, args, paths))
        return
    print_samples(comparison, args.show)
    print_figures(comparison)
    if args.reward is not None:
        print_rewards(comparison)
    if judge:
        print_frontier(comparison, by_wins=by_wins)


def check(args: Args, paths: list[str]) -> None:
    """Raise ConfigError for arguments that do not fit together, before anything is read."""
    if args.show < 0:
        raise ConfigError(f"--show must be 0 or more, not {args.show}")
    whole = [str(Path(path)) for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise ConfigError(f"{path} is given more than once")
    if args.output is None:
        if args.overwrite:
            raise ConfigError("--overwrite needs -o FILE")
        return
    if args.reward is None and args.prefer is None:
        raise ConfigError("-o needs a judge", "add --reward DIR or --prefer RULE")
    output = Path(args.output)
    if output.suffix.removeprefix(".").lower() not in FORMATS:
        raise ConfigError(f"{args.output!r} must end in .{' or .'.join(FORMATS)}")
    for path in paths:
        check_free({"frontier": output}, Path(path), args.overwrite)


def judge_of(args: Args, engine: dict[str, Any]) -> RewardFunction | None:
    """Return the judge, a reward model or a rule, or None without one."""
    from kamon.finetuning.compare import by_reward_model
    from kamon.finetuning.ppo import by_rule, load_reward

    if args.prefer is not None:
        return by_rule(args.prefer)
    if args.reward is not None:
        return by_reward_model(load_reward(args.reward, **engine), args.prompt)
    return None


def names_of(paths: Sequence[str]) -> list[str]:
    """Return the last part of each path if these differ, or else the whole paths.

    >>> names_of(["a/model", "a/dpo"]), names_of(["a/m", "b/m"])
    (['model', 'dpo'], ['a/m', 'b/m'])
    """
    short = [Path(path).name for path in paths]
    different = len(set(short)) == len(short) and all(short)
    return short if different else [str(Path(path)) for path in paths]


def as_json(comparison: Comparison, args: Args, paths: list[str]) -> dict[str, Any]:
    from kamon.finetuning.compare import QUANTILES

    models = []
    for path, model in zip(paths, comparison.all, strict=True):
        samples = marked_json(model.samples[: args.show], comparison.in_list)
        models.append({"directory": path, **asdict(model), "samples": samples})
    judge = values(args, "prompt", "reward", "prefer")
    about = {"n": comparison.n, "seed": comparison.seed, **judge, "quantiles": QUANTILES}
    return about | {
        "on_validation_set": comparison.held_out,
        "base": models[0],
        "tuned": models[1:],
    }


# ---- tables


def cell(text: str, width: int) -> str:
    """Return text padded or cut to `width` columns of a terminal."""
    shown, kept = text, graphemes(text)
    while columns(shown) > width:
        kept.pop()
        shown = "".join(kept) + "…"
    return padded(shown, width)


def name_cell(name: str, width: int) -> str:
    """Return a name padded to `width`, or its two ends, because names often differ at the end."""
    shown, parts = name, graphemes(name)
    size = len(parts)
    while columns(shown) > width:
        size -= 1
        last = parts[len(parts) - (size - size // 2) :]
        shown = f"{''.join(parts[: size // 2])}…{''.join(last)}"
    return padded(shown, width)


def print_samples(comparison: Comparison, num_shown: int) -> None:
    """Print samples side by side, in blocks of as many models as fit, each with the base."""
    per_block = WIDTH // (MIN_WIDTH + 2) - 1
    for first in range(0, len(comparison.tuned), per_block):
        block = [comparison.base, *comparison.tuned[first : first + per_block]]
        width = min(MAX_WIDTH, WIDTH // len(block) - 2)
        lines = zip(*(model.samples[:num_shown] for model in block), strict=True)
        marked = [[one_line(t) + "*" * (t in comparison.in_list) for t in texts] for texts in lines]
        if num_shown:
            print("  ".join(name_cell(model.name, width) for model in block).rstrip())
            for row in marked:
                print("  ".join(cell(text, width) for text in row).rstrip())
            print()


def name_width(comparison: Comparison) -> int:
    return min(MAX_WIDTH, max(columns(model.name) for model in comparison.all))


def print_figures(comparison: Comparison) -> None:
    width = name_width(comparison)
    judged = comparison.base.rewards is not None
    wins = f"{'win rate, 95% interval':>25}" if judged else ""
    print(f"{'':{width}} {'KL':>15}{wins} {'unique':>7} {'novel':>7} {'length':>6} {'loss':>7}")
    for model in comparison.all:
        base = model is comparison.base
        kl = "0" if base else f"{model.kl:.3f} ± {model.kl_error:.3f}"
        won = f"{wins_of(model, base):>25}" if judged else ""
        loss = "-" if model.loss is None else f"{model.loss:.3f}"
        samples = f"{model.unique:7.1%} {model.novel:7.1%} {model.mean_length:6.2f}"
        print(f"{name_cell(model.name, width)} {kl:>15}{won} {samples} {loss:>7}")
    part = "validation set" if comparison.held_out else "whole list"
    prompt = "" if comparison.prompt is None else f" for {comparison.prompt!r:.40}"
    print(f"\n{count(comparison.n, 'sample')} per model{prompt}, seed {comparison.seed}")
    entries = count(comparison.base.num_docs, "entry")
    print(f"KL in nats per sample, loss in nats per token on the {part} ({entries})")


def wins_of(model: ModelMetrics, base: bool) -> str:
    if base or model.win_rate is None or model.win_interval is None:
        return "50%"
    low, high = model.win_interval
    return f"{model.win_rate:.1%} ({low:.1%} to {high:.1%})"


def print_rewards(comparison: Comparison) -> None:
    from kamon.finetuning.compare import QUANTILES

    width = name_width(comparison)
    heads = "".join(f"{f'{share:.0%}':>8}" for share in QUANTILES)
    print(f"\n{'rewards':{width}} {'mean':>8}{'std':>11}{heads}")
    for model in comparison.all:
        spread = model.rewards
        assert spread
        numbers = "".join(f"{number:8.3f}" for number in spread.quantiles)
        print(f"{name_cell(model.name, width)} {spread.mean:8.3f}{spread.deviation:11.3f}{numbers}")


def print_frontier(comparison: Comparison, *, by_wins: bool) -> None:
    """Print the frontier by KL, with * for the models that no other dominates."""
    from kamon.finetuning.compare import frontier_points, pareto_front

    width = name_width(comparison)
    reached = [height for height, _, _ in frontier_points(comparison, by_wins)]
    points = [(model.kl, height) for model, height in zip(comparison.all, reached, strict=True)]
    what = "win rate   satisfied" if by_wins else "mean reward"
    print(f"\n{'frontier':{width}} {'KL':>8} {what:>12}   *: Pareto-optimal")
    rows = zip(points, pareto_front(points), comparison.all, strict=True)
    for (kl, height), best, model in sorted(rows, key=lambda row: row[0][0]):
        assert model.rewards
        shown = f"{height:8.1%} {model.rewards.mean:11.1%}" if by_wins else f"{height:12.3f}"
        print(f"{name_cell(model.name, width)} {kl:8.3f} {shown}{'   *' * best}")
