"""Train, use and inspect tokenizers.

  train   train a BPE tokenizer on a list
  encode  print the token numbers of each entry
  decode  print the text of such lines
  show    print the tokens of each text, and how BPE merges them

For train, FROM is a list. For the others it is a tokenizer file or the directory of a model. With a
model, show also prints the tokens with the most similar embeddings (wte). encode and decode read
INPUT or standard input.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    columns,
    count,
    done,
    entry_line,
    has_line_end,
    json_line,
    one_line,
    padded,
    print_json,
    say,
    say_corpus,
    say_line_ends,
    warn,
)
from kamon.cli.parser import Args, Parser, option, options
from kamon.cli.settings import add_reading, check_unread, reading
from kamon.data.graphemes import num_graphemes
from kamon.errors import ConfigError, CorpusError, StoreError, TokenizerError
from kamon.files.output_path import check_file, check_not_input, write_errors

if TYPE_CHECKING:
    from kamon.evaluation.introspection import Near
    from kamon.tokenizers.base import Tokenizer

ACTIONS = ("train", "encode", "decode", "show")
NUM_NEAR = 4  # most similar tokens to print
MAX_DIGITS = 10  # of a token: int() is slow for more

EXAMPLES = """\
kamon tokenizer train names --vocab-size 300 -o bpe.json
kamon tokenizer show bpe.json marianne
kamon tokenizer encode bpe.json names
"""
OPTIONS = {
    "FROM": "a list for train, otherwise a tokenizer file or the directory of a model",
    "[TEXT...]": "texts for show, or one INPUT for encode and decode [default: standard input]",
    "-o, --output FILE": "train: file to write the tokenizer to",
    "--vocab-size N": "train: number of tokens, including 256 bytes and BOS [default: 1,024]",
    "--overwrite": "train: replace FILE",
}


def add_arguments(parser: Parser) -> None:
    option(parser, "ACTION", "|".join(ACTIONS), choices=ACTIONS)
    options(parser, OPTIONS, **{"from": {"dest": "source"}}, text={"dest": "words"})
    add_reading(parser)
    option(parser, "--json", "print JSON, one object per line")


def run(args: Args) -> None:
    if args.action != "train" and (args.output or args.overwrite or args.vocab_size is not None):
        raise ConfigError("-o, --overwrite and --vocab-size are for `kamon tokenizer train` only")
    if args.action == "show":
        check_unread(args, "an INPUT, and there is none")
    if args.action == "show" and not args.words:
        raise ConfigError("no TEXT to show", "give one or more texts after FROM")
    most = {"train": 0, "show": len(args.words)}.get(args.action, 1)
    if len(args.words) > most:
        raise ConfigError(f'unexpected argument "{args.words[most]}"')
    {"train": train, "encode": encode, "decode": decode, "show": show}[args.action](args)


# ---- train


def train(args: Args) -> None:
    from kamon.data import corpus
    from kamon.files.atomic import replace_file
    from kamon.tokenizers.base import BPE_VOCAB
    from kamon.tokenizers.bpe import BYTES, BytePairTokenizer, checked_vocab_size

    wanted = BPE_VOCAB if args.vocab_size is None else args.vocab_size
    checked_vocab_size(wanted)
    if args.output is None:
        raise ConfigError("missing -o FILE for the tokenizer")
    if args.source != "-":
        check_not_input(args.output, args.source, StoreError)
    path = check_file(args.output, overwrite=args.overwrite, folder=True)
    source = corpus.read(args.source, **reading(args))
    say_corpus(source, args.source)
    tokenizer = BytePairTokenizer.train(source.docs, wanted)
    with write_errors(path):
        replace_file(path, tokenizer.to_json().encode())
    num_tokens = sum(size * number for size, number in tokenizer.lengths(source.docs).items())
    num_bytes = sum(map(len, source.docs.encoded()))
    if tokenizer.vocab_size < wanted:
        why = "no pair of tokens occurs twice any more"
        warn(f"only {tokenizer.vocab_size:,} of {wanted:,} tokens: {why}")
    if args.json:
        about = {"vocab_size": tokenizer.vocab_size, "bos": tokenizer.bos}
        about |= {"num_bytes": num_bytes, "num_tokens": num_tokens}
        print_json({"file": args.output, **about, "corpus": source.summary()})
        return
    merges = count(len(tokenizer.merges), "merge")
    print(f"{count(tokenizer.vocab_size, 'token')}: {BYTES} bytes, {merges} and BOS")
    print(
        f"{num_bytes / num_tokens:.2f} bytes per token: {num_bytes:,} bytes, {num_tokens:,} tokens"
    )
    say(done("Saved", f"to {one_line(str(path))}"))


# ---- encode, decode


def tokenizer_at(path: str) -> Tokenizer:
    """Return the tokenizer of a file, or of the model in a directory."""
    if os.path.isdir(path):
        from kamon.storage.model_dir import load

        return load(path).tokenizer
    from kamon.tokenizers.load import read_tokenizer

    return read_tokenizer(path)


def encode(args: Args) -> None:
    from kamon.data import corpus

    tokenizer = tokenizer_at(args.source)
    name = args.words[0] if args.words else "-"
    source = corpus.read(name, **reading(args), composed=tokenizer.composed)
    say_corpus(source, name)
    for doc in source.docs:
        tokens = tokenizer.encode(doc)
        row = {"text": doc, "tokens": tokens}
        print(json_line(row) if args.json else " ".join(map(str, tokens)))


def decode(args: Args) -> None:
    from kamon.data.readers import name_of, stream_lines

    tokenizer = tokenizer_at(args.source)
    name = args.words[0] if args.words else "-"
    place = num_broken = 0
    for lines in stream_lines(name):
        for line in lines:
            place += 1
            try:
                tokens = tokens_in(line, tokenizer)
            except TokenizerError as error:
                raise TokenizerError(f"{name_of(name)}, line {place}: {error}") from None
            text = tokenizer.decode(tokens)
            print(json_line({"tokens": tokens, "text": text}) if args.json else entry_line(text))
            num_broken += not args.json and has_line_end(text)
    say_line_ends(num_broken)
    if not place:
        raise CorpusError(f"{name_of(name)} is empty")


def tokens_in(line: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a line without BOS at its ends. Raises TokenizerError."""
    tokens, bos, last = [], tokenizer.bos, tokenizer.vocab_size - 1
    for word in line.split():
        number = word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS
        if not number or int(word) > last:
            quoted = repr(word[:MAX_DIGITS])
            raise TokenizerError(f"{quoted} is not a token: tokens are numbers from 0 to {last:,}")
        tokens.append(int(word))
    end = len(tokens) - (len(tokens) > 1 and tokens[-1] == bos)
    tokens = tokens[tokens[:1] == [bos] : end]
    if bos in tokens:
        raise TokenizerError(
            f"token {bos} is BOS, which is only at the start and the end of an entry"
        )
    return tokens


# ---- show


def show(args: Args) -> None:
    near: dict[int, list[Near]] = {}
    if os.path.isdir(args.source):
        from kamon.evaluation.introspection import nearest_tokens
        from kamon.model import load

        model = load(args.source)
        tokenizer = model.tokenizer
        tokens = set().union(*map(tokenizer.encode, args.words))
        near = nearest_tokens(model, sorted(tokens), NUM_NEAR)
    else:
        tokenizer = tokenizer_at(args.source)
    for number, text in enumerate(map(tokenizer.normal, args.words)):
        pieces = pieces_of(tokenizer, text)
        if args.json:
            print_json({"text": text, **described(tokenizer, pieces, near)})
            continue
        if number:
            print()
        print_pieces(tokenizer, text, pieces)
        if near:
            print_near(tokenizer, sorted({token for steps in pieces for token in steps[-1]}), near)


def pieces_of(tokenizer: Tokenizer, text: str) -> list[list[list[int]]]:
    """Return the tokens of each piece, before the first merge and after every merge."""
    from kamon.tokenizers.bpe import BytePairTokenizer

    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.steps(text)
    return [[[token]] for token in tokenizer.encode(text)]


def described(
    tokenizer: Tokenizer, pieces: list[list[list[int]]], near: dict[int, list[Near]]
) -> dict[str, Any]:
    """Return what --json shows of a text."""

    def named(token: int) -> dict[str, Any]:
        return {"token": token, "text": tokenizer.token_text(token)}

    tokens = [token for steps in pieces for token in steps[-1]]
    content: dict[str, Any] = {"tokens": list(map(named, tokens))}
    content["pieces"] = [{"steps": steps} for steps in pieces]
    if near:
        content["nearest"] = {
            str(token): [named(other.token) | {"cosine": other.cosine} for other in near[token]]
            for token in dict.fromkeys(tokens)
        }
    return content


def visible(tokenizer: Tokenizer, token: int) -> str:
    return one_line(tokenizer.token_text(token)).replace(" ", "␣")


def print_pieces(tokenizer: Tokenizer, text: str, pieces: list[list[list[int]]]) -> None:
    """Print a line for each piece, and below it a line for each merge, with its new token in []."""
    tokens = [token for steps in pieces for token in steps[-1]]
    size = count(num_graphemes(text), "character")
    print(f"{one_line(text)}: {size}, {count(len(tokens), 'token')}")
    for steps in pieces:
        names = (f"{visible(tokenizer, token)} {token}" for token in steps[-1])
        print(f"  {'  '.join(names)}")
        for before, after in pairwise(steps):
            made = next(token for token in after if token not in before)
            shown = {token: visible(tokenizer, token) for token in after}
            shown[made] = f"[{shown[made]}]"
            print(f"      {made:>6}  {' '.join(shown[token] for token in after)}")


def print_near(tokenizer: Tokenizer, tokens: list[int], near: dict[int, list[Near]]) -> None:
    print("  most similar embeddings (cosine)")
    width = max(columns(visible(tokenizer, token)) for token in tokens)
    for token in tokens:
        others = (f"{visible(tokenizer, x.token)} {x.cosine:.2f}" for x in near[token])
        name = padded(visible(tokenizer, token), width)
        print(f"      {token:>6}  {name}  {'  '.join(others)}")
