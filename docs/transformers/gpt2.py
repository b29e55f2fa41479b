"""Measure the steps from microGPT to GPT-2, one change at a time, on a list of names.

    python gpt2.py              # all rows, three seeds each: about ten minutes on one core
    python gpt2.py --seeds 1    # one seed

Every row trains the same way on the same names. Only the named part of the model changes.
"""

import argparse
import math
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from kamon.data.builtin import names
from kamon.data.split import split

CHARS = sorted(set("".join(names())))
BOS = len(CHARS)  # before and after each name
VOCAB_SIZE, BLOCK_SIZE, WIDTH, N_HEAD = BOS + 1, 16, 32, 4
NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 1500, 64, 0.01

ROWS = {  # what differs from microGPT
    "microGPT": {},
    "LayerNorm instead of RMSNorm": {"norm": "layer"},
    "biases in all matrices": {"bias": True},
    "GELU instead of ReLU": {"act": "gelu"},
    "a final norm": {"final_norm": True},
    "no norm after the embedding": {"embedding_norm": False},
    "tied embeddings": {"tied": True},
    "dropout 0.1": {"dropout": 0.1},
    "sinusoidal positions": {"positions": "sinusoidal"},
    "no positions": {"positions": "none"},
    "1 layer": {"n_layer": 1},
    "4 layers": {"n_layer": 4},
    "GPT-2: the first seven together": {
        "norm": "layer",
        "bias": True,
        "act": "gelu",
        "final_norm": True,
        "embedding_norm": False,
        "tied": True,
        "dropout": 0.1,
    },
}


class RmsNorm(nn.Module):
    """Scale a vector to the length √n. It has no parameters."""

    def forward(self, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()


def sinusoids(length, width):
    """Return the positions of the original Transformer: sines and cosines of falling frequency."""
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class Layer(nn.Module):
    """Attention and a small network, each added to what came in."""

    def __init__(self, make_norm, bias, act, dropout):
        super().__init__()
        self.norm1, self.norm2 = make_norm(), make_norm()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.out = nn.Linear(WIDTH, WIDTH, bias=bias)
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH, bias=bias)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH, bias=bias)
        self.act = {"relu": functional.relu, "gelu": functional.gelu}[act]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (N_HEAD, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.fc2(self.act(self.fc1(self.norm2(x)))))


class Model(nn.Module):
    """microGPT with two layers of width 32, unless an argument says otherwise."""

    def __init__(
        self,
        norm="rms",
        bias=False,
        act="relu",
        final_norm=False,
        embedding_norm=True,
        tied=False,
        dropout=0.0,
        positions="learned",
        n_layer=2,
    ):
        super().__init__()

        def make_norm():
            return RmsNorm() if norm == "rms" else nn.LayerNorm(WIDTH)

        self.wte = nn.Embedding(VOCAB_SIZE, WIDTH)
        if positions == "learned":
            self.wpe = nn.Parameter(torch.empty(BLOCK_SIZE, WIDTH))
        else:
            fixed = sinusoids(BLOCK_SIZE, WIDTH) * 0.1  # as large as an embedding
            self.register_buffer("wpe", fixed if positions == "sinusoidal" else fixed * 0)
        self.embedding_norm = make_norm() if embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(Layer(make_norm, bias, act, dropout) for _ in range(n_layer))
        self.final_norm = make_norm() if final_norm else nn.Identity()
        self.lm_head = nn.Linear(WIDTH, VOCAB_SIZE, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe[: tokens.shape[1]]
        x = self.dropout(self.embedding_norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.final_norm(x))


def made(seed, **options):
    """Return a model with its first parameters: matrices normal with deviation 0.1, biases zero."""
    torch.manual_seed(seed)
    model = Model(**options)
    for name, p in model.named_parameters():
        if p.dim() == 2:
            nn.init.normal_(p, 0, 0.1)
        elif name.endswith("bias"):
            nn.init.zeros_(p)
    return model


def tensor_of(docs):
    """Return tokens (documents, 17), filled with -1 after the end."""
    rows = [[BOS, *(CHARS.index(char) for char in doc), BOS] for doc in docs]
    return torch.tensor([row + [-1] * (BLOCK_SIZE + 1 - len(row)) for row in rows])


def loss_of(model, rows, reduction="mean"):
    rows = rows[:, : int((rows >= 0).sum(1).max())]
    logits = model(rows[:, :-1].clamp(min=0))
    return functional.cross_entropy(
        logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=-1, reduction=reduction
    )


def train(model, rows, seed, num_steps=NUM_STEPS):
    """Train with Adam. The learning rate rises for a fiftieth of the steps and then falls to 0."""
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
    for step in range(num_steps):
        warm = min(1, (step + 1) / (num_steps / 50))
        decay = (1 + math.cos(math.pi * step / num_steps)) / 2
        adam.param_groups[0]["lr"] = LEARNING_RATE * warm * decay
        chosen = torch.randint(len(rows), (BATCH_SIZE,), generator=generator)
        adam.zero_grad()
        loss_of(model, rows[chosen]).backward()
        adam.step()


def validation_loss(model, rows):
    """Return the loss in nats per token."""
    model.eval()
    with torch.no_grad():
        total = sum(loss_of(model, part, "sum").item() for part in rows.split(512))
    return total / (rows[:, 1:] >= 0).sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    training, validation = map(tensor_of, map(list, split(names())))
    print(f"{'':32}parameters   validation loss   seconds")
    for title, options in ROWS.items():
        started = time.process_time()
        losses = []
        for seed in seeds:
            model = made(seed, **options)
            train(model, training, seed)
            losses.append(validation_loss(model, validation))
        size = sum(p.numel() for p in model.parameters())
        spread = (max(losses) - min(losses)) / 2
        seconds = (time.process_time() - started) / len(losses)
        mean = statistics.fmean(losses)
        print(f"{title:32}{size:10,}   {mean:.3f} ± {spread:.3f}   {seconds:7.1f}", flush=True)


if __name__ == "__main__":
    main()
