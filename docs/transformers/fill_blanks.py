"""Fill in the blank: an encoder and a GPT, on names that neither was trained on.

Both have two layers of width 32. The encoder is trained on names with missing letters. The GPT is
the one of `kamon train names --no-blend`.
"""

import math
from itertools import pairwise, product

import torch
from torch.nn import functional

import kamon
from by_scalar import one_stack
from by_torch import OneStack, filled_up, learn, made, numbers, up_to
from kamon.completion import fill
from kamon.config import Config
from kamon.data.builtin import names
from kamon.data.split import split
from kamon.engines.batch import pack_sequences
from kamon.engines.scalar import softmax
from masks import full

CHARS = sorted(set("".join(names())))
BOS = len(CHARS)  # before and after each name
BLANK = BOS + 1  # a token for a missing letter, never an answer

CONFIG = Config(n_layer=2, n_embd=32, n_head=4, vocab_size=BLANK + 1, block_size=17)
NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 4000, 64, 0.01
SHARE = 0.15  # of the letters that become blanks, but at least one per name
NUM_TESTED = 1000  # names


def encode(name):
    """Return the tokens of a name. _ is a blank.

    >>> encode("a_b")
    [26, 0, 27, 1, 26]
    """
    return [BOS, *[BLANK if char == "_" else CHARS.index(char) for char in name], BOS]


def with_blanks(tokens, lengths, generator):
    """Return which places of tokens (B, T) become blanks."""
    places = torch.arange(tokens.shape[1])
    letters = (places > 0) & (places < lengths.unsqueeze(1) - 1)
    drawn = torch.rand(tokens.shape, generator=generator).masked_fill(~letters, 2)
    return (drawn < SHARE) | (drawn == drawn.amin(1, keepdim=True))


def learned_encoder(docs, num_steps=NUM_STEPS):
    """Return a trained encoder and its loss at the end, in nats per blank."""
    encoder = made(OneStack, CONFIG)
    tokens, lengths = filled_up([encode(name) for name in docs], BOS)
    generator = torch.Generator().manual_seed(3)

    def loss_of(indices):
        longest = lengths[indices].max()
        whole = tokens[indices, :longest]
        blank = with_blanks(whole, lengths[indices], generator)
        logits = encoder(whole.masked_fill(blank, BLANK), up_to(lengths[indices], longest))
        return functional.cross_entropy(logits[blank], whole[blank])

    loss = learn(encoder, loss_of, len(docs), num_steps, BATCH_SIZE, LEARNING_RATE, seed=2)
    return encoder, loss


def by_encoder(encoder, patterns):
    """Return log p (V) of each token at each blank. All patterns take one pass."""
    tokens, lengths = filled_up([encode(pattern) for pattern in patterns], BOS)
    with torch.inference_mode():
        logits = encoder(tokens, up_to(lengths, tokens.shape[1]))
    return functional.log_softmax(logits[tokens == BLANK], -1)


def by_gpt(gpt, patterns, right_side=True):
    """Return log p of each way to fill each pattern: (patterns, 26 ** blanks), normalised.

    A GPT has a probability for a whole name, so this fills in all letters and compares. Without the
    right side it takes the probability of the next letter, as in sampling.
    """
    docs, ways = [], list(product(range(len(CHARS)), repeat=patterns[0].count("_")))
    for pattern in patterns:
        tokens = encode(pattern)
        places = [place for place, token in enumerate(tokens) if token == BLANK]
        for way in ways:
            for place, token in zip(places, way, strict=True):
                tokens[place] = token
            docs.append(list(tokens) if right_side else tokens[: places[0] + 1])
    batch = pack_sequences(docs)
    logprobs = torch.tensor(gpt.engine.logprobs(batch))
    lengths = torch.tensor([len(doc) - 1 for doc in docs])
    if right_side:
        found = torch.zeros(len(docs)).index_add(
            0, torch.arange(len(docs)).repeat_interleave(lengths), logprobs.float()
        )
    else:
        found = logprobs[lengths.cumsum(0) - 1].float()
    return functional.log_softmax(found.view(len(patterns), -1), -1)


def blanks_of(docs):
    """Return each name with each letter as a blank, and the letters."""
    patterns = [doc[:i] + "_" + doc[i + 1 :] for doc in docs for i in range(len(doc))]
    return patterns, torch.tensor([CHARS.index(char) for doc in docs for char in doc])


def row(title, logprobs, targets, passes):
    right = (logprobs.argmax(1) == targets).double().mean()
    nats = functional.nll_loss(logprobs, targets)
    print(f"{title:42} {right:8.1%}   {nats:7.4f}   {passes:>4}")


def show_answers(encoder, pattern):
    """Print the three most probable letters by torch and by the scalar engine."""
    of_torch = by_encoder(encoder, [pattern])[0].exp().tolist()
    tokens = encode(pattern)
    mask = full(len(tokens), len(tokens))
    logits = one_stack(numbers(encoder), CONFIG.n_layer, CONFIG.head_dim, tokens, mask)
    of_scalar = softmax(logits[tokens.index(BLANK)])
    for engine, probs in (("torch", of_torch), ("scalar", of_scalar)):
        best = sorted(range(len(CHARS)), key=lambda token: -probs[token])[:3]
        print(f"{pattern}  {engine:6}", *[f"{CHARS[token]} {probs[token]:6.2%}" for token in best])


def main():
    torch.set_num_threads(1)
    training, validation = map(list, split(names()))
    gpt = kamon.train(names(), blend=False)
    assert gpt.tokenizer.encode("az") == encode("az")[1:-1]
    encoder, loss = learned_encoder(training)
    print(f"encoder: loss {loss:.4f} nats per blank at the end")
    print(f"GPT: validation loss {gpt.training['held_out']['loss']:.4f} nats per token\n")

    tested = validation[:: len(validation) // NUM_TESTED][:NUM_TESTED]
    patterns, targets = blanks_of(tested)
    counts = torch.tensor([sum(doc.count(char) for doc in training) for char in CHARS])
    print(f"{len(patterns):,} blanks, one per name{'':18}right  nats each  passes")
    often = (counts / counts.sum()).log().expand(len(patterns), -1)
    row("how often a letter occurs", often, targets, 0)
    row("GPT, left side only", by_gpt(gpt, patterns, right_side=False), targets, 1)
    row("GPT, both sides: compares all 26 names", by_gpt(gpt, patterns), targets, 26)
    row("encoder, both sides", by_encoder(encoder, patterns), targets, 1)

    pairs = [(doc, i) for doc in tested[::5] for i, _ in enumerate(pairwise(doc))]
    patterns = [doc[:i] + "__" + doc[i + 2 :] for doc, i in pairs]
    two = [[CHARS.index(char) for char in doc[i : i + 2]] for doc, i in pairs]
    first, second = torch.tensor(two).T
    targets = first * len(CHARS) + second
    logprobs = by_encoder(encoder, patterns)[:, : len(CHARS)]
    each = (logprobs[::2].unsqueeze(2) + logprobs[1::2].unsqueeze(1)).flatten(1)
    print(f"\n{len(patterns):,} pairs of blanks side by side{'':13}both right  nats both  passes")
    row("GPT, compares all 676 names", by_gpt(gpt, patterns), targets, 676)
    row("encoder, each blank separately", each, targets, 1)

    print("\nthe encoder's answers, computed twice")
    for pattern in ("mar_a", "_ennifer", "jo_n"):
        show_answers(encoder, pattern)
    best = fill(gpt, "mar_a", 3).documents
    print("kamon fill mar_a:", *[f"{found.text} {found.share:.1%}" for found in best])
    shares = by_gpt(gpt, ["mar_a"])[0].exp().topk(3)[0].tolist()
    scale = math.fsum(shares)
    for found, share in zip(best, shares, strict=True):  # the same search
        assert abs(found.share - share / scale) < 1e-4


if __name__ == "__main__":
    main()
