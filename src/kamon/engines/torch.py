"""The model in PyTorch, for GPUs, bfloat16 and several machines.

`Gpt` is an ordinary module, which also works without the engine. Its parameters have the names and
shapes of a model directory, so you can load them:

    gpt.load_state_dict(safetensors.torch.load_file("model.safetensors"))

The maths is that of the scalar engine. Letters in shapes: B documents, N inputs of all documents
one after the other, T inputs of the longest document, C n_embd, H n_head, D head_dim, V vocab_size.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kamon.config import Config
from kamon.engines.base import State, StepPlan
from kamon.engines.batch import PackedBatch, check_samples
from kamon.engines.distributed import ProcessGroup
from kamon.engines.dropout import KEY
from kamon.engines.numerics import sequential_sum
from kamon.engines.philox import MASK32, MASK64, philox4x32
from kamon.native.library import check_numbers

MAX_NUMBERS = 1 << 25  # numbers in memory at once, except in training
MAX_SAMPLES = 256  # samples that are computed together


@dataclass(frozen=True)
class Inputs:
    """The inputs of some documents, packed for `Gpt`.

    Attributes:
        tokens, positions, targets: (N,).
        shape: (B, T).
        slots: (N,), the place of each input among B · T, or None if all documents have T inputs.
        dropout_ids: two tensors (N,) with the low and the high half of each document's number, or
            None without dropout.
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    shape: tuple[int, int]
    slots: Tensor | None
    dropout_ids: tuple[Tensor, Tensor] | None = None


class Layer(nn.Module):
    """Layer `number` of a model. Each parameter is (out, in)."""

    def __init__(self, config: Config, number: int, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.config, self.number = config, number
        self.attn_wq, self.attn_wk, self.attn_wv, self.attn_wo, self.mlp_fc1, self.mlp_fc2 = (
            nn.Parameter(torch.zeros(shapes[name]))
            for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")
        )

    def forward(self, x: Tensor, inputs: Inputs) -> Tensor:
        site = 2 * self.number + 1
        heads = attention(*self.qkv(x), inputs, self.config)
        x = x + drop(functional.linear(heads, self.attn_wo), inputs, site, self.config)
        return x + drop(self.mlp(x), inputs, site + 1, self.config)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = rmsnorm(x)
        wq, wk, wv = self.attn_wq, self.attn_wk, self.attn_wv
        return functional.linear(x, wq), functional.linear(x, wk), functional.linear(x, wv)

    def mlp(self, x: Tensor) -> Tensor:
        x = functional.linear(rmsnorm(x), self.mlp_fc1)
        return functional.linear(functional.relu(x), self.mlp_fc2)


class Gpt(nn.Module):
    """The model. shapes: the result of `parameter_shapes`."""

    def __init__(self, config: Config, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.config = config
        self.wte, self.wpe, self.lm_head = (
            nn.Parameter(torch.zeros(shapes[name])) for name in ("wte", "wpe", "lm_head")
        )
        for i in range(config.n_layer):
            begin = f"layer{i}."
            own = {n.removeprefix(begin): s for n, s in shapes.items() if n.startswith(begin)}
            self.add_module(f"layer{i}", Layer(config, i, own))

    def layers(self) -> Iterator[Layer]:
        for i in range(self.config.n_layer):
            layer = self.get_submodule(f"layer{i}")
            assert isinstance(layer, Layer)
            yield layer

    def forward(self, inputs: Inputs) -> Tensor:
        """Return −log p of every target (N,), in nats, at least in float32."""
        x = self.embed(inputs.tokens, inputs.positions)
        x = drop(x, inputs, 0, self.config)
        for layer in self.layers():
            x = layer(x, inputs)
        logits = functional.linear(x, self.lm_head)
        return functional.cross_entropy(logits, inputs.targets, reduction="none")

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = functional.embedding(tokens, self.wte) + functional.embedding(positions, self.wpe)
        return rmsnorm(x)

    def next_logits(self, tokens: Tensor, position: int, cache: list[Tensor]) -> Tensor:
        """Return the logits (B, V) of the tokens after `tokens` (B,), which are at `position`.

        cache: the keys and values of each layer, (2, B, H, block_size, D). This adds one of each.
        """
        B, H, D = len(tokens), self.config.n_head, self.config.head_dim  # noqa: N806
        x = self.embed(tokens, torch.full_like(tokens, position))
        for layer, kept in zip(self.layers(), cache, strict=True):
            q, k, v = (y.view(B, H, D) for y in layer.qkv(x))
            kept[0, :, :, position], kept[1, :, :, position] = k, v
            keys, values = kept[:, :, :, : position + 1].to(q.dtype)
            heads = functional.scaled_dot_product_attention(q.unsqueeze(2), keys, values)
            x = x + functional.linear(heads.reshape(B, H * D), layer.attn_wo)
            x = x + layer.mlp(x)
        return functional.linear(x, self.lm_head)


def attention(q: Tensor, k: Tensor, v: Tensor, inputs: Inputs, config: Config) -> Tensor:
    """Return the attention of each document to itself: (N, C) from (N, C).

    Shorter documents are padded at the end. No earlier position sees the padding.
    """
    B, T = inputs.shape  # noqa: N806
    H, D = config.n_head, config.head_dim  # noqa: N806

    def apart(x: Tensor) -> Tensor:
        if inputs.slots is not None:
            x = x.new_zeros(B * T, H * D).index_copy(0, inputs.slots, x)
        return x.view(B, T, H, D).transpose(1, 2)

    x = functional.scaled_dot_product_attention(apart(q), apart(k), apart(v), is_causal=True)
    x = x.transpose(1, 2).reshape(B * T, H * D)
    return x if inputs.slots is None else x.index_select(0, inputs.slots)


def drop(x: Tensor, inputs: Inputs, site: int, config: Config) -> Tensor:
    """Return x (N, C) times `kamon.engines.dropout.masks` at one site."""
    if inputs.dropout_ids is None:
        return x
    groups = -(-config.n_embd // 4)
    group = torch.arange(groups, device=x.device) + site * groups
    positions, (low, high) = inputs.positions.unsqueeze(1), inputs.dropout_ids
    counter = (group.unsqueeze(0), positions, low.unsqueeze(1), high.unsqueeze(1))
    key = (config.seed & MASK32) ^ KEY, config.seed >> 32 & MASK32
    words = torch.stack(philox4x32(counter, key), 2).flatten(1)[:, : config.n_embd]
    is_left = (words >= int(config.dropout * 2**32)).to(x.dtype)
    return x * (is_left * (1 / (1 - config.dropout)))


def rmsnorm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], eps=1e-5)


def uniform(seed: int, indices: Tensor, position: int) -> Tensor:
    """Return `kamon.engines.philox.uniform` of many samples in float64."""
    counter = (
        torch.full_like(indices, position & MASK32),
        torch.full_like(indices, position >> 32),
        indices & MASK32,
        indices >> 32 & MASK32,
    )
    high, low, _, _ = philox4x32(counter, (seed & MASK32, seed >> 32 & MASK32))
    return ((high << 21) | (low >> 11)).double() * 2.0**-53


def sample_token(logits: Tensor, temperature: float, u: Tensor) -> Tensor:
    """Return `kamon.generation.sampling.sample_token` of each row of logits (B, V) and u (B,)."""
    logits = logits.double()
    scale = 1 / temperature if temperature else math.inf
    scaled = logits * scale
    running = functional.softmax(scaled, 1).cumsum(1)
    found = torch.searchsorted(running, u.unsqueeze(1) * running[:, -1:], right=True).squeeze(1)
    cold = ~torch.isfinite(scale * logits.abs().amax(1))
    return torch.where(cold, logits.argmax(1), found.clamp(max=logits.shape[1] - 1))


# ---- The engine


def find_device(name: str, size: int) -> torch.device:
    """Return the device. "auto" is the GPU if there is one. ValueError if torch cannot use it.

    size: number of ranks. Several ranks cannot add numbers on mps.
    """
    devices = ["cpu"]
    if torch.backends.mps.is_available() and size == 1:
        devices.insert(0, "mps")
    if torch.cuda.is_available():
        devices.insert(0, "cuda")
    if name != "auto" and name not in devices:
        known = " and ".join(devices)
        raise ValueError(f"torch cannot use the device {name} here, only {known}")
    return torch.device(devices[0] if name == "auto" else name)


class TorchEngine:
    """The engine contract (engines/base.py), with fused `train` and `sample`.

    If there are several `ranks`, all must call `load` and `train` together. `load` takes the state
    of rank 0, and `train` learns from this rank's share of each step. Other calls are independent.

    All parameters are in one buffer, and so are their gradients. The module has views of them. With
    bfloat16, only products have that type. Parameters, means and sums are float32.

    Args:
        threads: of the whole process, by default torch's number. The last bits depend on it.
        compile: whether to use torch.compile, at the first use of each kind of batch.
    """

    def __init__(
        self,
        config: Config,
        shapes: Mapping[str, tuple[int, int]],
        dtype: str = "float32",
        threads: int | None = None,
        device: str = "auto",
        compile: bool = False,
        ranks: ProcessGroup | None = None,
    ) -> None:
        self.config = config
        self.made_of = config, dict(shapes), dtype, threads, device, compile
        self.dtype = dtype
        self.lock = RLock()  # held while a call reads or changes parameters
        self.ranks = ranks = ranks or ProcessGroup()
        self.device = find_device(device, ranks.size)
        if dtype == "float64" and self.device.type == "mps":
            raise ValueError("the device mps has no float64: use the cpu, or float32")
        if threads:
            torch.set_num_threads(threads)
        self.num_params = sum(n_out * n_in for n_out, n_in in shapes.values())
        real = torch.float64 if dtype == "float64" else torch.float32
        self.params = torch.zeros(self.num_params, dtype=real, device=self.device)
        length = -(-self.num_params // ranks.size) * ranks.size
        self.padded = torch.zeros(length, dtype=real, device=self.device)  # each rank has a piece
        self.grads = self.padded[: self.num_params]
        self.gpt = Gpt(config, shapes)
        at = 0
        for parameter in self.gpt.parameters():
            part = slice(at, at + parameter.numel())
            parameter.data = self.params[part].view(parameter.shape)
            parameter.grad = self.grads[part].view(parameter.shape)
            at = part.stop
        self.adam = torch.optim.AdamW(
            [self.params],
            betas=(config.beta1, config.beta2),
            eps=config.eps_adam,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.params.grad = self.grads
        self.m, self.v = torch.zeros_like(self.params), torch.zeros_like(self.params)
        self.num_updates = 0
        self._place_moments()
        self.nll: Callable[[Inputs], Tensor] = self.gpt
        if compile:
            self.nll = torch.compile(self.gpt, dynamic=True)
        self.frozen: Gpt | None = None  # a copy of the module, until the parameters change

    def _place_moments(self) -> None:
        self.adam.state[self.params] = {
            "step": torch.tensor(float(self.num_updates), device=self.device),
            "exp_avg": self.m,
            "exp_avg_sq": self.v,
        }

    def load(self, state: State) -> None:
        if not len(state["params"]) == len(state["m"]) == len(state["v"]) == self.num_params:
            raise ValueError(f"the state does not have this model's {self.num_params} parameters")
        for name in ("params", "m", "v"):
            check_numbers(name, state[name], "d")
        if not 0 <= state["step"] < 2**63:
            raise ValueError(f"a state cannot have {state['step']} steps")
        with self.lock, torch.no_grad():
            for kept, name in ((self.params, "params"), (self.m, "m"), (self.v, "v")):
                kept.copy_(torch.frombuffer(state[name], dtype=torch.float64))  # type: ignore[literal-required]
                self.ranks.broadcast(kept)
            self.grads.zero_()
            self.num_updates = int(self.ranks.broadcast_scalar(state["step"]))
            self._place_moments()
            self.frozen = None

    def state(self) -> State:
        with self.lock:
            params, m, v = (doubles(tensor) for tensor in (self.params, self.m, self.v))
            return {"params": params, "m": m, "v": v, "step": self.num_updates}

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchEngine, self.made_of, self.state()  # of one process

    __setstate__ = load

    def gradients(self) -> array[float]:
        with self.lock:
            return doubles(self.grads)

    def logprobs(self, batch: PackedBatch) -> array[float]:
        c = self.config
        batch.check()
        most = MAX_NUMBERS // (16 * c.n_embd + 4 * c.vocab_size)
        found = array("d")
        with self.lock, torch.inference_mode(), self._computing():
            for part in chunks(batch, most):
                if inputs := self._inputs(part, None):
                    found.extend(doubles(-self.nll(inputs)))
        return found

    def backward(
        self, batch: PackedBatch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        if len(weights) != batch.num_targets:
            raise ValueError(f"{len(weights)} weights for {batch.num_targets} targets")
        if draws is not None and len(draws) != len(batch):
            raise ValueError(f"{len(draws)} draws for {len(batch)} documents")
        batch.check()
        inputs = self._inputs(batch, draws)
        if inputs is None:
            return array("d")
        given = torch.tensor(list(weights), dtype=self.params.dtype, device=self.device)
        with self.lock:
            with self._computing():
                nll = self.nll(inputs)
            with self._computing(forward=False):
                torch.autograd.backward(nll, given)
            return doubles(-nll.detach())

    def step(self, learning_rate: float) -> None:
        with self.lock:
            if clip := self.config.grad_clip:
                norm = torch.linalg.vector_norm(self.grads)
                self.grads.mul_(torch.where(norm > clip, clip / norm, 1.0))
            self.adam.param_groups[0]["lr"] = learning_rate
            self.adam.step()
            self.grads.zero_()
            self.num_updates += 1
            self.frozen = None

    def train(self, plan: StepPlan, should_stop: Callable[[], bool] | None = None) -> array[float]:
        plan.docs.check(plan.indices)
        losses = array("d")
        with self.lock:
            for i, learning_rate in enumerate(plan.learning_rates):
                begin = i * plan.docs_per_step
                step = range(begin, begin + plan.docs_per_step)
                offsets = plan.docs.offsets
                lengths = [offsets[d + 1] - offsets[d] for d in plan.indices[begin : step.stop]]
                share = 1 / sum(max(0, length - 1) for length in lengths)
                total = self._accumulate(plan, self.ranks.shard(step), share)
                stop = should_stop is not None and should_stop()
                gathered = self.ranks.all_gather([total, stop])
                losses.append(share * sequential_sum(total for total, _ in gathered))
                if not math.isfinite(losses[-1]):
                    break
                self.ranks.all_reduce_sum(self.padded)
                self.step(learning_rate)
                if any(stop for _, stop in gathered):
                    break
        return losses

    def _accumulate(self, plan: StepPlan, own: range, share: float) -> float:
        """Add the gradient of share · Σ −log p over these indices of the plan, and return the sum.

        The sum is without the share.
        """
        sums: list[Tensor] = []
        for first in range(own.start, own.stop, plan.batch_size):
            places = range(first, min(first + plan.batch_size, own.stop))
            batch = plan.docs.select(plan.indices[places.start : places.stop])
            draws = range(plan.first_dropout_id + places.start, plan.first_dropout_id + places.stop)
            inputs = self._inputs(batch, draws)
            if inputs is None:
                continue
            with self._computing():
                total = self.nll(inputs).sum()
            with self._computing(forward=False):
                torch.autograd.backward(total * share)
            sums.append(total.detach())
        # Only at the end, because each `item` waits for the GPU.
        return sequential_sum(total.item() for total in sums)

    def sample(
        self, n: int, temperature: float, seed: int, bos: int, first: int = 0
    ) -> PackedBatch:
        check_samples(n, temperature, first)
        if not 0 <= bos < self.config.vocab_size:
            raise ValueError(f"token {bos} is outside the vocabulary of {self.config.vocab_size}")
        tokens, offsets = array("i"), array("q", [0])
        for begin in range(first, first + n, MAX_SAMPLES):
            indices = torch.arange(begin, min(begin + MAX_SAMPLES, first + n))
            with self.lock:
                made = self._side_by_side(indices, temperature, seed, bos)
            for row in made.tolist():
                row.append(bos)
                tokens.extend(row[: row.index(bos)])
                offsets.append(len(tokens))
        return PackedBatch(tokens, offsets)

    def _side_by_side(self, indices: Tensor, temperature: float, seed: int, bos: int) -> Tensor:
        """Return the tokens (B, T) of the samples with these numbers. Ignore those after a BOS."""
        cache = self._cache(len(indices))
        made = []
        last = torch.full_like(indices, bos)
        done = torch.zeros_like(indices, dtype=torch.bool)
        for position in range(self.config.block_size):
            logits = self._next_logits(last, position, cache).cpu()
            last = sample_token(logits, temperature, uniform(seed & MASK64, indices, position))
            made.append(last)
            done |= last == bos
            if done.all():
                break
        return torch.stack(made, 1)

    def decoder(self) -> TorchDecoder:
        return TorchDecoder(self)

    def _cache(self, size: int) -> list[Tensor]:
        c = self.config
        shape = (2, size, c.n_head, c.block_size, c.head_dim)
        return [self.params.new_zeros(shape) for _ in range(c.n_layer)]

    def _next_logits(
        self, tokens: Tensor, position: int, cache: list[Tensor], gpt: Gpt | None = None
    ) -> Tensor:
        with torch.inference_mode(), self._computing():
            return (gpt or self.gpt).next_logits(tokens.to(self.device), position, cache)

    @contextmanager
    def _computing(self, forward: bool = True) -> Iterator[None]:
        """Compute in the engine's precision. Raises MemoryError if there is too little memory."""
        half = forward and self.dtype == "bfloat16"
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError from None
            raise

    def _inputs(self, batch: PackedBatch, draws: Sequence[int] | None) -> Inputs | None:
        """Return the inputs, or None without targets. Raises ValueError if they do not fit."""
        c = self.config
        offsets = batch.offsets
        if max(map(int.__sub__, offsets[1:], offsets), default=0) > c.block_size + 1:
            raise ValueError(
                f"a document has more tokens than the {c.block_size + 1} that "
                f"block_size {c.block_size} holds"
            )
        if len(batch.tokens) and not 0 <= min(batch.tokens) <= max(batch.tokens) < c.vocab_size:
            raise ValueError(f"a token is outside the vocabulary of {c.vocab_size}")
        if not batch.num_targets:
            return None
        return packed(batch, self.device, draws if c.dropout else None)


class TorchDecoder:
    """Reads one document token by token, with the parameters at the time it was made."""

    def __init__(self, engine: TorchEngine) -> None:
        with engine.lock:
            if engine.frozen is None:
                engine.frozen = copy.deepcopy(engine.gpt)
            self.gpt = engine.frozen
        self.engine = engine
        self.cache = engine._cache(1)
        self.position = 0

    def push(self, token: int) -> array[float]:
        c = self.engine.config
        if not 0 <= token < c.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {c.vocab_size}")
        if self.position == c.block_size:
            raise ValueError(f"block_size {c.block_size} tokens were pushed: it is full")
        tokens = torch.tensor([token])
        logits = self.engine._next_logits(tokens, self.position, self.cache, self.gpt)
        self.position += 1
        return doubles(logits[0])


# ---- Between Python and torch


def doubles(numbers: Tensor) -> array[float]:
    """Return a flat copy as an array of 'd'."""
    copied = array("d", bytes(8 * numbers.numel()))
    if copied:
        torch.frombuffer(copied, dtype=torch.float64).copy_(numbers.detach().flatten())
    return copied


def chunks(batch: PackedBatch, most: int) -> Iterator[PackedBatch]:
    """Yield the documents in order, with up to `most` tokens at a time or one longer document."""
    begin = 0
    while begin < len(batch):
        end = begin + 1
        while end < len(batch) and batch.offsets[end + 1] - batch.offsets[begin] <= most:
            end += 1
        yield batch.select(range(begin, end))
        begin = end


def packed(batch: PackedBatch, device: torch.device, draws: Sequence[int] | None = None) -> Inputs:
    """Return the inputs of a batch with one or more targets."""
    if not isinstance(batch.tokens, array):  # it is a view of a file
        batch = batch.select(range(len(batch)))
    tokens = torch.frombuffer(batch.tokens, dtype=torch.int32).long()
    offsets = torch.frombuffer(batch.offsets, dtype=torch.int64)
    lengths = (offsets.diff() - 1).clamp(min=0)
    B, T = len(lengths), int(lengths.max())  # noqa: N806
    if int(lengths.min()) == T:
        rows = tokens.view(B, T + 1)
        positions, slots = torch.arange(T).repeat(B), None
        inputs, targets = rows[:, :-1].reshape(-1), rows[:, 1:].reshape(-1)
    else:
        row = torch.arange(B).repeat_interleave(lengths)
        positions = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]
        at = offsets[row] + positions
        slots = (row * T + positions).to(device)
        inputs, targets = tokens[at], tokens[at + 1]
    dropout_ids = None
    if draws is not None:
        low = torch.tensor([draw & MASK32 for draw in draws]).repeat_interleave(lengths)
        high = torch.tensor([draw >> 32 & MASK32 for draw in draws]).repeat_interleave(lengths)
        dropout_ids = low.to(device), high.to(device)
    inputs, positions, targets = (x.to(device) for x in (inputs, positions, targets))
    return Inputs(inputs, positions, targets, (B, T), slots, dropout_ids)
