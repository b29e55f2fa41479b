"""Measure the original's job, written plainly in torch, beside the figures of `kamon bench`.

python bench/torch_original.py [--seconds S]
"""

import argparse
import random
from typing import Any

import torch

from kamon.benchmark import best, names_batch
from kamon.config import Config
from kamon.engines.batch import PackedBatch
from kamon.engines.parameters import init, parameter_shapes


def measure(docs: PackedBatch, seconds: float) -> float:
    """Return the seconds per step."""
    config = Config()
    rng = random.Random(config.seed)
    flat = init(config, rng)
    params: dict[str, Any] = {}
    at = 0
    for name, (n_out, n_in) in parameter_shapes(config).items():
        values = torch.tensor(flat[at : at + n_out * n_in], dtype=torch.float32)
        params[name] = values.reshape(n_out, n_in).requires_grad_()
        at += n_out * n_in
    adam = torch.optim.Adam(params.values(), lr=0.01, betas=(0.85, 0.99), eps=1e-8)
    functional = torch.nn.functional

    def norm(x: Any) -> Any:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()

    def step(tokens: Any) -> None:
        length = len(tokens) - 1
        x = norm(params["wte"][tokens[:-1]] + params["wpe"][:length])
        h = norm(x)
        q, k, v = (
            (h @ params[f"layer0.attn_w{n}"].T).view(length, 4, 4).transpose(0, 1) for n in "qkv"
        )
        heads = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)
        x = x + heads[0].transpose(0, 1).reshape(length, 16) @ params["layer0.attn_wo"].T
        h = (norm(x) @ params["layer0.mlp_fc1"].T).relu()
        x = x + h @ params["layer0.mlp_fc2"].T
        loss = functional.cross_entropy(x @ params["lm_head"].T, tokens[1:])
        loss.backward()
        adam.step()
        adam.zero_grad()

    documents = [torch.tensor(list(docs.document(d))) for d in range(100)]
    torch.set_num_threads(1)

    def train_on_all() -> None:
        for tokens in documents:
            step(tokens)

    return best(train_on_all, seconds) / 100


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring")
    took = measure(names_batch(), parser.parse_args().seconds)
    print(f"the original's job, torch float32: {took * 1e6:.0f} µs per step")
