"""Compare fine-tuned models with the BASE that they started from.

First come samples, side by side. Samples in the same line use the same random draws, and * marks
those in the base's list. Then come measurements of N samples of each model: the KL to the base, in
nats per document; the win rate over the base with its 95% interval (ties count as half); the shares
of unique and novel samples; the mean length; the rewards, if a reward model or a rule judges. The
loss, in nats per token, is that of the base's validation set.

The frontier shows the win rate, or the mean reward, that each model reaches at its KL; -o draws it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kamon.cli.output import columns, one_line, padded, print_json, say
from kamon.cli.parser import Parser, whole_number
from kamon.cli.plot import FORMATS, check_free, write
from kamon.cli.settings import add_engine, add_json, chosen_engine
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.compare import Comparison, ModelMetrics, RewardFunction

WIDTH = 80
MAX_WIDTH, MIN_WIDTH = 20, 12  # of a column of samples, or of names


def add_arguments(parser: Parser) -> None:
    parser.add_argument("base", metavar="BASE", help="the model that was fine-tuned")
    parser.add_argument("tuned", nargs="+", metavar="TUNED", help="fine-tuned models of it")
    parser.add_argument(
        "-n",
        type=whole_number,
        default=1000,
        metavar="N",
        help="samples of each model [default: 1000]",
    )
    parser.add_argument(
        "--show", type=whole_number, default=10, metavar="N", help="samples to print [default: 10]"
    )
    parser.add_argument(
        "--seed", type=whole_number, metavar="S", help="seed of the samples [default: the base's]"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="compare answers to TEXT; for models that know prompts (see `kamon sft`)",
    )
    judge = parser.add_mutually_exclusive_group()
    judge.add_argument("--reward", metavar="DIR", help="judge samples by this reward model")
    judge.add_argument(
        "--prefer", metavar="RULE", help="judge samples by this rule, as in `kamon dpo`"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="draw the frontier as .png or .svg: mean reward, or win rate by a rule, against KL",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_engine(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
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
    found = compare(
        base,
        dict(zip(names[1:], tuned, strict=True)),
        n=args.n,
        seed=args.seed,
        judge=judge,
        prompt=args.prompt,
        name=names[0],
    )
    for each in found.all:
        for note in each.notes:
            say(note)
    by_wins = args.prefer is not None
    if judge:
        frontier_points(found, by_wins)  # raises ConfigError if a model cannot be judged
    if args.output is not None:
        output = Path(args.output)
        figure = plotting.draw_frontier(found, by_wins=by_wins)
        write({output: plotting.render(figure, output.suffix.removeprefix(".").lower())})
        say(f"the frontier is drawn in {one_line(args.output)}")
    if args.json:
        print_json(as_json(found, args, paths))
        return
    print_samples(found, args.show)
    print_figures(found)
    if args.reward is not None:
        print_rewards(found)
    if judge:
        print_frontier(found, by_wins=by_wins)


def check(args: argparse.Namespace, paths: list[str]) -> None:
    """Raise ConfigError for arguments that do not fit together, before anything is read."""
    if args.show < 0:
        raise ConfigError(f"--show must be 0 or more, not {args.show}")
    whole = [str(Path(path)) for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise ConfigError(f"{path} is given more than once")
    if args.output is None:
        if args.overwrite:
            raise ConfigError("--overwrite is for the picture of -o, and there is none")
        return
    if args.reward is None and args.prefer is None:
        raise ConfigError("a frontier needs a judge: give --reward DIR or --prefer RULE with -o")
    output = Path(args.output)
    if output.suffix.removeprefix(".").lower() not in FORMATS:
        raise ConfigError(f"{args.output!r} must end in .{' or .'.join(FORMATS)}")
    for path in paths:
        check_free({"frontier": output}, Path(path), args.overwrite)


def judge_of(args: argparse.Namespace, engine: dict[str, Any]) -> RewardFunction | None:
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


def as_json(found: Comparison, args: argparse.Namespace, paths: list[str]) -> dict[str, Any]:
    from kamon.finetuning.compare import QUANTILES

    models = []
    for path, each in zip(paths, found.all, strict=True):
        figures = asdict(each)
        figures["samples"] = [
            {"text": text, "in_list": text in found.in_list} for text in each.samples[: args.show]
        ]
        models.append({"directory": path, **figures})
    return {
        "n": found.n,
        "seed": found.seed,
        "prompt": args.prompt,
        "reward": args.reward,
        "prefer": args.prefer,
        "quantiles": QUANTILES,
        "on_validation_set": found.held_out,
        "base": models[0],
        "tuned": models[1:],
    }


# ---- tables


def cell(text: str, width: int) -> str:
    """Return text padded or cut to `width` columns of a terminal."""
    shown, left = text, len(text)
    while columns(shown) > width:
        left -= 1
        shown = text[:left] + "…"
    return padded(shown, width)


def name_cell(name: str, width: int) -> str:
    """Return a name padded to `width`, or its two ends: names often differ at the end."""
    left = len(name)
    shown = name
    while columns(shown) > width:
        left -= 1
        shown = f"{name[: left // 2]}…{name[len(name) - (left - left // 2) :]}"
    return cell(shown, width)


def print_samples(found: Comparison, num_shown: int) -> None:
    """Print samples side by side, in blocks of as many models as fit, each with the base."""
    per_block = WIDTH // (MIN_WIDTH + 2) - 1
    for first in range(0, len(found.tuned), per_block):
        block = [found.base, *found.tuned[first : first + per_block]]
        width = min(MAX_WIDTH, WIDTH // len(block) - 2)
        lines = zip(*(each.samples[:num_shown] for each in block), strict=True)
        marked = [[one_line(t) + "*" * (t in found.in_list) for t in texts] for texts in lines]
        if num_shown:
            print("  ".join(name_cell(each.name, width) for each in block).rstrip())
            for row in marked:
                print("  ".join(cell(text, width) for text in row).rstrip())
            print()


def name_width(found: Comparison) -> int:
    return min(MAX_WIDTH, max(columns(each.name) for each in found.all))


def print_figures(found: Comparison) -> None:
    width = name_width(found)
    judged = found.base.rewards is not None
    wins = f"{'win rate, 95% interval':>25}" if judged else ""
    print(f"{'':{width}} {'KL':>15}{wins} {'unique':>7} {'novel':>7} {'length':>6} {'loss':>7}")
    for each in found.all:
        base = each is found.base
        kl = "0" if base else f"{each.kl:.3f} ± {each.kl_error:.3f}"
        won = f"{wins_of(each, base):>25}" if judged else ""
        loss = "-" if each.loss is None else f"{each.loss:.4f}"
        print(
            f"{name_cell(each.name, width)} {kl:>15}{won} {each.unique:7.1%} {each.novel:7.1%} "
            f"{each.mean_length:6.2f} {loss:>7}"
        )
    which = "held out from" if found.held_out else "of"
    if found.prompt is not None:
        print(f"samples are answers to {found.prompt!r:.50}")
    print(
        f"{found.n:,} samples of each, seed {found.seed}; loss on {found.base.num_docs:,} "
        f"documents {which} the list"
    )


def wins_of(each: ModelMetrics, base: bool) -> str:
    if base or each.win_rate is None or each.win_interval is None:
        return "50%"
    low, high = each.win_interval
    return f"{each.win_rate:.1%} ({low:.1%} to {high:.1%})"


def print_rewards(found: Comparison) -> None:
    from kamon.finetuning.compare import QUANTILES

    width = name_width(found)
    heads = "".join(f"{f'{share:.0%}':>8}" for share in QUANTILES)
    print(f"\n{'rewards':{width}} {'mean':>8}{'deviation':>11}{heads}")
    for each in found.all:
        spread = each.rewards
        assert spread
        numbers = "".join(f"{number:8.3f}" for number in spread.quantiles)
        print(f"{name_cell(each.name, width)} {spread.mean:8.3f}{spread.deviation:11.3f}{numbers}")


def print_frontier(found: Comparison, *, by_wins: bool) -> None:
    """Print the frontier by KL; * marks models that no other dominates."""
    from kamon.finetuning.compare import frontier_points, pareto_front

    width = name_width(found)
    reached = [height for height, _, _ in frontier_points(found, by_wins)]
    points = [(each.kl, height) for each, height in zip(found.all, reached, strict=True)]
    what = "win rate   fulfil it" if by_wins else "mean reward"
    print(f"\n{'frontier':{width}} {'KL':>8} {what:>12}   *: none is as good at less KL")
    rows = zip(points, pareto_front(points), found.all, strict=True)
    for (kl, height), best, each in sorted(rows, key=lambda row: row[0][0]):
        assert each.rewards
        shown = f"{height:8.1%} {each.rewards.mean:11.1%}" if by_wins else f"{height:12.3f}"
        print(f"{name_cell(each.name, width)} {kl:8.3f} {shown}{'   *' * best}")
