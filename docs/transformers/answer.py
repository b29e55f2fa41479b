"""Turn a name into another word, by an encoder-decoder and by single stacks.

    python answer.py reversed    # the letters in reverse order
    python answer.py nicknames   # the 2,690 pairs of the package nicknames

An encoder-decoder reads the name with one stack and writes the answer with another. A single stack
gets both in one row: the name, a token in between, the answer. It is a decoder, or it has a prefix
mask and reads the name in both directions. Its loss is on the answer only, or on everything.
"""

import sys

import torch
from torch.nn import functional

from by_scalar import encoder_decoder
from by_torch import (
    EncoderDecoder,
    OneStack,
    causal,
    filled_up,
    learn,
    made,
    num_params,
    numbers,
    up_to,
)
from kamon.config import Config
from kamon.data.builtin import names
from kamon.data.split import bucket, split

CHARS = sorted(set("".join(names())))
BOS = len(CHARS)  # before and after each name
ANSWER = BOS + 1  # in one row: between a name and its answer

LONGEST = 15  # letters of a name or an answer
SIZE = {"n_embd": 32, "n_head": 4}
TWO = Config(n_layer=1, vocab_size=BOS + 1, block_size=LONGEST + 2, **SIZE)
ONE = Config(n_layer=2, vocab_size=ANSWER + 1, block_size=2 * LONGEST + 2, **SIZE)
BATCH_SIZE = 64
NUM_STEPS = {"reversed": 1000, "nicknames": 400}
LEARNING_RATE = {"reversed": 0.01, "nicknames": 0.005}


def letters(text):
    return [CHARS.index(char) for char in text]


def read(tokens):
    """Return the text of the tokens before the first one that is not a letter."""
    end = next((i for i, token in enumerate(tokens) if token >= BOS), len(tokens))
    return "".join(CHARS[token] for token in tokens[:end])


def cross_entropy(logits, targets, chosen):
    return functional.cross_entropy(logits[chosen], targets[chosen])


# ---- Two stacks


def learned_encoder_decoder(pairs, num_steps, learning_rate):
    """Return a trained encoder-decoder with one layer in each stack."""
    model = made(EncoderDecoder, TWO)
    sources, source_lengths = filled_up([[BOS, *letters(name), BOS] for name, _ in pairs], BOS)
    targets, target_lengths = filled_up([[BOS, *letters(word), BOS] for _, word in pairs], BOS)

    def loss_of(indices):
        lengths, size = source_lengths[indices], target_lengths[indices].max()
        source, target = sources[indices, : lengths.max()], targets[indices, :size]
        chosen = up_to(target_lengths[indices] - 1, size - 1).squeeze(1)
        return cross_entropy(model(source, lengths, target[:, :-1]), target[:, 1:], chosen)

    learn(model, loss_of, len(pairs), num_steps, BATCH_SIZE, learning_rate, seed=2)
    return model


def answers_of_two(model, asked):
    """Return the most probable letters one by one, until BOS."""
    source, lengths = filled_up([[BOS, *letters(name), BOS] for name in asked], BOS)
    with torch.inference_mode():
        memory = model.encode(source, lengths)
        target = torch.full((len(asked), 1), BOS)
        for _ in range(LONGEST + 1):
            best = model.decode(memory, lengths, target)[:, -1].argmax(1, keepdim=True)
            target = torch.cat([target, best], 1)
    return [read(row) for row in target[:, 1:].tolist()]


# ---- One stack


def mask_of(length, given, both_ways):
    """Return (B, T, T), or (1, T, T) if all look back. given: (B,) positions up to ANSWER."""
    mask = causal(length).unsqueeze(0)
    return mask | up_to(given, length) if both_ways else mask


def learned_one_stack(pairs, num_steps, learning_rate, both_ways, whole, model=None):
    """Two layers. whole: the loss is also on the names, and a pair without a word has no ANSWER.
    model: continues to train this one."""
    model = model or made(OneStack, ONE)
    rows = [
        [BOS, *letters(name), *([ANSWER, *letters(word)] if word else []), BOS]
        for name, word in pairs
    ]
    tokens, lengths = filled_up(rows, BOS)
    given = torch.tensor([len(name) + 2 for name, _ in pairs])

    def loss_of(indices):
        size = lengths[indices].max()
        row = tokens[indices, :size]
        chosen = up_to(lengths[indices] - 1, size - 1).squeeze(1)
        if not whole:
            chosen = chosen & ~up_to(given[indices] - 1, size - 1).squeeze(1)
        logits = model(row[:, :-1], mask_of(size - 1, given[indices], both_ways))
        return cross_entropy(logits, row[:, 1:], chosen)

    learn(model, loss_of, len(pairs), num_steps, BATCH_SIZE, learning_rate, seed=2)
    return model


def answers_of_one(model, asked, both_ways):
    rows = [[BOS, *letters(name), ANSWER, *[BOS] * LONGEST] for name in asked]
    tokens, _ = filled_up(rows, BOS)
    given = torch.tensor([len(name) + 2 for name in asked])
    each = torch.arange(len(asked))
    mask = mask_of(tokens.shape[1], given, both_ways)
    with torch.inference_mode():
        for i in range(LONGEST):
            logits = model(tokens, mask)[each, given + i - 1]
            tokens[each, given + i] = logits.argmax(1)
    return [read(row[n:]) for row, n in zip(tokens.tolist(), given.tolist(), strict=True)]


def nats_of_names(model, docs):
    """Return the loss of a decoder on the names before ANSWER, in nats per letter."""
    tokens, lengths = filled_up([[BOS, *letters(name)] for name in docs], BOS)
    size = tokens.shape[1] - 1
    with torch.inference_mode():
        logits = model(tokens[:, :-1], causal(size).unsqueeze(0))
    chosen = up_to(lengths - 1, size).squeeze(1)
    return cross_entropy(logits, tokens[:, 1:], chosen).item()


# ---- Training data


def reversed_pairs():
    """Return training pairs, and the right answers for each name in the test."""
    training, validation = map(list, split(names()))
    right = {name: {name[::-1]} for name in validation[::3]}
    return [(name, name[::-1]) for name in training], right


def nickname_pairs():
    """Return the same for nicknames. A tenth of the names is for the test."""
    from nicknames import NickNamer

    pairs = sorted(
        (name, short)
        for name, called in NickNamer.default_lookup().items()
        for short in called
        if set(name + short) <= set(CHARS) and max(len(name), len(short)) <= LONGEST
    )
    right = {}
    for name, short in pairs:
        if bucket(name.encode()) == 0:
            right.setdefault(name, set()).add(short)
    return [pair for pair in pairs if pair[0] not in right], right


# ---- Results


def row(title, size, answers, right):
    hits = sum(answer in right[name] for name, answer in zip(right, answers, strict=True))
    print(f"{title:38} {size:>10} {hits:5} of {len(right):,} {hits / len(right):7.1%}")


def show(model, name):
    """Print the answers of torch and of the scalar engine, and its attention for each letter."""
    params = numbers(model)
    target, watched = [BOS], []
    while len(target) < LONGEST + 2 and (len(target) == 1 or target[-1] != BOS):
        watched = []
        source = [BOS, *letters(name), BOS]
        logits = encoder_decoder(params, TWO.n_layer, TWO.head_dim, source, target, watched)[-1]
        target.append(logits.index(max(logits)))
    print(f"\n{name}: {answers_of_two(model, [name])[0]} by torch, {read(target[1:])} by scalar")
    print("where it looked for each letter (cross-attention, mean of the heads)")
    print(f"      ‹{name}›")
    for letter, heads in zip([*read(target[1:]), "›"], watched, strict=False):
        means = [sum(of_position) / TWO.n_head for of_position in zip(*heads, strict=True)]
        print(f"    {letter} {''.join(map(shade, means))}")


def shade(weight):
    return "·░▒▓█"[min(4, round(weight * 5))]


def main():
    torch.set_num_threads(1)
    task = sys.argv[1] if len(sys.argv) > 1 else "reversed"
    pairs, right = {"reversed": reversed_pairs, "nicknames": nickname_pairs}[task]()
    settings = NUM_STEPS[task], LEARNING_RATE[task]
    print(f"{len(pairs):,} training pairs, {len(right):,} other names in the test\n")
    print(f"{task:38} parameters     right answers")
    two = learned_encoder_decoder(pairs, *settings)
    row("encoder-decoder", f"{num_params(two):,}", answers_of_two(two, right), right)
    for title, both_ways, whole in (
        ("prefix, loss on answers", True, False),
        ("decoder, loss on answers", False, False),
        ("decoder, loss on everything", False, True),
    ):
        one = learned_one_stack(pairs, *settings, both_ways, whole)
        answers = answers_of_one(one, right, both_ways)
        row(title, f"{num_params(one):,}", answers, right)
    nats = nats_of_names(one, right)
    if task == "nicknames":
        training, _ = split(names())
        one = learned_one_stack([(name, "") for name in training], 1000, 0.01, False, True)
        one = learned_one_stack(pairs, *settings, False, True, one)
        answers = answers_of_one(one, right, False)
        row("decoder, everything, names first", f"{num_params(one):,}", answers, right)
        row("the first three letters", "", [name[:3] for name in right], right)
    print(f"\ndecoder, loss on everything: {nats:.4f} nats per letter of the names")
    for name in ("kamon", "jasmine") if task == "reversed" else list(right)[:2]:
        show(two, name)


if __name__ == "__main__":
    main()
