"""Measure Kamon and other programs that make new entries from a list.

    python bench/peers.py [--seconds S ...] [--makemore FILE] [--nanogpt FOLDER]
        [--nanochat FOLDER] [--json]

All train on the built-in names without the validation set of `kamon.data.split`, on one thread, for
the same processor time from the first step on. Imports and reading do not count. Then each is
tested on that set, in nats per token (the end of a name is a token), and makes 1,000 samples at
temperature 1. `bench/lists.py` measures makemore, nanoGPT and nanochat on other lists.

markovify is measured if it is installed. The others are measured with their own models, optimizers
and recipes if their files are given: makemore.py, a folder with nanoGPT's model.py, and a folder
with the package nanochat. They need torch. Each keeps the model that is best on a tenth of its
training set. nanoGPT and nanochat learn text: names in any order, one per line. They are tested on
a text of the test names, each token after 32 others or more. nanochat has no recipe of this size.
It has the size of nanoGPT's recipe for a processor, and its own learning rates, which fall linearly
in the second half.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kamon
from kamon.data.builtin import names
from kamon.data.split import split
from kamon.evaluation.score import score_list, score_with
from kamon.ngrams.native import count_ngram
from kamon.tokenizers.char import CharTokenizer
from kamon.training.presets import size_for

NUM_SAMPLES = 1_000
BLOCK = 64  # tokens that the models of text see
NUM_VALIDATIONS = 20  # during a training
Row = dict[str, Any]


def measure(args: argparse.Namespace) -> Iterator[Row]:
    learned, held_out = (list(docs) for docs in split(names()))
    yield from by_counting(learned, held_out)
    if importlib.util.find_spec("markovify"):
        yield from by_markovify(learned, held_out)
    for seconds in args.seconds:
        yield by_kamon(learned, held_out, seconds)
        if args.makemore:
            yield by_makemore(args.makemore, learned, held_out, seconds)
        if args.nanogpt:
            yield by_nanogpt(args.nanogpt, learned, held_out, seconds)
        if args.nanochat:
            yield by_nanochat(args.nanochat, learned, held_out, seconds)


def sampled(row: Row, learned: list[str], draw: Callable[[], list[str]]) -> Row:
    """Return the row with the measurements of samples."""
    start = time.process_time()
    samples = draw()
    took = time.process_time() - start
    known = set(learned)
    return row | {
        "samples": len(samples),
        "copies": sum(s in known for s in samples) / max(1, len(samples)),
        "samples_a_second": len(samples) / took,
        "some": samples[:5],
    }


def by_counting(learned: list[str], held_out: list[str]) -> Iterator[Row]:
    tokenizer = CharTokenizer.train(learned)
    start = time.process_time()
    ngram = count_ngram(tokenizer.encode_documents(learned, 64), tokenizer.vocab_size)
    took = time.process_time() - start
    total = sum(found.logprob for found in score_with(ngram, tokenizer, held_out))
    yield {"what": "kamon ngram, order 6", "seconds": took, "nats": -total / tokens(held_out)}


def by_kamon(learned: list[str], held_out: list[str], seconds: float) -> Row:
    """Return the size for a budget, and as many steps as fit according to a trial."""
    size = size_for(seconds, Counter(map(len, learned)))

    def train(num_steps: int) -> tuple[kamon.Model, float]:
        start = time.process_time()
        model = kamon.train(learned, size=size, num_steps=num_steps, threads=1, hold_out=False)
        return model, time.process_time() - start

    _, took = train(1_000)
    model, took = train(int(1_000 * seconds / took))
    logprobs = score_list(model.engine, model.tokenizer, held_out).logprobs
    row = {
        "what": f"kamon train --size {size}",
        "seconds": took,
        "steps": model.config.num_steps,
        "parameters": model.num_params,
        "nats": -sum(logprobs) / tokens(held_out),
    }
    return sampled(row, learned, lambda: model.sample(NUM_SAMPLES, temperature=1.0))


def by_markovify(learned: list[str], held_out: list[str]) -> Iterator[Row]:
    """Measure chains of characters, because a name is one word for markovify's usual chains."""
    markovify: Any = importlib.import_module("markovify")

    class Letters(markovify.NewlineText):  # type: ignore[misc]
        def word_split(self, sentence: str) -> list[str]:
            return list(sentence)

        def word_join(self, words: list[str]) -> str:
            return "".join(words)

    for state_size in (2, 3, 4, 5):
        random.seed(1)
        start = time.process_time()
        text = Letters("\n".join(learned), state_size=state_size)
        took = time.process_time() - start
        chain = text.chain.model
        row = {
            "what": f"markovify, letters, state_size={state_size}",
            "seconds": took,
            "impossible": sum(not possible(chain, doc, state_size) for doc in held_out)
            / len(held_out),
        }
        yield sampled(
            row | {"what": row["what"] + ", test_output=False"},
            learned,
            lambda text=text: [text.make_sentence(test_output=False) for _ in range(NUM_SAMPLES)],
        )
        yield sampled(
            row,
            learned,
            lambda text=text: [s for _ in range(NUM_SAMPLES) if (s := text.make_sentence())],
        )


def possible(chain: Any, doc: str, state_size: int) -> bool:
    """Whether a chain of such states can make this document."""
    items = ["___BEGIN__"] * state_size + list(doc) + ["___END__"]
    return all(
        items[i] in chain.get(tuple(items[i - state_size : i]), ())
        for i in range(state_size, len(items))
    )


def by_makemore(file: Path, learned: list[str], held_out: list[str], seconds: float) -> Row:
    """Measure makemore's transformer with the defaults of its command."""
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    makemore = module(file)
    torch.set_num_threads(1)
    torch.manual_seed(3407)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        path = Path(folder, "names.txt")
        path.write_text("\n".join(learned) + "\n")
        own, validation = makemore.create_datasets(str(path))
        config = makemore.ModelConfig(
            vocab_size=own.get_vocab_size(), block_size=own.get_output_length(), n_embd2=64
        )
        model = makemore.Transformer(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-4, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8
    )
    sampler = RandomSampler(own, replacement=True, num_samples=int(1e10))
    batches = iter(DataLoader(own, batch_size=32, sampler=sampler))

    def step(_: float) -> None:
        _, loss = model(*next(batches))
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def total_of(data: Any) -> float:
        with torch.inference_mode():
            return sum(
                model(inputs, targets)[1].item() * (targets != -1).sum().item()
                for inputs, targets in DataLoader(data, batch_size=100)
            )

    took, steps = for_seconds(seconds, step, model, lambda: total_of(validation))
    test = makemore.CharDataset(held_out, own.chars, own.max_word_length)
    nats = total_of(test) / tokens(held_out)

    def name_of(row: list[int]) -> str:
        ended = [*row[1:], 0]
        return str(own.decode(ended[: ended.index(0)]))

    def draw() -> list[str]:
        found: list[str] = []
        while len(found) < NUM_SAMPLES:
            begin = torch.zeros(50, 1, dtype=torch.long)
            with torch.inference_mode():
                rows = makemore.generate(model, begin, own.max_word_length, do_sample=True)
            found += map(name_of, rows.tolist())
        return found

    return sampled(trained("makemore", model, took, steps, nats), learned, draw)


def by_nanogpt(folder: Path, learned: list[str], held_out: list[str], seconds: float) -> Row:
    """Measure nanoGPT with its recipe for a processor."""
    import torch

    nanogpt = module(folder / "model.py")
    torch.manual_seed(1337)
    data = Lines(learned)
    with contextlib.redirect_stdout(sys.stderr):
        model = nanogpt.GPT(
            nanogpt.GPTConfig(
                block_size=BLOCK,
                vocab_size=len(data.chars),
                n_layer=4,
                n_head=4,
                n_embd=128,
                bias=False,
            )
        )
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    done = 0

    def step(share: float) -> None:
        nonlocal done
        done += 1
        cosine = 1e-4 + 9e-4 * (1 + math.cos(math.pi * min(1.0, share))) / 2
        for group in optimizer.param_groups:
            group["lr"] = cosine if done > 100 else 1e-3 * done / 101
        model(*data.batch())[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def logits_of(rows: Any) -> Any:
        return model(rows, rows.contiguous())[0]  # with targets: of all positions

    return data.measured("nanoGPT", model, logits_of, step, held_out, seconds)


def by_nanochat(folder: Path, learned: list[str], held_out: list[str], seconds: float) -> Row:
    """Measure nanochat's model and optimizer at the size of `by_nanogpt`, with characters."""
    import torch

    sys.path.insert(0, str(folder))
    nanochat = importlib.import_module("nanochat.gpt")
    torch.manual_seed(1337)
    data = Lines(learned)
    with contextlib.redirect_stdout(sys.stderr):
        config = nanochat.GPTConfig(
            sequence_len=BLOCK,
            vocab_size=len(data.chars),
            n_layer=4,
            n_head=4,
            n_kv_head=4,
            n_embd=128,
            window_pattern="L",
        )
        model = nanochat.GPT(config)
        model.init_weights()
        optimizer = model.setup_optimizer()

    def step(share: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * min(1.0, max(0.05, (1 - share) / 0.5))
        model(*data.batch()).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)

    before = copy.deepcopy(model.state_dict())
    step(1.0)  # compiles the optimizer, which is not part of the time
    model.load_state_dict(before)
    optimizer = model.setup_optimizer()
    return data.measured("nanochat", model, model, step, held_out, seconds)


class Lines:
    """Names as a text for models of text, one per line in random order.

    A tenth of the names is for validation.
    """

    def __init__(self, docs: list[str]) -> None:
        import torch

        torch.set_num_threads(1)
        random.seed(1337)
        self.docs = docs
        self.chars = sorted({"\n", *"".join(docs)})
        self.number = {char: i for i, char in enumerate(self.chars)}
        mixed = random.sample(docs, len(docs))
        self.validation = mixed[: len(docs) // 10]
        self.text = self.stream(mixed[len(self.validation) :])

    def stream(self, docs: list[str]) -> Any:
        """Return the lines as tokens (T,), repeated until there are enough for a batch."""
        import torch

        text = "\n".join(["", *random.sample(docs, len(docs)), ""])
        numbers = [self.number[char] for char in text]
        return torch.tensor(numbers * max(1, -(-2 * BLOCK // len(numbers))))

    def batch(self) -> tuple[Any, Any]:
        """Return inputs and targets, (12, BLOCK) each."""
        import torch

        places = torch.randint(len(self.text) - BLOCK, (12,)).tolist()
        inputs = torch.stack([self.text[i : i + BLOCK] for i in places])
        return inputs, torch.stack([self.text[i + 1 : i + 1 + BLOCK] for i in places])

    def nats(self, logits_of: Callable[[Any], Any], docs: list[str]) -> float:
        """Return the mean loss of the tokens that follow at least half a block of others."""
        import torch
        from torch.nn import functional

        test, half = self.stream(docs), BLOCK // 2
        total, count = 0.0, 0
        with torch.no_grad():
            for i in range(0, len(test) - BLOCK, half):
                targets = test[i + 1 + half : i + 1 + BLOCK]
                logits = logits_of(test[None, i : i + BLOCK])[0, half:]
                total += functional.cross_entropy(logits, targets, reduction="sum").item()
                count += half
        return total / count

    def measured(
        self,
        name: str,
        model: Any,
        logits_of: Callable[[Any], Any],
        step: Callable[[float], None],
        held_out: list[str],
        seconds: float,
    ) -> Row:
        """Train a model for this time, and return its row of the table."""
        import torch
        from torch.nn import functional

        took, steps = for_seconds(
            seconds, step, model, lambda: self.nats(logits_of, self.validation)
        )
        model.eval()
        nats = self.nats(logits_of, held_out)

        def padded(rows: Any) -> Any:  # nanochat needs two tokens or more
            return rows if rows.shape[1] > 1 else torch.cat([rows, rows], dim=1)

        def draw() -> list[str]:
            found: list[str] = []
            while len(found) < NUM_SAMPLES:
                rows = torch.full((50, 1), self.number["\n"])
                with torch.no_grad():
                    for _ in range(200):
                        p = functional.softmax(logits_of(padded(rows[:, -BLOCK:]))[:, -1], dim=-1)
                        rows = torch.cat([rows, torch.multinomial(p, 1)], dim=1)
                for row in rows.tolist():
                    text = "".join(self.chars[i] for i in row)
                    found += text.split("\n")[1:-1]  # the last one has no end
            return found[:NUM_SAMPLES]

        return sampled(trained(name, model, took, steps, nats), self.docs, draw)


def for_seconds(
    seconds: float, step: Callable[[float], None], model: Any, validate: Callable[[], float]
) -> tuple[float, int]:
    """Make steps, and keep the best model. Each step gets the share of the time that has passed.

    The model is measured on the validation set NUM_VALIDATIONS times. As in the programs
    themselves, the time for this does not count.
    """
    begin, gone, steps = time.process_time(), 0.0, 0
    best, best_loss = copy.deepcopy(model.state_dict()), math.inf
    while gone < seconds:
        step(gone / seconds)
        steps += 1
        now = time.process_time() - begin
        if int(now / seconds * NUM_VALIDATIONS) > int(gone / seconds * NUM_VALIDATIONS):
            loss = validate()
            if loss < best_loss:
                best, best_loss = copy.deepcopy(model.state_dict()), loss
            begin = time.process_time() - now
        gone = now
    model.load_state_dict(best)
    return gone, steps


def trained(what: str, model: Any, seconds: float, steps: int, nats: float) -> Row:
    count = sum(p.numel() for p in model.parameters())
    return {"what": what, "seconds": seconds, "steps": steps, "parameters": count, "nats": nats}


def tokens(docs: list[str]) -> int:
    return sum(len(doc) + 1 for doc in docs)


def module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = found  # where dataclasses look for it
    spec.loader.exec_module(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0], help="of learning (10)")
    parser.add_argument("--makemore", type=Path, metavar="FILE", help="makemore.py")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="where its model.py is")
    parser.add_argument("--nanochat", type=Path, metavar="FOLDER", help="where its package is")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    args = parser.parse_args()
    for row in measure(args):
        if args.json:
            print(json.dumps(row), flush=True)
            continue
        shown = [f"{row['what']:48} {row['seconds']:7.2f} s"]
        if "steps" in row:
            shown.append(f"{row['steps']:7,} steps, {row['parameters']:7,} parameters")
        if "nats" in row:
            shown.append(f"{row['nats']:.4f} nats per token")
        if "impossible" in row:
            shown.append(f"{row['impossible']:.1%} of the test names are impossible")
        if "copies" in row:
            shown.append(
                f"{row['samples']:,} samples, {row['copies']:.1%} copies, "
                f"{row['samples_a_second']:,.0f} a second"
            )
        print(", ".join(shown), flush=True)


if __name__ == "__main__":
    main()
