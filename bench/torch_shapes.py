"""Compare Kamon's engines with torch at the shapes of two well-known small trainers.

    python bench/torch_shapes.py [--seconds S] [--threads N] [--compile] [--json]

makemore: 4 layers of width 64, 32 names per step, padded to 16 tokens, like its batches.
nanoGPT on a CPU: 4 layers of width 128, 12 texts of 64 tokens per step.

The torch loop is written by hand. It has Kamon's architecture (RMSNorm, ReLU, no biases) in batches
that are made beforehand, with fused attention and the fused Adam. The native and the torch engine
do the same job from packed documents. All train on the same documents from the same parameters, in
turn. Before anything is timed, the script checks that they have the same first loss.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kamon.config import Config
from kamon.data.builtin import names
from kamon.engines.base import StepPlan, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import train
from kamon.engines.parameters import init, parameter_shapes
from kamon.tokenizers.char import CharTokenizer

IGNORED = -100  # a target that is padding


class Gpt:
    """Kamon's model on a rectangle of tokens (B, T). It ignores padding."""

    def __init__(self, config: Config, flat: array[float]) -> None:
        self.config = config
        self.params: dict[str, Tensor] = {}
        at = 0
        for name, (n_out, n_in) in parameter_shapes(config).items():
            values = torch.tensor(flat[at : at + n_out * n_in], dtype=torch.float32)
            self.params[name] = values.reshape(n_out, n_in).requires_grad_()
            at += n_out * n_in

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        p, c = self.params, self.config
        B, T = inputs.shape  # noqa: N806
        x = norm(p["wte"][inputs] + p["wpe"][:T])
        for i in range(c.n_layer):
            h = norm(x)
            q, k, v = (
                functional.linear(h, p[f"layer{i}.attn_w{n}"])
                .view(B, T, c.n_head, c.head_dim)
                .transpose(1, 2)
                for n in "qkv"
            )
            heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            heads = heads.transpose(1, 2).reshape(B, T, c.n_embd)
            x = x + functional.linear(heads, p[f"layer{i}.attn_wo"])
            h = functional.linear(norm(x), p[f"layer{i}.mlp_fc1"]).relu()
            x = x + functional.linear(h, p[f"layer{i}.mlp_fc2"])
        logits = functional.linear(x, p["lm_head"])
        return functional.cross_entropy(
            logits.view(B * T, -1), targets.reshape(-1), ignore_index=IGNORED
        )


def norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-5)


def names_documents(config: Config) -> PackedBatch:
    docs = names()
    random.Random(1).shuffle(docs)
    tokenizer = CharTokenizer.train(docs)
    return pack_sequences(
        tokenizer.encode_document(doc)[: config.block_size + 1] for doc in docs[:6400]
    )


def text_documents(config: Config) -> PackedBatch:
    rng = random.Random(1)
    return pack_sequences(
        [rng.randrange(26) for _ in range(config.block_size + 1)] for _ in range(600)
    )


def rectangles(docs: PackedBatch, config: Config) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs and targets (B, T) of each step, padded to block_size."""
    found = []
    for first in range(0, len(docs) - config.batch_size + 1, config.batch_size):
        inputs = torch.zeros(config.batch_size, config.block_size, dtype=torch.long)
        targets = torch.full_like(inputs, IGNORED)
        for row in range(config.batch_size):
            tokens = docs.document(first + row).tolist()
            inputs[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
            targets[row, : len(tokens) - 1] = torch.tensor(tokens[1:])
        found.append((inputs, targets))
    return found


def compare(
    what: str, config: Config, docs: PackedBatch, args: argparse.Namespace
) -> dict[str, Any]:
    start = init(config, random.Random(config.seed))
    engine = make_engine("native", config, dtype="float32", threads=args.threads)
    in_torch = make_engine("torch", config, threads=args.threads, compile=args.compile)
    for each in (engine, in_torch):
        each.load(initial_state(start))
    steps = rectangles(docs, config)
    count = len(steps)
    plan = StepPlan(
        docs,
        config.batch_size,
        array("q", range(count * config.batch_size)),
        array("d", [config.learning_rate]) * count,
    )
    gpt = Gpt(config, start)
    loss_of = torch.compile(gpt.loss) if args.compile else gpt.loss
    adam = torch.optim.Adam(
        gpt.params.values(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps_adam,
        fused=True,
    )

    def torch_steps() -> float:
        first = 0.0
        for inputs, targets in steps:
            loss = loss_of(inputs, targets)
            first = first or loss.item()
            loss.backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
        return first

    expected = train(engine, plan)[0]
    for found in (torch_steps(), train(in_torch, plan)[0]):
        if abs(found - expected) > 1e-4:
            sys.exit(f"{what}: torch's first loss is {found}, Kamon's {expected}")
    works = [lambda: train(engine, plan), torch_steps, lambda: train(in_torch, plan)]
    ours, theirs, engines = in_turn(works, args.seconds)
    return {
        "what": what,
        "kamon_us_a_step": ours / count * 1e6,
        "torch_us_a_step": theirs / count * 1e6,
        "torch_engine_us_a_step": engines / count * 1e6,
        "ratio": theirs / ours,
        "torch_engine_ratio": engines / theirs,
    }


def in_turn(works: list[Callable[[], object]], seconds: float) -> list[float]:
    """Run all in turn until the time is up, and return the shortest time of each."""
    best = [float("inf")] * len(works)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="seconds per shape [default: 20]"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of each [default: 1]")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shared = {"vocab_size": 27, "num_steps": 1, "learning_rate": 5e-4, "beta1": 0.9}
    makemore = Config(n_layer=4, n_embd=64, n_head=4, block_size=16, batch_size=32, **shared)
    nanogpt = Config(n_layer=4, n_embd=128, n_head=4, block_size=64, batch_size=12, **shared)
    for what, config, docs in (
        ("makemore's shape", makemore, names_documents(makemore)),
        ("nanoGPT's shape on a CPU", nanogpt, text_documents(nanogpt)),
    ):
        row = compare(what, config, docs, args)
        if args.json:
            print(json.dumps(row))
        else:
            print(
                f"{what:26} kamon {row['kamon_us_a_step']:10,.0f} µs per step, "
                f"torch {row['torch_us_a_step']:10,.0f}, {row['ratio']:.1f} times as long, "
                f"the torch engine {row['torch_engine_ratio']:.2f} times as long as torch",
                flush=True,
            )


if __name__ == "__main__":
    main()
