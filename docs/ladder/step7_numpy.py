"""Step 7: the same GPT on whole matrices, with every gradient derived by hand again.

Autograd handles one number at a time and remembers each. But the model needs only a few products of
matrices per document, and so do the derivatives. Below, d_x means dL/dx and has the shape of x.
Kamon's native engine uses the same formulas in C++.

T: positions, C: N_EMBD, H: N_HEAD, D = C / H: numbers per head, V: VOCAB_SIZE.
"""

import random

import numpy as np

from kamon.data.builtin import names
from kamon.data.split import split

# One token per character, and one more, BOS, before and after each name. So the model learns where
# names begin and end like anything else.
CHARS = sorted(set("".join(names())))
BOS = len(CHARS)
VOCAB_SIZE = len(CHARS) + 1

BLOCK_SIZE = 16  # positions: no name has more than 15 letters
N_EMBD = 16  # numbers per token
N_HEAD = 4  # heads, which divide these numbers among themselves
N_LAYER = 1  # layers of attention and a small network
LEARNING_RATE = 0.01  # at the start. It falls to 0
BETA1, BETA2 = 0.85, 0.99  # share of the running means kept in each step
NUM_STEPS = 26_724  # one name each: all of them, once


def encode(name):
    return [BOS, *map(CHARS.index, name), BOS]


def initial(rng):
    """Return every parameter matrix, (out, in), with the random numbers of step 6."""

    def matrix(n_out, n_in):
        return np.array([[rng.gauss(0, 0.08) for _ in range(n_in)] for _ in range(n_out)])

    params = {
        "wte": matrix(VOCAB_SIZE, N_EMBD),
        "wpe": matrix(BLOCK_SIZE, N_EMBD),
        "lm_head": matrix(VOCAB_SIZE, N_EMBD),
    }
    for i in range(N_LAYER):
        params[f"layer{i}.attn_wq"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.attn_wk"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.attn_wv"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.attn_wo"] = matrix(N_EMBD, N_EMBD)
        params[f"layer{i}.mlp_fc1"] = matrix(4 * N_EMBD, N_EMBD)
        params[f"layer{i}.mlp_fc2"] = matrix(N_EMBD, 4 * N_EMBD)
    return params


def layer(params, i):
    """Return the six matrices of a layer, in the order above."""
    return [w for name, w in params.items() if name.startswith(f"layer{i}.")]


def softmax(logits):
    """Turn any numbers into probabilities. Subtracting the largest avoids an overflow."""
    exps = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exps / exps.sum(axis=-1, keepdims=True)


def rms_scale(x):
    return (np.mean(x**2, axis=-1, keepdims=True) + 1e-5) ** -0.5


def rmsnorm(x):
    """y = s x, with s = (mean(x²) + 1e-5)^−½"""
    return rms_scale(x) * x


def rmsnorm_backward(x, d_y):
    """ds/dxⱼ = −s³ xⱼ / C  →  d_x = s (d_y − y mean(y · d_y))

    The part of the gradient along x is removed, since the length of x does not change y.
    """
    s = rms_scale(x)
    y = s * x
    return s * (d_y - y * np.mean(y * d_y, axis=-1, keepdims=True))


def split_heads(x):
    """(T, C) to (H, T, D)"""
    return x.reshape(len(x), N_HEAD, -1).transpose(1, 0, 2)


def join_heads(x):
    """(H, T, D) to (T, C)"""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def forward(params, tokens):
    """Return the probabilities (T, V) after each token, and what the gradient needs."""
    future = np.triu(np.full((len(tokens), len(tokens)), -np.inf), k=1)
    embedded = params["wte"][tokens] + params["wpe"][: len(tokens)]
    x = rmsnorm(embedded)
    kept = []
    for i in range(N_LAYER):
        wq, wk, wv, wo, fc1, fc2 = layer(params, i)
        x_in = x
        n_in = rmsnorm(x_in)
        q, k, v = (split_heads(n_in @ w.T) for w in (wq, wk, wv))
        # All positions are computed at once, so a mask hides the later ones: e^−∞ = 0.
        weights = softmax(q @ k.transpose(0, 2, 1) * q.shape[2] ** -0.5 + future)
        seen = join_heads(weights @ v)
        x_mid = x_in + seen @ wo.T
        n_mid = rmsnorm(x_mid)
        h = np.maximum(0, n_mid @ fc1.T)
        x = x_mid + h @ fc2.T
        kept.append((x_in, n_in, q, k, v, weights, seen, x_mid, n_mid, h))
    return softmax(x @ params["lm_head"].T), x, kept, embedded


def gradient(params, name):
    """Return the mean loss of a document, and its derivative with respect to every parameter."""
    tokens = encode(name)
    inputs, targets = tokens[:-1], tokens[1:]
    places = np.arange(len(targets))
    probs, x, kept, embedded = forward(params, inputs)
    grads = {key: np.zeros_like(w) for key, w in params.items()}

    # L = −mean log softmax(logits)[target]  →  d_logits = (probs − [target]) / T
    d_logits = probs.copy()
    d_logits[places, targets] -= 1
    d_logits /= len(targets)
    # Y = X Wᵀ  →  d_W = d_Yᵀ X,  d_X = d_Y W. The same holds for each linear map below.
    grads["lm_head"] += d_logits.T @ x
    d_x = d_logits @ params["lm_head"]
    for i in reversed(range(N_LAYER)):
        wq, wk, wv, wo, fc1, fc2 = layer(params, i)
        d_wq, d_wk, d_wv, d_wo, d_fc1, d_fc2 = layer(grads, i)
        x_in, n_in, q, k, v, weights, seen, x_mid, n_mid, h = kept[i]

        # x = x_mid + h fc2ᵀ: the gradient takes both ways, and they are added at the end.
        d_fc2 += d_x.T @ h
        # h = max(0, a), a = n_mid fc1ᵀ  →  d_a = d_h where h > 0, else 0
        d_a = d_x @ fc2 * (h > 0)
        d_fc1 += d_a.T @ n_mid
        d_x = d_x + rmsnorm_backward(x_mid, d_a @ fc1)

        # x_mid = x_in + seen woᵀ
        d_wo += d_x.T @ seen
        d_seen = split_heads(d_x @ wo)
        # seen = A v, with A the weights  →  d_v = Aᵀ d_seen,  d_A = d_seen vᵀ
        d_v = weights.transpose(0, 2, 1) @ d_seen
        d_weights = d_seen @ v.transpose(0, 2, 1)
        # A = softmax(S), row by row: dAⱼ/dSᵢ = Aⱼ ([i = j] − Aᵢ)  →  d_S = A (d_A − Σ A d_A)
        mean = np.sum(weights * d_weights, axis=-1, keepdims=True)
        d_scores = weights * (d_weights - mean) * q.shape[2] ** -0.5
        # S = q kᵀ / √D  →  d_q = d_S k / √D,  d_k = d_Sᵀ q / √D
        d_q = join_heads(d_scores @ k)
        d_k = join_heads(d_scores.transpose(0, 2, 1) @ q)
        d_v = join_heads(d_v)
        d_wq += d_q.T @ n_in
        d_wk += d_k.T @ n_in
        d_wv += d_v.T @ n_in
        d_x = d_x + rmsnorm_backward(x_in, d_q @ wq + d_k @ wk + d_v @ wv)

    # embedded = rows of wte + rows of wpe: a letter that occurs twice gets both gradients.
    d_x = rmsnorm_backward(embedded, d_x)
    np.add.at(grads["wte"], inputs, d_x)
    grads["wpe"][: len(inputs)] += d_x
    return -np.mean(np.log(probs[places, targets])), grads


def train(params, docs):
    """Take a document, its gradient and a step of Adam. The learning rate falls to 0."""
    means = {key: np.zeros_like(w) for key, w in params.items()}  # of the gradient
    squares = {key: np.zeros_like(w) for key, w in params.items()}  # of its square
    losses = []
    for step, name in enumerate(docs):
        loss, grads = gradient(params, name)
        rate = LEARNING_RATE * (1 - step / len(docs))
        for key, grad in grads.items():
            means[key] += (1 - BETA1) * (grad - means[key])
            squares[key] += (1 - BETA2) * (grad**2 - squares[key])
            mean = means[key] / (1 - BETA1 ** (step + 1))
            square = squares[key] / (1 - BETA2 ** (step + 1))
            params[key] -= rate * mean / (np.sqrt(square) + 1e-8)
        losses.append(loss)
    return losses


def mean_loss(params, docs):
    """Return −log p(next token), in nats, averaged over all tokens of all documents."""
    losses = []
    for name in docs:
        tokens = encode(name)
        probs = forward(params, tokens[:-1])[0]
        losses.extend(-np.log(probs[np.arange(len(name) + 1), tokens[1:]]))
    return np.mean(losses)


def sample(params, rng):
    """Return a new name: start with BOS and sample tokens by probability until BOS comes again."""
    tokens = [BOS]
    while len(tokens) <= BLOCK_SIZE:
        probs = forward(params, tokens)[0][-1]
        tokens += rng.choices(range(VOCAB_SIZE), probs)
        if tokens[-1] == BOS:
            break
    return "".join(CHARS[token] for token in tokens if token != BOS)


def main():
    # A tenth is the validation set: the same names in all steps and in `kamon train`. A test on the
    # training set would only show how good a model's memory is.
    training, validation = map(list, split(names()))
    rng = random.Random(42)
    rng.shuffle(training)
    params = initial(rng)
    losses = train(params, training[:NUM_STEPS])
    print(f"loss {losses[0]:.4f} at first, {sum(losses[-500:]) / 500:.4f} in the last 500 steps")
    print(f"validation loss {mean_loss(params, validation):.4f}")
    print("samples:", *[sample(params, rng) for _ in range(8)])


if __name__ == "__main__":
    main()
