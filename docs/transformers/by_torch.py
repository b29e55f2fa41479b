"""The same transformers as PyTorch modules, for many texts at a time.

They use the modules of Kamon's torch engine. Parameters have the names and shapes of by_scalar.py,
and `numbers(module)` gives them as lists for it. Masks are tensors here, and a hidden position gets
the weight e^−∞ = 0. B: texts, T: positions that look, S: positions they may look at, C: n_embd,
H: heads, D: head_dim, V: vocab_size. Shorter texts are padded after their end, and the mask hides
the padding.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from by_scalar import shapes
from kamon.engines.torch import Gpt, Layer, rmsnorm


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


def up_to(lengths, size):
    """Return (B, 1, size): every position sees this many of the first ones."""
    return (torch.arange(size) < lengths.unsqueeze(1)).unsqueeze(1)


def attend(queries, keys, values, mask, config):
    """Return what T positions take (B, T, C) from the S that the mask (B, T, S) lets them see."""

    def heads(x):
        return x.unflatten(-1, (config.n_head, config.head_dim)).transpose(1, 2)

    mask = mask.unsqueeze(-3)  # the same for all heads
    gathered = functional.scaled_dot_product_attention(
        heads(queries), heads(keys), heads(values), attn_mask=mask
    )
    return gathered.transpose(1, 2).flatten(2)


def look(layer, x, mask):
    gathered = attend(*layer.qkv(x), mask, layer.config)
    return x + functional.linear(gathered, layer.attn_wo)


class OneStack(Gpt):
    """An encoder, a decoder or something between: the mask (B or 1, T, T) decides."""

    def forward(self, tokens, mask):
        """Return logits (B, T, V) for tokens (B, T)."""
        x = self.embed(tokens, torch.arange(tokens.shape[1]))
        for layer in self.layers():
            x = look(layer, x, mask)
            x = x + layer.mlp(x)
        return functional.linear(x, self.lm_head)


class Cross(nn.Module):
    """A decoder's look into the encoder."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        shape = (config.n_embd, config.n_embd)
        self.attn_wq, self.attn_wk, self.attn_wv, self.attn_wo = (
            nn.Parameter(torch.zeros(shape)) for _ in range(4)
        )

    def forward(self, x, memory, mask):
        queries = functional.linear(rmsnorm(x), self.attn_wq)
        keys = functional.linear(rmsnorm(memory), self.attn_wk)
        values = functional.linear(rmsnorm(memory), self.attn_wv)
        gathered = attend(queries, keys, values, mask, self.config)
        return x + functional.linear(gathered, self.attn_wo)


class EncoderDecoder(Gpt):
    """A GPT as the decoder, with an encoder and cross-attention in each layer."""

    def __init__(self, config, shapes):
        super().__init__(config, shapes)
        for i, layer in enumerate(self.layers()):
            own = {name: tuple(p.shape) for name, p in layer.named_parameters()}
            self.add_module(f"encoder{i}", Layer(config, i, own))
            self.add_module(f"cross{i}", Cross(config))

    def encode(self, source, lengths):
        """Return the output of the encoder (B, S, C) for source (B, S), computed once per text."""
        memory = self.embed(source, torch.arange(source.shape[1]))
        for i in range(self.config.n_layer):
            encoder = self.get_submodule(f"encoder{i}")
            memory = look(encoder, memory, up_to(lengths, source.shape[1]))
            memory = memory + encoder.mlp(memory)
        return memory

    def decode(self, memory, lengths, target):
        """Return logits (B, T, V) for what follows each token of target (B, T)."""
        x = self.embed(target, torch.arange(target.shape[1]))
        for i, layer in enumerate(self.layers()):
            x = look(layer, x, causal(target.shape[1]))
            x = self.get_submodule(f"cross{i}")(x, memory, up_to(lengths, memory.shape[1]))
            x = x + layer.mlp(x)
        return functional.linear(x, self.lm_head)

    def forward(self, source, lengths, target):
        return self.decode(self.encode(source, lengths), lengths, target)


# ---- Learning


def made(kind, config, seed=1):
    """Return a module with its first parameters: normal, standard deviation 0.1."""
    c = config
    module = kind(c, shapes(c.n_embd, c.n_layer, c.vocab_size, c.block_size))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.1, generator=generator)
    return module


def numbers(module):
    """Return the parameters in the form of by_scalar.py."""
    return {name: p.tolist() for name, p in module.state_dict().items()}


def num_params(module):
    return sum(p.numel() for p in module.parameters())


def filled_up(texts, filler):
    """Return lists of tokens as one tensor (B, longest), and their lengths (B,)."""
    size = max(map(len, texts))
    rows = [[*text, *[filler] * (size - len(text))] for text in texts]
    return torch.tensor(rows), torch.tensor([len(text) for text in texts])


def learn(module, loss_of, num_examples, num_steps, batch_size, learning_rate, seed):
    """Train with Adam on `loss_of(indices)`. Return the mean loss of the last hundred steps.

    All examples come in random order, again and again. The learning rate rises for a fiftieth of
    the steps and then falls to 0 along half a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(module.parameters(), betas=(0.9, 0.99), fused=True)
    order = torch.empty(0, dtype=torch.long)
    losses = []
    for step in range(num_steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(num_examples, generator=generator)])
        indices, order = order[:batch_size], order[batch_size:]
        warm = min(1, (step + 1) / (num_steps / 50))
        rate = learning_rate * warm * (1 + math.cos(math.pi * step / num_steps)) / 2
        adam.param_groups[0]["lr"] = rate
        loss = loss_of(indices)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    return torch.stack(losses[-100:]).mean().item()
