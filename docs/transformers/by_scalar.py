"""Three transformers, one number at a time, made from the functions of Kamon's scalar engine.

    one_stack         an encoder, a decoder or something between: the mask decides
    encoder_decoder   two stacks: each position of the second also looks into the first

With a causal mask `one_stack` computes what `gpt` computes, to the last bit. But `gpt` goes from
token to token and keeps keys and values. It can, because no earlier position sees the new one. In
an encoder all positions see a new token, so it computes everything again, layer by layer.

Numbers are floats, or Values if a gradient is needed. T: positions that look, S: positions they may
look at, C: n_embd, D: head_dim, V: vocab_size.
"""

import random
from array import array
from functools import reduce
from operator import add

from kamon.engines.scalar import (
    Value,
    adam,
    attention,
    attention_weights,
    embed,
    linear,
    log,
    mlp,
    qkv,
    rmsnorm,
    softmax,
)
from masks import causal, full


def attend(params, layer, head_dim, queries, keys, values, mask, watched=None):
    """Return what each of T positions takes (T, C) from the positions that the mask shows it.

    Attention does not get the hidden positions at all. Each position appends its weights, one list
    per head, to `watched` if that is given.
    """
    gathered = []
    for q, sees in zip(queries, mask, strict=True):
        seen = [place for place, allowed in enumerate(sees) if allowed]
        weights = attention_weights(q, [keys[place] for place in seen], head_dim)
        if watched is not None:
            watched.append(weights)
        heads = attention(weights, [values[place] for place in seen], head_dim)
        gathered.append(linear(heads, params[f"{layer}.attn_wo"]))
    return gathered


def added(xs, ys):
    return [list(map(add, x, y)) for x, y in zip(xs, ys, strict=True)]


def look(params, layer, head_dim, xs, mask):
    """Return the residual stream (T, C) after the positions have looked at each other."""
    queries, keys, values = zip(*[qkv(params, layer, x) for x in xs], strict=True)
    return added(attend(params, layer, head_dim, queries, keys, values, mask), xs)


def look_across(params, layer, head_dim, xs, memory, watched=None):
    """Return it after they have looked at the whole output of the encoder, `memory` (S, C)."""
    queries = [linear(rmsnorm(x), params[f"{layer}.attn_wq"]) for x in xs]
    keys = [linear(rmsnorm(m), params[f"{layer}.attn_wk"]) for m in memory]
    values = [linear(rmsnorm(m), params[f"{layer}.attn_wv"]) for m in memory]
    mask = full(len(xs), len(memory))
    return added(attend(params, layer, head_dim, queries, keys, values, mask, watched), xs)


def think(params, layer, xs):
    return added([mlp(params, layer, x) for x in xs], xs)


def embedded(params, tokens):
    return [embed(params, token, position) for position, token in enumerate(tokens)]


def one_stack(params, n_layer, head_dim, tokens, mask):
    """Return logits (T, V): for the token at each position (encoder) or after it (decoder).

    The parameters are those of a GPT.
    """
    xs = embedded(params, tokens)
    for i in range(n_layer):
        xs = look(params, f"layer{i}", head_dim, xs, mask)
        xs = think(params, f"layer{i}", xs)
    return [linear(x, params["lm_head"]) for x in xs]


def encoder_decoder(params, n_layer, head_dim, source, target, watched=None):
    """Logits (T, V) for what follows each token of `target`, given the tokens before and `source`.

    The parameters are those of a GPT. Each layer also has those of the encoder, such as
    "encoder0.attn_wq", and four matrices for cross-attention, such as "cross0.attn_wq".
    """
    memory = embedded(params, source)
    for i in range(n_layer):
        memory = look(params, f"encoder{i}", head_dim, memory, full(len(source), len(source)))
        memory = think(params, f"encoder{i}", memory)
    xs = embedded(params, target)
    for i in range(n_layer):
        xs = look(params, f"layer{i}", head_dim, xs, causal(len(target)))
        xs = look_across(params, f"cross{i}", head_dim, xs, memory, watched)
        xs = think(params, f"layer{i}", xs)
    return [linear(x, params["lm_head"]) for x in xs]


def shapes(n_embd, n_layer, vocab_size, block_size, stacks=1):
    """Return the (out, in) of every parameter matrix. `stacks` is 2 for an encoder-decoder.

    >>> [name for name in shapes(4, 1, 3, 5, stacks=2) if "attn_wq" in name]
    ['layer0.attn_wq', 'encoder0.attn_wq', 'cross0.attn_wq']
    """
    found = {"wte": (vocab_size, n_embd), "wpe": (block_size, n_embd)}
    found["lm_head"] = (vocab_size, n_embd)
    for i in range(n_layer):
        for layer in (f"layer{i}", f"encoder{i}", f"cross{i}")[: 1 if stacks == 1 else 3]:
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
                found[f"{layer}.{name}"] = (n_embd, n_embd)
            if not layer.startswith("cross"):
                found[f"{layer}.mlp_fc1"] = (4 * n_embd, n_embd)
                found[f"{layer}.mlp_fc2"] = (n_embd, 4 * n_embd)
    return found


def main():
    """Train the encoder-decoder without torch to reverse words of three letters."""
    letters, bos = "abc", 3
    words = [a + b + c for a in letters for b in letters for c in letters]
    rng = random.Random(1)
    rng.shuffle(words)
    training, unseen = words[:20], words[20:]
    params = {
        name: [[Value(rng.gauss(0, 0.3)) for _ in range(n_in)] for _ in range(n_out)]
        for name, (n_out, n_in) in shapes(8, 1, 4, 5, stacks=2).items()
    }
    flat = [p for matrix in params.values() for row in matrix for p in row]
    m, v = array("d", bytes(8 * len(flat))), array("d", bytes(8 * len(flat)))

    def logits_for(word, answer):
        source = [bos, *map(letters.index, word), bos]
        return encoder_decoder(params, 1, 4, source, [bos, *map(letters.index, answer)])

    num_steps, losses = 200, []
    for step in range(num_steps):
        word = training[step % len(training)]
        targets = [*map(letters.index, word[::-1]), bos]
        logits = logits_for(word, word[::-1])
        logprobs = [log(softmax(row)[t]) for row, t in zip(logits, targets, strict=True)]
        loss = -reduce(add, logprobs) * (1 / len(logprobs))
        loss.backward()
        adam(flat, m, v, step, 0.02 * (1 - step / num_steps), 0.9, 0.99, 1e-8)
        losses.append(loss.data)
        if len(losses) % 40 == 0:
            print(f"steps {step - 38:3} to {step + 1:3}: loss {sum(losses[-40:]) / 40:.4f}")
    for word in unseen:
        answer = ""
        while len(answer) < 3:
            last = softmax(logits_for(word, answer)[-1])[:bos]
            answer += max(letters, key=lambda c: last[letters.index(c)].data)
        print(f"unseen: {word} -> {answer}{'' if answer == word[::-1] else '  wrong'}")


if __name__ == "__main__":
    main()
