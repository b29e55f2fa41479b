"""Kamon beside others that make new entries from a list: the same list, processor, time and test.

    python bench/peers.py [--seconds S ...] [--makemore FILE] [--nanogpt FOLDER] [--json]

All learn the built-in names but those that `kamon.data.split` holds out, on one thread, for so much
processor time from the first step on; imports and reading are not in it. Then each is tested on the
names held out, in nats a token, the end of a name being one, and makes 1,000 at temperature 1.

markovify is measured where it is installed; makemore and nanoGPT, with their own models and
recipes, where their files are: makemore.py, and a folder with nanoGPT's model.py. They need torch.
makemore sets 1,000 names apart for itself, as always. nanoGPT learns text: names in any order, a
line each, by its recipe for a CPU, whose schedule is told the time there is; it is tested on a text
of the names held out, each token behind 32 others or more. Both sample 50 rows side by side.
"""

from __future__ import annotations

import argparse
import contextlib
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


def sampled(row: Row, learned: list[str], draw: Callable[[], list[str]]) -> Row:
    """The row with what is measured of samples."""
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
    """The size that a budget would pick, and as many steps as a trial says that fit."""
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
    """Chains of characters: markovify's own are of words, of which a name is one."""
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
    """Whether a chain of such states can make this document at all."""
    items = ["___BEGIN__"] * state_size + list(doc) + ["___END__"]
    return all(
        items[i] in chain.get(tuple(items[i - state_size : i]), ())
        for i in range(state_size, len(items))
    )


def by_makemore(file: Path, learned: list[str], held_out: list[str], seconds: float) -> Row:
    import torch
    from torch.utils.data import DataLoader, RandomSampler

    makemore = module(file)
    torch.set_num_threads(1)
    torch.manual_seed(3407)
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        path = Path(folder, "names.txt")
        path.write_text("\n".join(learned) + "\n")
        own, _ = makemore.create_datasets(str(path))
        model = makemore.GPT(
            makemore.GPTConfig(vocab_size=own.get_vocab_size(), block_size=own.get_output_length())
        )
    optimizer = model.configure_optimizers(makemore.TrainConfig())
    sampler = RandomSampler(own, replacement=True, num_samples=int(1e10))
    batches = iter(DataLoader(own, batch_size=32, sampler=sampler))

    def step(_: float) -> None:
        _, loss = model(*next(batches))
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    took, steps = for_seconds(seconds, step)
    test = makemore.CharDataset(held_out, own.chars, own.max_word_length)
    total = 0.0
    with torch.inference_mode():
        for inputs, targets in DataLoader(test, batch_size=100):
            _, mean = model(inputs, targets)
            total += mean.item() * (targets != -1).sum().item()

    def name_of(row: list[int]) -> str:
        ended = [*row[1:], 0]
        return str(own.decode(ended[: ended.index(0)]))

    def draw() -> list[str]:
        found: list[str] = []
        while len(found) < NUM_SAMPLES:
            begin = torch.zeros(50, 1, dtype=torch.long)
            rows = model.generate(begin, own.max_word_length, do_sample=True).tolist()
            found += map(name_of, rows)
        return found

    row = trained("makemore", model, took, steps, total / tokens(held_out))
    return sampled(row, learned, draw)


def by_nanogpt(folder: Path, learned: list[str], held_out: list[str], seconds: float) -> Row:
    import torch
    from torch.nn import functional

    nanogpt = module(folder / "model.py")
    torch.set_num_threads(1)
    torch.manual_seed(1337)
    random.seed(1337)
    chars = sorted({"\n", *"".join(learned)})
    number = {char: i for i, char in enumerate(chars)}

    def stream(docs: list[str]) -> torch.Tensor:
        text = "\n".join(["", *random.sample(docs, len(docs)), ""])
        return torch.tensor([number[char] for char in text])

    data, block, most, least = stream(learned), 64, 1e-3, 1e-4
    with contextlib.redirect_stdout(sys.stderr):
        model = nanogpt.GPT(
            nanogpt.GPTConfig(
                block_size=block, vocab_size=len(chars), n_layer=4, n_head=4, n_embd=128, bias=False
            )
        )
        optimizer = model.configure_optimizers(0.1, most, (0.9, 0.99), "cpu")
    done = 0

    def step(share: float) -> None:
        nonlocal done
        done += 1
        cosine = least + (most - least) * (1 + math.cos(math.pi * min(1.0, share))) / 2
        for group in optimizer.param_groups:
            group["lr"] = cosine if done > 100 else most * done / 101
        places = torch.randint(len(data) - block, (12,)).tolist()
        inputs = torch.stack([data[i : i + block] for i in places])
        targets = torch.stack([data[i + 1 : i + 1 + block] for i in places])
        _, loss = model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    took, steps = for_seconds(seconds, step)
    model.eval()
    test, half = stream(held_out), block // 2
    total, count = 0.0, 0
    with torch.inference_mode():
        for i in range(0, len(test) - block, half):
            targets = test[i + 1 : i + 1 + block]
            logits, _ = model(test[None, i : i + block], targets[None])
            losses = functional.cross_entropy(logits[0, half:], targets[half:], reduction="sum")
            total, count = total + losses.item(), count + half

    def draw() -> list[str]:
        found: list[str] = []
        while len(found) < NUM_SAMPLES:
            for row in model.generate(torch.zeros(50, 1, dtype=torch.long), 200).tolist():
                text = "".join(chars[i] for i in row)
                found += text.split("\n")[1:-1]  # the last one has no end
        return found[:NUM_SAMPLES]

    return sampled(trained("nanoGPT", model, took, steps, total / count), learned, draw)


def for_seconds(seconds: float, step: Callable[[float], None]) -> tuple[float, int]:
    """Steps, each told the share of the time that has gone, while there is some left."""
    begin = time.process_time()
    steps = 0
    while (gone := time.process_time() - begin) < seconds:
        step(gone / seconds)
        steps += 1
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
            shown.append(f"{row['nats']:.4f} nats a token")
        if "impossible" in row:
            shown.append(f"{row['impossible']:.1%} of the names held out are impossible")
        if "copies" in row:
            shown.append(
                f"{row['samples']:,} samples, {row['copies']:.1%} copies, "
                f"{row['samples_a_second']:,.0f} a second"
            )
        print(", ".join(shown), flush=True)


if __name__ == "__main__":
    main()
