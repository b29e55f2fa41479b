"""Plant one bug at a time in a copy of the package and see that the tests catch it.

    python dev/plant_bugs.py           # all of them
    python dev/plant_bugs.py softmax   # those with this word in their name

A bug that survives is a gap in the tests: the script then exits with 1. tests/test_planted_bugs.py
runs every thirtieth.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kamon.engines import native

ROOT = Path(__file__).parent.parent
SCALAR = "engines/scalar.py"
GRADIENTS = ("tests/test_scalar.py",)
# A change of the model itself has right gradients: only the original's numbers tell.
NUMBERS = ("tests/test_original.py",)
NATIVE = ("tests/test_native.py",)
MODEL = "engines/native/model.hpp"
ENGINE = "engines/native/engine.cpp"
SAMPLER = "engines/native/sampler.hpp"
NGRAM = "ngram.py"
COUNTS = ("tests/test_ngram.py",)
COUNTER = "engines/native/ngram.hpp"
COUNTED = ("tests/test_fast_ngram.py",)
EVALUATE = "evaluate.py"
MEASURED = ("tests/test_evaluate.py",)
DOCUMENTS = ("tests/test_documents.py",)
CONDITIONS = ("tests/test_conditions.py",)
COMPLETE = "complete.py"
PATTERNS = ("tests/test_complete.py",)
INSIDE = "inside.py"
SEEN = ("tests/test_inside.py",)
BPE = "bpe.py"
PAIRS = ("tests/test_bpe.py",)
OF_PIECES = ("tests/test_tokenizer_cli.py",)
CURVE = "curve.py"
CURVES = ("tests/test_curve.py",)
PICTURES = ("tests/test_plot.py",)
STANDALONE = "standalone.py"
EXPORT = "export.py"
ONNX = "export_onnx.py"
EXPORTED = ("tests/test_export.py",)
COMPARE = "compare.py"
COMPARED = ("tests/test_compare.py",)
REWARDS = "rewards.py"
PAIRED = ("tests/test_reward.py",)
POLICY = "policy.py"
TUNED = ("tests/test_ppo.py",)
STORE = "store.py"
CONTENTS = "contents.py"
KEPT = ("tests/test_store.py",)
DAMAGED = ("tests/test_torture_store.py",)
RESUMED = ("tests/test_resume.py",)
TORCH = "engines/pytorch.py"
IN_TORCH = ("tests/test_pytorch.py",)
TRANSFORMERS = "../../docs/transformers"
SEES = ("tests/test_transformers.py",)
SEES_IN_TORCH = ("tests/test_transformers_torch.py",)
OBJECTIVES = "objectives.py"
WEIGHED = ("tests/test_objectives.py",)
EXTENDED = ("tests/test_extend.py",)
LOOPED = ("tests/test_tune.py",)
ANSWERED = ("tests/test_sft.py",)
WINDOWS = ("tests/test_windows.py",)
SHARDS = ("tests/test_shards.py",)
PACKED = ("tests/test_pack.py",)
PREFERENCES = "preferences.py"
PREFERRED = ("tests/test_preferences.py",)
ALIGNED = ("tests/test_alignment.py",)
BY_PAIRS = ("tests/test_dpo.py",)
RATED = ("tests/test_rate.py",)
JOBS = "web/jobs.py"
WORKER = "web/worker.py"
TRAININGS = ("tests/test_web_jobs.py",)
PANELS = ("tests/test_web_inside.py",)
GRAPHS = ("tests/test_web_graph.py",)
AT_A_PAGE = ("tests/test_web_ratings.py",)
IN_A_BROWSER = ("tests/test_page.py",)
WIDEST = {
    "": [],
    "baseline": ["-DKAMON_BYTES=16"],
    "avx2": ["-DKAMON_BYTES=32", "-mavx2", "-mfma", "-mbmi2"],
    "avx512": [
        "-DKAMON_BYTES=64",
        *(f"-mavx512{part}" for part in ("f", "dq", "vl", "bw")),
        "-mfma",
    ],
}["" if native.why_not() else native.best_level()]


@dataclass(frozen=True)
class Bug:
    """Replace `old`, which stands once in `file`, by `new`; `tests` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = GRADIENTS


DETACH = "[k if isinstance(k, float) else Value(k.data) for k in linear(x, %s)]"

BUGS = [
    Bug("negation keeps the sign", SCALAR, "return self * -1.0", "return self * 1.0"),
    Bug(
        "product: the factors' derivatives swapped",
        SCALAR,
        "(other.data, self.data))",
        "(self.data, other.data))",
    ),
    Bug(
        "power: exponent of the derivative",
        SCALAR,
        "exponent * self.data ** (exponent - 1)",
        "exponent * self.data**exponent",
    ),
    Bug("exp: derivative 1", SCALAR, "(self,), (result,))", "(self,), (1.0,))"),
    Bug("log: sign of the derivative", SCALAR, "(1 / self.data,))", "(-1 / self.data,))"),
    Bug("relu: derivative 1 below zero", SCALAR, "1.0 if self.data > 0 else 0.0", "1.0"),
    Bug(
        "backward: the last path overwrites the others",
        SCALAR,
        "source.grad += local_grad",
        "source.grad = local_grad",
    ),
    Bug(
        "topological order: inputs walked from the right",
        SCALAR,
        "for source in reversed(value.inputs)",
        "for source in value.inputs",
        NUMBERS,
    ),
    Bug(
        "softmax: the sum taken as a constant",
        SCALAR,
        "return [e * total**-1 for e in exps]",
        "return [e * data(total) ** -1 for e in exps]",
    ),
    Bug(
        "softmax: temperature of attention forgotten",
        SCALAR,
        "dot(q[head], k[head]) * (head_dim**0.5) ** -1",
        "dot(q[head], k[head])",
        NUMBERS,
    ),
    Bug(
        "attention: no gradient to the keys",
        SCALAR,
        "linear(x, wk)",
        DETACH % "wk",
    ),
    Bug(
        "attention: no gradient to the values",
        SCALAR,
        "linear(x, wv)",
        DETACH % "wv",
    ),
    Bug(
        "attention: every head looks with the first one's query",
        SCALAR,
        "dot(q[head], k[head])",
        "dot(q[:head_dim], k[head])",
        NUMBERS,
    ),
    Bug(
        "rmsnorm: the scale taken as a constant",
        SCALAR,
        "return [xi * scale for xi in x]",
        "return [xi * data(scale) for xi in x]",
    ),
    Bug(
        "rmsnorm: another epsilon", SCALAR, "(mean_square + 1e-5)", "(mean_square + 1e-6)", NUMBERS
    ),
    Bug(
        "gpt: the position forgotten",
        SCALAR,
        'params["wpe"][position]',
        'params["wpe"][0]',
        NUMBERS,
    ),
    Bug(
        "gpt: norm before the first layer forgotten",
        SCALAR,
        "return rmsnorm(x)  # not",
        "return x  # not",
        NUMBERS,
    ),
    Bug(
        "gpt: residual behind the network forgotten",
        SCALAR,
        "x = list(map(add, thought, x))",
        "x = thought",
        NUMBERS,
    ),
    Bug(
        "weights: every document gets the first one's",
        SCALAR,
        "weights[len(logprobs) : len(logprobs) + len(found)]",
        "weights[: len(found)]",
    ),
    Bug(
        "adam: correction one step late",
        SCALAR,
        "beta2 ** (step + 1)",
        "beta2 ** (step + 2)",
    ),
    Bug(
        "adam: epsilon under the root",
        SCALAR,
        "v_hat**0.5 + eps_adam",
        "(v_hat + eps_adam) ** 0.5",
    ),
    Bug("adam: gradients not cleared", SCALAR, "        p.grad = 0.0\n\n\n# ----", "\n\n# ----"),
    Bug(
        "init: a column at a time",
        "model.py",
        '(4 * n_embd, n_embd),\n            f"layer{i}.mlp_fc2"',
        '(n_embd, 4 * n_embd),\n            f"layer{i}.mlp_fc2"',
        NUMBERS,
    ),
    Bug(
        "trainer: learning rate one step ahead",
        "trainer.py",
        "else 1 - done",
        "else 1 - done - 1 / config.num_steps",
        ("tests/test_trainer.py",),
    ),
    Bug(
        "trainer: the least learning rate on top of the others",
        "trainer.py",
        "(config.learning_rate - config.min_lr) * left",
        "config.learning_rate * left",
        ("tests/test_trainer.py",),
    ),
    Bug(
        "engine: the mean of batches' means",
        "engine.py",
        'weights = array("d", [share]) * batch.num_targets',
        'weights = array("d", [1 / len(batches) / batch.num_targets]) * batch.num_targets',
        GRADIENTS,
    ),
    Bug(
        "adam: short gradients made long",
        SCALAR,
        "if norm > grad_clip:",
        "if norm:",
        GRADIENTS,
    ),
    Bug(
        "native: a clipped gradient without its groups",
        ENGINE,
        "if (num_groups > 1) add_up(e, num_groups);\n    num_groups = 1;",
        "num_groups = 1;",
        NATIVE,
    ),
    Bug(
        "native: the norm without its root",
        ENGINE,
        "std::sqrt(sum_of_squares(e))",
        "sum_of_squares(e)",
        NATIVE,
    ),
    Bug(
        "examples: windows that skip a target",
        "examples.py",
        "yield tokens[begin : begin + block_size + 1]",
        "yield tokens[begin : begin + block_size]",
        ("tests/test_text.py",),
    ),
    Bug(
        "examples: the last place of a text never taken",
        "examples.py",
        "places = len(self.tokens) - size + 1",
        "places = len(self.tokens) - size - 40",
        ("tests/test_text.py",),
    ),
    Bug(
        "continuation: a window that begins too late",
        "continuation.py",
        "tokens[-max(1, size // 2) :]",
        "tokens[-max(1, size // 2 - 1) :]",
        ("tests/test_text.py",),
    ),
    Bug(
        "continuation: the same draw for every token",
        "continuation.py",
        "temperature, u(number))]",
        "temperature, u(0))]",
        ("tests/test_text.py",),
    ),
    Bug(
        "run: the end of a text learned and tested",
        "run.py",
        "Documents.of(doc[:end] for doc, end in pairs if end)",
        "Documents.of(doc for doc, end in pairs if end)",
        ("tests/test_text.py",),
    ),
    Bug(
        "lesson: held-out documents of a packed corpus learned",
        "lesson.py",
        'docs = shards.documents("train", size, config.seed)',
        'docs = shards.documents("held_out", size, config.seed)',
        ("tests/test_lesson.py",),
    ),
    Bug(
        "trainer: every step starts with the first document",
        "trainer.py",
        "range(first * size, last * size)",
        "range((last - first) * size)",
        ("tests/test_trainer.py",),
    ),
    Bug(
        "sampler: temperature multiplied",
        "sampler.py",
        "[logit * scale for",
        "[logit * temperature for",
        ("tests/test_sampler.py",),
    ),
    Bug(
        "sampler: position left out of the draw",
        "sampler.py",
        "token = choose(logits, temperature, u(position))",
        "token = choose(logits, temperature, u(0))",
        ("tests/test_sampler.py",),
    ),
    Bug(
        "conditions: a document may end before min_len",
        "conditions.py",
        "if length < conditions.min_len:",
        "if length < conditions.min_len - 1:",
        CONDITIONS,
    ),
    Bug(
        "conditions: names are cut to be short enough",
        "conditions.py",
        "if length > most or",
        "if length >= most or",
        CONDITIONS,
    ),
    Bug(
        "conditions: an empty sample",
        "conditions.py",
        "if not text or text in taken",
        "if text in taken",
        CONDITIONS,
    ),
    Bug(
        "conditions: the prefix takes the draws of what follows",
        "conditions.py",
        "temperature, u(position))]",
        "temperature, u(position - len(prefix)))]",
        CONDITIONS,
    ),
    Bug(
        "conditions: top-p leaves out the token that reaches p",
        "conditions.py",
        "tokens = tokens[: reached + 1]",
        "tokens = tokens[: max(1, reached)]",
        CONDITIONS,
    ),
    Bug(
        "conditions: top-k is not sorted back",
        "conditions.py",
        "        tokens.sort()\n",
        "",
        CONDITIONS,
    ),
    Bug(
        "conditions: each bulk begins at number 0 again",
        "conditions.py",
        "replace(request, n=size, first=done)",
        "replace(request, n=size)",
        CONDITIONS,
    ),
    Bug(
        "describe: the first similar document is taken for the nearest",
        "describe.py",
        "if bounds[sizes] < similarity:",
        "if similarity:",
        CONDITIONS,
    ),
    Bug(
        "describe: of equally similar documents any",
        "describe.py",
        " or (ratio == similarity and place < best)",
        "",
        CONDITIONS,
    ),
    Bug(
        "describe: the bound for likeness taken for the likeness",
        "describe.py",
        "ratio = matcher.ratio()",
        "ratio = matcher.quick_ratio()",
        CONDITIONS,
    ),
    Bug(
        "describe: a common subsequence goes back in the text",
        "describe.py",
        "row = (row + hit) | (row - hit)",
        "row = row - hit",
        CONDITIONS,
    ),
    Bug("philox: nine rounds", "philox.py", "range(10)", "range(9)", ("tests/test_sampler.py",)),
    Bug(
        "store: files not synced",
        "files.py",
        "        os.fsync(file.fileno())\n",
        "",
        ("tests/test_store.py",),
    ),
    Bug(
        "corpus: the last line forgotten",
        "corpus.py",
        "return lines if lines[-1] else lines[:-1]",
        "return lines[:-1]",
        ("tests/test_corpus.py",),
    ),
    Bug(
        "bpe: numbers of the heap never grow old", BPE, "if total[pair] != -number:", "if 0:", PAIRS
    ),
    Bug(
        "bpe: what stood behind a pair counted on",
        BPE,
        "                total[right + behind[0]] -= number\n",
        "",
        PAIRS,
    ),
    Bug(
        "bpe: the latest merge goes first",
        BPE,
        "earliest = min(found)",
        "earliest = max(found)",
        PAIRS,
    ),
    Bug(
        "bpe: a space goes over to the next document",
        BPE,
        "(?= [^\\s\\d\\0])",
        "(?= [^\\s\\d])",
        PAIRS,
    ),
    Bug(
        "bpe: new special tokens before the old",
        BPE,
        "[*self.specials, *names]",
        "[*names, *self.specials]",
        PAIRS,
    ),
    Bug(
        "bpe: a block_size that cuts before the last token",
        BPE,
        "else block_size + 1\n",
        "else block_size\n",
        PAIRS,
    ),
    Bug(
        "bpe: white space keeps its last space",
        BPE,
        'if last.isspace() and last[1:].endswith(" "):',
        "if 0:",
        PAIRS,
    ),
    Bug(
        "bpe: beginnings that no text has",
        BPE,
        "if self._pieces.merge(data[:place] + each) == tokens:",
        "if 1:",
        PAIRS,
    ),
    Bug(
        "conditions: one beginning for every sample",
        "conditions.py",
        "openings[choose(logprobs, request.temperature, u(0))]",
        "openings[0]",
        OF_PIECES,
    ),
    Bug(
        "conditions: a token counts as a character",
        "conditions.py",
        "length += starts[token]",
        "length += 1",
        OF_PIECES,
    ),
    Bug(
        "complete: one document in several ways",
        COMPLETE,
        " and tokenizer.encode(tokenizer.decode(tokens)) == list(tokens)",
        "",
        OF_PIECES,
    ),
    Bug(
        "complete: only what follows whole tokens",
        COMPLETE,
        "    if len(openings) > 1:\n        whole",
        "    if 0:\n        whole",
        OF_PIECES,
    ),
    Bug(
        "corpus: separators in quotes are counted",
        "corpus.py",
        'bare = QUOTED.sub("", rest)',
        "bare = rest",
        ("tests/test_corpus.py",),
    ),
    Bug(
        "corpus: the first line is the first row",
        "corpus.py",
        "if (line and not inside) or size > MAX_LINE:",
        "if line:",
        ("tests/test_corpus.py",),
    ),
    Bug(
        "pack: CSV has commas",
        "sources.py",
        "        separator, each = separated(each, source.format)\n",
        "        separator = '\\t' if source.format == 'tsv' else ','\n",
        PACKED,
    ),
    Bug(
        "pack: pieces of UTF-16",
        "sources.py",
        " and not is_utf_16(source)",
        "",
        PACKED,
    ),
    Bug(
        "corpus: an empty block is the end",
        "corpus.py",
        "left = filter(None, blocks)  # an",
        "left = iter(blocks)  # an",
        PACKED,
    ),
    Bug(
        "corpus: of UTF-16 each block by itself",
        "corpus.py",
        "decoder.decode(block, final=not block).encode()",
        "decoder.decode(block, final=True).encode()",
        ("tests/test_corpus.py",),
    ),
    Bug(
        "score: the oddest is the last unknown character",
        "score.py",
        "next(n for n, char in enumerate(text) if char in strange)",
        "max(n for n, char in enumerate(text) if char in strange)",
        ("tests/test_score.py",),
    ),
    Bug(
        "score: known texts in the places of unknown ones",
        "score.py",
        "for own, place in enumerate(places):",
        "for place, own in enumerate(places):",
        ("tests/test_score.py",),
    ),
    Bug(
        "corpus: prose looks like a table",
        "corpus.py",
        'row.count(", ") if separator == "," else 0',
        "0",
        ("tests/test_corpus.py",),
    ),
    Bug(
        "corpus: all of a mark is waited for",
        "corpus.py",
        "while any(len(begin) < len(mark) and mark.startswith(begin) for mark in marks):",
        "while len(begin) < 4:",
        ("tests/test_corpus.py",),
    ),
    Bug(
        "score: the unknown are scored and then forgotten",
        "score.py",
        'if unknown == "odd":',
        "if 0:",
        ("tests/test_score.py",),
    ),
    Bug(
        "score: a text cut counts all its characters",
        "score.py",
        "lengths = map(sub, seen, cut)",
        "lengths = map(len, texts)",
        OF_PIECES,
    ),
    Bug(
        "inside: a token is the nearest to itself",
        INSIDE,
        " if -place != token][:n]",
        "][:n]",
        OF_PIECES,
    ),
    Bug(
        "tokenizer: characters in the order of their appearance",
        "tokenizer.py",
        "        return cls(sorted(chars))\n",
        "        return cls(dict.fromkeys(''.join(docs)))\n",
        ("tests/test_tokenizer.py",),
    ),
    Bug(
        "tokenizer: long documents cut one token too early",
        "tokenizer.py",
        '[f"{bos}{text}{bos}"[: block_size + 1] for text in block]',
        '[f"{bos}{text}{bos}"[:block_size] + bos for text in block]',
        ("tests/test_score.py",),
    ),
    Bug(
        "store: the end of a block of documents lost",
        "contents.py",
        'whole, rest, size = b"".join([*rest, whole]), [], 0',
        "rest, size = [], 0",
        ("tests/test_store.py",),
    ),
    Bug(
        "clean: of repetitions the later ones stay",
        "clean.py",
        "return docs.select(first) if step.count else docs",
        "return docs[::-1].select(docs[::-1].first_occurrences())[::-1]",
        ("tests/test_clean.py",),
    ),
    Bug(
        "documents: one left out behind each full block",
        "documents.py",
        "begin += count[0]",
        "begin += count[0] + (count[0] > 1)",
        DOCUMENTS,
    ),
    Bug(
        "documents: what is chosen starts where the one before does",
        "documents.py",
        "compress(found, memoryview(chosen))",
        "compress(found, chosen[1:] + chosen[:1])",
        DOCUMENTS,
    ),
    Bug(
        "native: documents with equal hashes are equal",
        "engines/native/documents.hpp",
        "if (!std::strcmp(text + table[slot] - 1, document)) {",
        "if (true) {",
        DOCUMENTS,
    ),
    Bug(
        "native: repetitions looked for in the first pass alone",
        "engines/native/documents.hpp",
        "pass < num_passes; pass++",
        "pass < 1; pass++",
        DOCUMENTS,
    ),
    Bug(
        "native: the rest of a document does not count for its hash",
        "engines/native/documents.hpp",
        "task(i, document, hash, (hash >> 32) % num_passes);",
        "task(i, document, hash + i, ((hash + i) >> 32) % num_passes);",
        DOCUMENTS,
    ),
    Bug(
        "native: sign of the target's gradient",
        ENGINE,
        "* ldn + n] -= weight[n];",
        "* ldn + n] += weight[n];",
        NATIVE,
    ),
    Bug(
        "native: no gradient to the keys",
        MODEL,
        "mix(d.head_dim, num_queries, ds_by_query, q + key, dk + key, ldn);",
        "mix(d.head_dim, 0, ds_by_query, q + key, dk + key, ldn);",
        NATIVE,
    ),
    Bug(
        "native: no gradient to the values",
        MODEL,
        "mix(d.head_dim, num_queries, p_by_query, dout + key, dv + key, ldn);",
        "mix(d.head_dim, 0, p_by_query, dout + key, dv + key, ldn);",
        NATIVE,
    ),
    Bug(
        "native: no gradient to keys and values from queries further on",
        MODEL,
        "const int num_queries = round_up(T - key, BLOCK);",
        "const int num_queries = std::min(L, round_up(T - key, BLOCK));",
        NATIVE,
    ),
    Bug(
        "native: attention's softmax without the mean",
        MODEL,
        "(load(ds + n * L) - mean) * scale",
        "load(ds + n * L) * scale",
        NATIVE,
    ),
    Bug(
        "native: the next document's queries reach this one's keys",
        MODEL,
        "transpose(T - key, T - from,",
        "transpose(T - key, L,",
        NATIVE,
    ),
    Bug(
        "native: relu passes the gradient at zero",
        MODEL,
        "load(b.hidden.data + at) > Real(0)",
        "load(b.hidden.data + at) >= Real(0)",
        NATIVE,
    ),
    Bug(
        "native: of zeros passed over, the second word forgotten",
        "engines/native/sparse.hpp",
        "for (int w = 1; w < bits.num_words; w++)",
        "for (int w = 2; w < bits.num_words; w++)",
        NATIVE,
    ),
    Bug(
        "native: bits of units taken for those of tokens",
        "engines/native/sparse.hpp",
        "      transpose_bits(block);\n",
        "",
        NATIVE,
    ),
    Bug(
        "native: a gradient set where it is to be added, zeros passed over",
        "engines/native/sparse.hpp",
        "store(to, load(to) + load(sums + r * ld + j));",
        "store(to, load(sums + r * ld + j));",
        NATIVE,
    ),
    Bug(
        "native: the norm's scale taken as a constant",
        MODEL,
        "(load(dy + c * ldn + j) - load(y + c * ldn + j) * mean)",
        "load(dy + c * ldn + j)",
        NATIVE,
    ),
    Bug(
        "native: gradient around the network forgotten",
        MODEL,
        "rmsnorm_backward<true>(s.n_embd, w.dnormed.data, b.normed2.data",
        "rmsnorm_backward<false>(s.n_embd, w.dnormed.data, b.normed2.data",
        NATIVE,
    ),
    Bug(
        "native: no gradient to the positions",
        MODEL,
        "store(position, load(position) + load(rows + i * L));",
        "(void)position;",
        NATIVE,
    ),
    Bug("native: the future is seen", MODEL, "if (key >= from)", "if (key > from + L)", NATIVE),
    Bug(
        "native: weight gradient without the last token",
        MODEL,
        "put(num_rows, num_tokens, m.ld,",
        "put(num_rows, std::max(1, num_tokens - 1), m.ld,",
        NATIVE,
    ),
    Bug(
        "native: what was there before counts as gradient",
        MODEL,
        "fresh ? gemm<Put::set, A::by_row> : gemm<Put::add, A::by_row>",
        "gemm<Put::add, A::by_row>",
        NATIVE,
    ),
    Bug(
        "native: a batch without a target keeps the old gradient",
        ENGINE,
        "if (want_gradient && fresh) std::memset",
        "if (want_gradient && !fresh) std::memset",
        NATIVE,
    ),
    Bug(
        "native: the last rows of a product left out",
        "engines/native/gemm.hpp",
        "if (num_r == RB - 1)",
        "if (num_r == RB - 1 && RB != 3)",
        NATIVE,
    ),
    Bug(
        "native: half a vector of tokens left out",
        "engines/native/gemm.hpp",
        "if (HALF < L && j < num_j)",
        "if (HALF < L && j + HALF < num_j)",
        NATIVE,
    ),
    Bug(
        "native: adam corrects both moments by beta1",
        ENGINE,
        "1 / (1 - std::pow(e.beta2, t))",
        "1 / (1 - std::pow(e.beta1, t))",
        NATIVE,
    ),
    Bug(
        "native: dropout's gradient unmasked behind attention",
        MODEL,
        "dbranch = masked(b.mask1.data);",
        "dbranch = w.dx.data;",
        NATIVE,
    ),
    Bug(
        "native: one draw for all documents",
        ENGINE,
        "return draws ? draws[i] : first_draw + uint64_t(i);",
        "return draws ? draws[0] : first_draw + uint64_t(i);",
        NATIVE,
    ),
    Bug(
        "trainer: every part of a training drops the same",
        "trainer.py",
        "first_draw=first * size,",
        "first_draw=0,",
        ("tests/test_dropout.py",),
    ),
    Bug(
        "native: no weight decay",
        ENGINE,
        "load(p) * kept - quotient(",
        "load(p) - quotient(",
        NATIVE,
    ),
    Bug(
        "native: a group of documents left out of the sum",
        ENGINE,
        "for (int g = 1; g < size; g++) total",
        "for (int g = 2; g < size; g++) total",
        NATIVE,
    ),
    Bug(
        "native: weights of the first group for all",
        ENGINE,
        "weights ? weights + before : nullptr",
        "weights",
        NATIVE,
    ),
    Bug(
        "native: weights of the first chunk for all",
        ENGINE,
        "if (weights) weights += chunk.num_tokens;",
        "",
        NATIVE,
    ),
    Bug(
        "native: a sampler's lane sees what stood there before",
        SAMPLER,
        "place >= Int(age[key + n]) ?",
        "place >= Int(age[key + n] - 1) ?",
        NATIVE,
    ),
    Bug(
        "native: a key of the draws goes on by another step",
        "engines/native/philox.hpp",
        "(k1 + 0xBB67AE85u)",
        "(k1 + 0xBB67AE84u)",
        NATIVE,
    ),
    Bug(
        "native: a draw too large is cut instead of repeated",
        "engines/native/mersenne.hpp",
        "while (r >= n);",
        "while (false);\n    r %= n;",
        ("tests/test_mersenne.py",),
    ),
    Bug(
        "native: the second number of a pair forgotten",
        "engines/native/mersenne.hpp",
        "spare = sine(angle) * radius;",
        "",
        ("tests/test_mersenne.py",),
    ),
    Bug(
        "native: an interrupted step is made all the same",
        ENGINE,
        "        e.fresh = true;\n        return i;\n",
        "        e.fresh = true;\n",
        NATIVE,
    ),
    Bug(
        "n-gram: shorter ones counted as often as they occur",
        NGRAM,
        "Counter([gram[1:] for gram in counts])",
        "Counter([gram[1:] for gram in counts.elements()])",
        COUNTS,
    ),
    Bug("n-gram: openings not counted", NGRAM, "if k > 1:", "if k > order:", COUNTS),
    Bug(
        "n-gram: a token that a context does not know takes all that is left",
        NGRAM,
        "p = entry[0] * p + entry[1].get(target, 0.0)",
        "p = entry[0] * p + entry[1].get(target, entry[0])",
        COUNTS,
    ),
    Bug(
        "n-gram: one discount for all counts",
        NGRAM,
        "(count - discount[j]) / total",
        "(count - discount[1]) / total",
        COUNTS,
    ),
    Bug("n-gram: all of a count taken", NGRAM, "0 < discount < j", "0 < discount <= j", COUNTS),
    Bug(
        "n-gram: the longest context of the decoder one too short",
        NGRAM,
        "len(read) - self.ngram.order + 1) :]",
        "len(read) - self.ngram.order + 2) :]",
        COUNTS,
    ),
    Bug(
        "fast n-gram: shorter ones counted as often as they occur",
        COUNTER,
        "if (k > 1 && level.grams.size() > known)",
        "if (k > 1)",
        COUNTED,
    ),
    Bug(
        "fast n-gram: openings not counted",
        COUNTER,
        "if (k > 1 && k == place + 1)",
        "if (k > 1 && k == place)",
        COUNTED,
    ),
    Bug(
        "fast n-gram: the opening BOS counted as a target",
        COUNTER,
        "if (place > 0) gram.counts",
        "gram.counts",
        COUNTED,
    ),
    Bug(
        "fast n-gram: one discount for all counts",
        COUNTER,
        "(count - discount[std::min(count, 3u)])",
        "(count - discount[1])",
        COUNTED,
    ),
    Bug(
        "fast n-gram: one discount for all that is taken",
        COUNTER,
        "after.num[2] * discount[3]",
        "after.num[2] * discount[2]",
        COUNTED,
    ),
    Bug(
        "fast n-gram: a token taken for the same in any context",
        COUNTER,
        "(grams[slots[at]].context != context || grams[slots[at]].token != token)",
        "grams[slots[at]].token != token",
        COUNTED,
    ),
    Bug(
        "fast n-gram: each order goes on from the longest counts of the one below",
        COUNTER,
        "p = level.mix(SHORTER, context",
        "p = level.mix(LONGEST, context",
        COUNTED,
    ),
    Bug(
        "fast n-gram: probabilities of the longest counts alone",
        COUNTER,
        "k == order ? LONGEST : SHORTER",
        "LONGEST",
        COUNTED,
    ),
    Bug(
        "fast n-gram: rounded in another order",
        COUNTER,
        "taken / after.total * p",
        "taken * p / after.total",
        COUNTED,
    ),
    Bug(
        "fast n-gram: a token outside the vocabulary let in",
        COUNTER,
        "token >= 0 && token < vocab_size",
        "token < vocab_size",
        COUNTED,
    ),
    Bug(
        "fast n-gram: each piece of the documents overwrites the one before",
        "fast_ngram.py",
        "done += found",
        "done = found",
        COUNTED,
    ),
    Bug(
        "fast n-gram: the highest order taken for the best",
        "fast_ngram.py",
        "return ngram.of_order(nats.index(min(nats)) + 1), nats",
        "return ngram, nats",
        COUNTED,
    ),
    Bug(
        "evaluate: an end counted where a document was cut",
        EVALUATE,
        "[len(tokens) - 1 for",
        "[len(tokens) for",
        MEASURED,
    ),
    Bug(
        "evaluate: documents tested on that were learned",
        "api.py",
        'self.training.get("held_out") is not None',
        "True",
        MEASURED,
    ),
    Bug(
        "evaluate: the n-grams learn what they are tested on",
        EVALUATE,
        "tokenizer.encode_documents(learned), batch,",
        "batch, batch,",
        MEASURED,
    ),
    Bug(
        "evaluate: bits for nats",
        EVALUATE,
        "math.exp(mean) if",
        "2**mean if",
        MEASURED,
    ),
    Bug(
        "evaluate: a sample without an end takes part as one with an end",
        EVALUATE,
        "bigrams(ended, unended), pairs)",
        "bigrams(ended + unended), pairs)",
        MEASURED,
    ),
    Bug(
        "evaluate: what was held out is taken for new",
        EVALUATE,
        "(len(texts) - known - known_held_out)",
        "(len(texts) - known)",
        MEASURED,
    ),
    Bug(
        "evaluate: all lengths as if one apart",
        EVALUATE,
        " * (following - value)",
        "",
        MEASURED,
    ),
    Bug(
        "complete: a document may end before its pattern",
        COMPLETE,
        "bool(places >> self.size)",
        "bool(places)",
        PATTERNS,
    ),
    Bug(
        "complete: a prefix costs only its last token",
        COMPLETE,
        "base = cost + log_sum_exp(logits)",
        "base = log_sum_exp(logits)",
        PATTERNS,
    ),
    Bug(
        "complete: every place in a pattern is a gap",
        COMPLETE,
        "stay = places & self.gaps",
        "stay = places",
        PATTERNS,
    ),
    Bug(
        "complete: no look at the room that is left",
        COMPLETE,
        "least = self.size + length + 1 - self.block_size",
        "least = 0",
        PATTERNS,
    ),
    Bug(
        "complete: all that is found is called exact",
        COMPLETE,
        "sum(-each.logprob <= unread for each in documents)",
        "len(documents)",
        PATTERNS,
    ),
    Bug(
        "complete: the search ends at the first n documents",
        COMPLETE,
        "while left and left[0][0] < worst() and",
        "while left and len(best) < n and",
        PATTERNS,
    ),
    Bug(
        "complete: shares of all documents, not of those that begin alike",
        COMPLETE,
        "    shared = logprob_of_prefix(model.engine, model.tokenizer, prefix)\n",
        "    shared = 0.0\n",
        PATTERNS,
    ),
    Bug(
        "complete: a decoder goes on behind another prefix",
        "sampler.py",
        " and tokens[: len(read)] == read:",
        ":",
        PATTERNS,
    ),
    Bug(
        "attention: every head mixes the first one's values",
        SCALAR,
        "head = slice(h * head_dim, (h + 1) * head_dim)",
        "head = slice(0, head_dim)",
        NUMBERS,
    ),
    Bug(
        "inside: the last layer's attention shown first",
        SCALAR,
        "watched.append(weights)",
        "watched.insert(0, weights)",
        SEEN,
    ),
    Bug(
        "inside: heads in the wrong order",
        INSIDE,
        "zip(heads, layer, strict=True)",
        "zip(heads, layer[::-1], strict=True)",
        SEEN,
    ),
    Bug(
        "inside: positions in the wrong order",
        INSIDE,
        "rows.append(weights + future)",
        "rows.append(weights[::-1] + future)",
        SEEN,
    ),
    Bug("inside: the future before the past", INSIDE, "weights + future", "future + weights", SEEN),
    Bug(
        "inside: a plane through zero, not through the mean",
        INSIDE,
        "columns.append([x - mean for x in column])",
        "columns.append([x - 0 * mean for x in column])",
        SEEN,
    ),
    Bug(
        "inside: an axis turned by its largest number alone",
        INSIDE,
        "max(axis, key=abs))",
        "max(axis))",
        SEEN,
    ),
    Bug(
        "inside: the second axis not at right angles to the first",
        INSIDE,
        "t - along * o for",
        "t - 0.5 * along * o for",
        SEEN,
    ),
    Bug(
        "inside: both axes begin in the same direction",
        INSIDE,
        "(i + 1) * (len(others) + 1)",
        "i + 1",
        SEEN,
    ),
    Bug("inside: the rarest characters named", INSIDE, "-often[tokens", "often[tokens", SEEN),
    Bug(
        "inside: the baseline measured on more than the model can see",
        INSIDE,
        "None if whole else model.config.block_size)",
        "None)",
        SEEN,
    ),
    Bug(
        "inside: the baseline a token, the opening BOS counted",
        INSIDE,
        "min(nats) / tested.num_targets",
        "min(nats) / len(tested.tokens)",
        SEEN,
    ),
    Bug(
        "inside: held-out losses one step early",
        INSIDE,
        '(place + 1, line["held_out_loss"])',
        '(place, line["held_out_loss"])',
        SEEN,
    ),
    Bug(
        "inside: lengths counted from zero, not from the first bin",
        INSIDE,
        "(n - first[0]) // width",
        "n // width",
        SEEN,
    ),
    Bug(
        "curve: a mean of what comes next alone",
        CURVE,
        "max(0, place - half) : place",
        "place : place",
        CURVES,
    ),
    Bug("curve: the largest lost", CURVE, "sorted({least, largest})", "[least]", CURVES),
    Bug("curve: blocks counted from zero", CURVE, "(mean - least) * scale", "mean * scale", CURVES),
    Bug(
        "plot: a map on its side",
        "plot.py",
        "                *point,",
        "                *point[::-1],",
        PICTURES,
    ),
    Bug(
        "plot: each step's losses in the place of their means",
        "plot.py",
        "axes.plot(*split(found.smooth)",
        "axes.plot(*split(found.each)",
        PICTURES,
    ),
    Bug(
        "plot: shares of the list for those of the samples",
        "plot.py",
        "axes.stairs(shares[1]",
        "axes.stairs(shares[0]",
        PICTURES,
    ),
    Bug(
        "plot: a missing glyph taken for one",
        "plot.py",
        "or not has_glyph(char)",
        "",
        PICTURES,
    ),
    Bug(
        "store: sizes not compared",
        STORE,
        'if size != entry.get("size", size):',
        "if not size:",
        KEPT,
    ),
    Bug(
        "store: hashes not compared",
        STORE,
        '.hexdigest() != entry["sha256"]',
        '.hexdigest() == ""',
        DAMAGED,
    ),
    Bug(
        "store: an older generation taken in silence",
        STORE,
        "return read_generation(newest)",
        "return load_newest_whole(path)[0]",
        DAMAGED,
    ),
    Bug(
        "store: what is damaged is read before its hash is known",
        STORE,
        'if hashlib.file_digest(file, "sha256").hexdigest()',
        "if hashlib.sha256(file.read()).hexdigest()",
        KEPT,
    ),
    Bug(
        "store: names that the manifest may not have",
        STORE,
        "if names - contents.OPTIONAL != set(contents.FILES):",
        "if not names >= set(contents.FILES):",
        KEPT,
    ),
    Bug(
        "store: the newest generation goes",
        STORE,
        "self.kept = self.kept[-KEPT:]",
        "self.kept = self.kept[:-1]",
        KEPT,
    ),
    Bug(
        "store: a header of any length",
        CONTENTS,
        "> most_header(config, len(prefixes)):",
        "> 1 << 62:",
        KEPT,
    ),
    Bug(
        "store: steps without end",
        CONTENTS,
        "if len(metrics) > config.num_steps:",
        "if False:",
        KEPT,
    ),
    Bug("store: negative squares", CONTENTS, "if min(v) < 0:", "if False:", KEPT),
    Bug(
        "store: a generation that comes while one looks is taken for damage",
        "store.py",
        "elif there or not all",
        "elif generations(path) or not all",
        RESUMED,
    ),
    Bug("lock: not taken", "lock.py", "if not take(descriptor):", "if False:", RESUMED),
    Bug("lock: leads elsewhere", "lock.py", ' | getattr(os, "O_NOFOLLOW", 0)', "", KEPT),
    Bug(
        "resume: Adam's means forgotten",
        "api.py",
        "run.engine.load(found.state)",
        'run.engine.load(untrained(found.state["params"]))',
        RESUMED,
    ),
    Bug(
        "resume: what was held out is not remembered",
        "api.py",
        "        if validation and metrics.held_out:\n",
        "        if validation and metrics.held_out and extend:\n",
        RESUMED,
    ),
    Bug(
        "validation: a stop keeps the last parameters for the best",
        "validation.py",
        "self.best_step == step:\n            return False",
        "self.best_step == self.records[-1][0]:\n            return False",
        RESUMED,
    ),
    Bug(
        "training: measured again where nothing was made",
        "trainer.py",
        "due = done > first and (",
        "due = (",
        RESUMED,
    ),
    Bug(
        "a full disk: what was staged stays",
        STORE,
        "        yield folder\n    finally:\n        shutil.rmtree(folder, ignore_errors=True)",
        "        yield folder\n    finally:\n        pass",
        ("tests/test_disk_full.py",),
    ),
    Bug(
        "a full disk: older generations go first",
        STORE,
        "            number = max(generations(self.path), default=0) + 1\n",
        "            number = max(generations(self.path), default=0) + 1\n"
        "            for folder in folders(self.path):\n                remove(folder)\n",
        ("tests/test_disk_full.py",),
    ),
    Bug(
        "download: kept whatever it is",
        "builtin.py",
        "return content if is_original(content) else",
        "return content if content else",
        ("tests/test_downloads.py",),
    ),
    Bug(
        "format 2 cannot be read any more",
        STORE,
        'if found["format"] == FLAT_FORMAT:',
        'if found["format"] == 1:',
        ("tests/test_old_models.py",),
    ),
    Bug(
        "corpus: a byte that is no text is passed over",
        "corpus.py",
        "if fault >= 0:\n            raise",
        "if fault > 300:\n            raise",
        ("tests/test_torture_corpus.py",),
    ),
    Bug("torch looks ahead", TORCH, "apart(v), is_causal=True)", "apart(v))", IN_TORCH),
    Bug(
        "torch mixes documents of different lengths",
        TORCH,
        "(B, T), row * T + positions)",
        "(B, T), row * (T - 1) + positions)",
        IN_TORCH,
    ),
    Bug("torch counts positions on", TORCH, "- lengths)[row]", "- lengths)[0]", IN_TORCH),
    Bug(
        "torch drops the same numbers at two sites",
        TORCH,
        "inputs, site + 1, self.config)",
        "inputs, site, self.config)",
        IN_TORCH,
    ),
    Bug(
        "torch draws all batches of a step alike",
        TORCH,
        "range(plan.first_draw + places.start, plan.first_draw + places.stop)",
        "range(plan.first_draw, plan.first_draw + len(places))",
        IN_TORCH,
    ),
    Bug(
        "torch takes the mean of the batches' means",
        TORCH,
        "torch.autograd.backward(total * share)",
        "torch.autograd.backward(total / batch.num_targets / len(sums or [1]))",
        IN_TORCH,
    ),
    Bug(
        "torch shortens every gradient",
        TORCH,
        "torch.where(norm > clip, clip / norm, 1.0)",
        "clip / norm",
        IN_TORCH,
    ),
    Bug(
        "torch forgets Adam's steps",
        TORCH,
        "torch.tensor(float(self.num_updates)",
        "torch.tensor(float(0)",
        IN_TORCH,
    ),
    Bug(
        "torch's decoder follows the parameters",
        TORCH,
        "engine.frozen = copy.deepcopy(engine.gpt)",
        "engine.frozen = engine.gpt",
        IN_TORCH,
    ),
    Bug(
        "torch learns from a loss that is not finite",
        TORCH,
        "if not math.isfinite(losses[-1]):",
        "if False:",
        IN_TORCH,
    ),
    Bug(
        "torch's decoder sees what is not there yet",
        TORCH,
        "kept[:, :, :, : position + 1]",
        "kept",
        IN_TORCH,
    ),
    Bug(
        "torch keeps only half of bfloat16's parameters",
        TORCH,
        'torch.float64 if dtype == "float64" else torch.float32',
        '{"float64": torch.float64, "float32": torch.float32}.get(dtype, torch.bfloat16)',
        IN_TORCH,
    ),
    Bug(
        "windows: what falls behind the end stays there",
        "windows.py",
        "            if i < n:\n",
        "            if True:\n",
        WINDOWS,
    ),
    Bug(
        "windows: seeds count but their low half",
        "windows.py",
        "key = (seed & MASK32) ^ WINDOW_KEY, seed >> 32",
        "key = (seed & MASK32) ^ WINDOW_KEY, 0",
        WINDOWS,
    ),
    Bug(
        "shards: two BOS where shards meet",
        "shards.py",
        "accumulate((s.num_tokens - 1 for s",
        "accumulate((s.num_tokens for s",
        SHARDS,
    ),
    Bug(
        "shards: held-out windows from the beginning alone",
        "shards.py",
        "(number * total // count * block_size",
        "(number * block_size",
        SHARDS,
    ),
    Bug(
        "shards: verified once is for ever",
        "shards.py",
        "read_verified(path) != done",
        "read_verified(path) is None",
        SHARDS,
    ),
    Bug(
        "shards: every epoch has one order",
        "shards.py",
        "permutation(self.seed, epoch, n)",
        "permutation(self.seed, 0, n)",
        SHARDS,
    ),
    Bug(
        "pack: a line is cut in two",
        "sources.py",
        "end = line_start(file, piece.end) if piece.end < source.size else source.size",
        "end = piece.end",
        PACKED,
    ),
    Bug(
        "pack: a file that is cut off is whole",
        "sources.py",
        "    if decoder is not None:\n",
        "    if decoder is None and False:\n",
        PACKED,
    ),
    Bug(
        "pack: another tenth is held out",
        "units.py",
        "part_of(doc.encode()) == 0",
        "part_of(doc.encode()) == 1",
        PACKED,
    ),
    Bug(
        "pack: texts are cut behind white space",
        "units.py",
        '(r"(?s:.*)\\S(?=\\s)")',
        '(r"(?s:.*)\\s(?=\\S)")',
        PACKED,
    ),
    Bug(
        "pack: a shard is full one document late",
        "units.py",
        "self.most - self.num_tokens, first) + 1",
        "self.most - self.num_tokens + 1, first) + 1",
        PACKED,
    ),
    Bug(
        "pack: what was finished is not looked at",
        "pack.py",
        'record["plan"] == plan.digest and sizes == [file["size"] for file in files]',
        'record["plan"] == plan.digest',
        PACKED,
    ),
    Bug(
        "pack: an input may change",
        "sources.py",
        "if (there.st_size, there.st_mtime_ns) != (source.size, source.mtime_ns):",
        "if there.st_size != there.st_size:",
        PACKED,
    ),
    Bug(
        "KL the other way round",
        COMPARE,
        "mean_and_error([p - q for p, q in both])",
        "mean_and_error([q - p for p, q in both])",
        COMPARED,
    ),
    Bug(
        "special tokens count",
        COMPARE,
        "    if not dropped:\n",
        "    if dropped:\n",
        COMPARED,
    ),
    Bug(
        "a row of another token is dropped",
        COMPARE,
        'name not in ("wte", "lm_head") or row not in dropped',
        'name not in ("wte", "lm_head") or row + 1 not in dropped',
        COMPARED,
    ),
    Bug(
        "what only one can read counts as near",
        COMPARE,
        "        kl -= math.log(len(texts) / n)\n",
        "        kl += math.log(len(texts) / n)\n",
        COMPARED,
    ),
    Bug(
        "a draw is a loss",
        "alignment.py",
        "(a > b) + (a == b) / 2",
        "(a > b)",
        COMPARED,
    ),
    Bug(
        "the base's mean length",
        COMPARE,
        "sum(map(len, other.texts)) / n",
        "sum(map(len, base.texts)) / n",
        COMPARED,
    ),
    Bug(
        "a dominated model on the frontier",
        COMPARE,
        "(a <= x and b > y) or (a < x and b >= y)",
        "(a < x and b > y)",
        COMPARED,
    ),
    Bug(
        "a text that is too long for the reward model",
        COMPARE,
        "room_of(model, prompt) - 2  # the end",
        "room_of(model, prompt) - 1  # the end",
        COMPARED,
    ),
    Bug(
        "intervals of single rewards",
        COMPARE,
        "1.96 * each.rewards.deviation / math.sqrt(each.rewards.n)",
        "1.96 * each.rewards.deviation",
        COMPARED,
    ),
    Bug(
        "rewards: good and bad read at the wrong documents",
        REWARDS,
        "ends.append((end + len(tokens) - 1, end + 2 * len(tokens) - 1))",
        "ends.append((end + 2 * len(tokens) - 1, end + len(tokens) - 1))",
        PAIRED,
    ),
    Bug(
        "rewards: the rejected document learned as the chosen one",
        REWARDS,
        "weight = -of_pairs[i // 2] if i % 2 else of_pairs[i // 2]",
        "weight = of_pairs[i // 2]",
        PAIRED,
    ),
    Bug(
        "rewards: calibration forgets how many pairs a bin has",
        REWARDS,
        "error += abs(predicted - observed) * len(row) / len(margins)",
        "error += abs(predicted - observed) / num_bins",
        PAIRED,
    ),
    Bug(
        "ppo: the coefficient begins anew where a tuning goes on",
        POLICY,
        'control.beta = next_beta(line["beta"], line["kl"], target)',
        "pass",
        TUNED,
    ),
    Bug(
        "ppo: the same documents in every step",
        POLICY,
        "first = FIRST + step * c.batch_size",
        "first = FIRST",
        TUNED,
    ),
    Bug(
        "ppo: the KL is rewarded",
        POLICY,
        "gains = [r / unit - beta * d for",
        "gains = [r / unit + beta * d for",
        TUNED,
    ),
    Bug(
        "ppo: the step beyond the budget is kept",
        POLICY,
        "                engine.load(standing)\n",
        "",
        TUNED,
    ),
    Bug(
        "critic: a prefix has the value of the one behind it",
        POLICY,
        "for end in range(1 + skip, len(tokens)))",
        "for end in range(2 + skip, len(tokens) + 1))",
        TUNED,
    ),
    Bug(
        "critic: good and bad swapped",
        POLICY,
        "for place, w_good, w_bad in",
        "for place, w_bad, w_good in",
        TUNED,
    ),
    Bug(
        "a critic is not kept",
        "tune.py",
        "critic=critic.state() if critic else None",
        "critic=None",
        TUNED,
    ),
    Bug(
        "objectives: prompts are learned",
        OBJECTIVES,
        "row = [0.0] * prompt + [weight] * answer",
        "row = [weight] * prompt + [weight] * answer",
        WEIGHED,
    ),
    Bug(
        "objectives: DPO forgets beta in the gradient",
        OBJECTIVES,
        "share = beta / len(margins)",
        "share = 1 / len(margins)",
        WEIGHED,
    ),
    Bug(
        "objectives: the clip of PPO on the wrong side",
        OBJECTIVES,
        "if advantage > 0 else ratio < 1 - clip",
        "if advantage < 0 else ratio < 1 - clip",
        WEIGHED,
    ),
    Bug(
        "objectives: the penalty pulls away from the reference",
        OBJECTIVES,
        "return [-share * (now - ref)",
        "return [share * (now - ref)",
        WEIGHED,
    ),
    Bug(
        "objectives: a group's baseline has the answer itself",
        OBJECTIVES,
        "r - (total - r) / (group_size - 1)",
        "r - total / group_size",
        WEIGHED,
    ),
    Bug(
        "objectives: a critic learns the reverse",
        OBJECTIVES,
        "return [share * r for r in returns], [share * (1 - r) for r in returns]",
        "return [share * (1 - r) for r in returns], [share * r for r in returns]",
        WEIGHED,
    ),
    Bug(
        "extend: new tokens are as likely as others",
        "extend.py",
        "if reader and docs else",
        "if reader and not docs else",
        EXTENDED,
    ),
    Bug(
        "extend: new positions come first",
        "extend.py",
        "        found.extend(old)\n        more = wanted[name][0] - n_out\n",
        "        more = wanted[name][0] - n_out\n"
        '        old = old[n_in:] + old[:n_in] if more and name == "wpe" else old\n'
        "        found.extend(old)\n",
        EXTENDED,
    ),
    Bug(
        "samples: special tokens may be drawn",
        "sampler.py",
        "if each not in excluded]",
        "if each not in ()]",
        EXTENDED,
    ),
    Bug(
        "store: a probe that another process takes away ends a writer",
        STORE,
        "(path / name).unlink(missing_ok=True)",
        "(path / name).unlink()",
        RESUMED,
    ),
    Bug(
        "store: a directory that has just been made is taken for a file",
        STORE,
        "elif path.exists() and not path.is_dir():",
        "elif path.exists():",
        RESUMED,
    ),
    Bug(
        "tune: Adam counts steps, not updates",
        "tune.py",
        'state["step"] = len(found.metrics) * tuning.updates',
        'state["step"] = len(found.metrics)',
        LOOPED,
    ),
    Bug(
        "tune: it goes on from the best parameters",
        "tune.py",
        "        engine.load(last)\n        model = keep(",
        "        model = keep(",
        LOOPED,
    ),
    Bug(
        "tune: every epoch in the same order",
        "tune.py",
        "places.append(order(seed, epoch, n)(i))",
        "places.append(order(seed, i, n)(i))",
        LOOPED,
    ),
    Bug(
        "sft: the base's documents lose their first letter",
        "sft.py",
        "rows.append((tokens, (0, len(tokens) - 1)))",
        "rows.append((tokens, (1, len(tokens) - 2)))",
        ANSWERED,
    ),
    Bug(
        "sft: what the base was tested on is learned",
        "sft.py",
        "        if completion in tested_base:\n            continue\n",
        "",
        ANSWERED,
    ),
    Bug(
        "answers: the draw of another position",
        "conditions.py",
        "range(model.config.block_size - len(before))",
        "range(len(before), model.config.block_size)",
        ANSWERED,
    ),
    Bug(
        "preferences: a torn line stays, and the next answer is joined to it",
        PREFERENCES,
        "file.truncate(len(whole) + len(newline))",
        "file.truncate(len(content))",
        PREFERRED,
    ),
    Bug(
        "rules: or binds closer than and",
        PREFERENCES,
        """        rules = [self.all_of()]
        while self.comes("or"):
            rules.append(self.all_of())""",
        """        rules = [self.all_of()]
        while self.comes("or"):
            rules.append(self.one())""",
        PREFERRED,
    ),
    Bug(
        "preferences: names of held-out pairs are learned, too",
        PREFERENCES,
        "groups[name in apart, sex, name[0]]",
        "groups[name in apart and number > 99, sex, name[0]]",
        PREFERRED,
    ),
    Bug(
        "alignment: the KL is that of the base to the model",
        "alignment.py",
        "differences = [p - q for p, q in",
        "differences = [q - p for p, q in",
        ALIGNED,
    ),
    Bug(
        "alignment: what a prompt costs is part of the KL",
        "alignment.py",
        "left_sum(logprobs[begin + skip : end])",
        "left_sum(logprobs[begin:end])",
        ALIGNED,
    ),
    Bug(
        "dpo: the reference of a rejected answer is that of the chosen one",
        "dpo.py",
        '"ref_rejected": logprobs[half + i]',
        '"ref_rejected": logprobs[i]',
        BY_PAIRS,
    ),
    Bug(
        "dpo: a model beyond the budget may be the best one",
        "dpo.py",
        'return math.inf if is_over() else found["loss"]',
        'return found["loss"]',
        BY_PAIRS,
    ),
    Bug(
        "dpo: a cut answer has weights for targets that are not there",
        OBJECTIVES,
        "found += row[:size] + [0.0]",
        "found += row + [0.0]",
        BY_PAIRS,
    ),
    Bug(
        "rate: an answer that is taken back stays in the file",
        "rate.py",
        "        preferences.drop_last(self.journal)\n",
        "",
        RATED,
    ),
    Bug(
        "tune: a tuning that has enough goes on",
        "tune.py",
        "return exhausted or (steps.ended is not None and steps.ended())",
        "return exhausted",
        LOOPED,
    ),
    Bug(
        "tune: what is picked wins over what is given",
        "tune.py",
        "{**picked, **given}",
        "{**given, **picked}",
        LOOPED,
    ),
    Bug(
        "tune: the seed 0 is no change of a tuning that goes on",
        "cli/tuning.py",
        "value is not None and value is not False",
        "value not in (None, False)",
        ("tests/test_bad_input.py",),
    ),
    Bug(
        "ppo: what a prompt costs is part of the KL",
        POLICY,
        "answers_logprobs(each, batch, skip) for each",
        "answers_logprobs(each, batch, 0) for each",
        TUNED,
    ),
    Bug(
        "ppo: the weights of an answer begin at its prompt",
        POLICY,
        "chain([0.0] * skip, islice(rest, size))",
        "chain(islice(rest, size), [0.0] * skip)",
        TUNED,
    ),
    Bug(
        "ppo: a reward model is not told the prompt",
        POLICY,
        "reward_of(model, texts, prompt)",
        "reward_of(model, texts)",
        TUNED,
    ),
    Bug(
        "rate: an answer is kept without its prompt",
        "rate.py",
        'key == "y", self.prompt)',
        'key == "y")',
        RATED,
    ),
    Bug(
        "preferences: answers to different prompts are compared",
        PREFERENCES,
        "verdicts.setdefault(each.prompt, {})",
        "verdicts.setdefault(None, {})",
        PREFERRED,
    ),
    Bug(
        "compare: the KL of answers is that of documents without a prompt",
        COMPARE,
        "logprobs(m.model, texts, prompt) for m in (other, base)",
        "logprobs(m.model, texts) for m in (other, base)",
        COMPARED,
    ),
    Bug(
        "standalone: heads not scaled",
        STANDALONE,
        "dot(q[head], k[head]) * (head_dim**0.5) ** -1",
        "dot(q[head], k[head])",
        EXPORTED,
    ),
    Bug(
        "standalone: a quotient that rounds otherwise",
        STANDALONE,
        "[e * total**-1 for e in exps]",
        "[e / total for e in exps]",
        EXPORTED,
    ),
    Bug(
        "standalone: the halves of a seed are one",
        STANDALONE,
        "seed & mask, seed >> 32 & mask",
        "seed & mask, seed & mask",
        EXPORTED,
    ),
    Bug(
        "standalone: special tokens are drawn",
        STANDALONE,
        "if t == BOS or t not in tokenizer().special.values()",
        "if t >= 0",
        EXPORTED,
    ),
    Bug(
        "standalone: the end of a text that is cut counts as a character",
        STANDALONE,
        "tokenizer().num_chars(tokens[1 + len(before) :])",
        "tokenizer().num_chars(tokens[1 + len(before) :]) + 1",
        EXPORTED,
    ),
    Bug(
        "standalone: a prompt is scored, too",
        STANDALONE,
        "if i >= len(before):",
        "if i >= 0:",
        EXPORTED,
    ),
    Bug(
        "standalone: completions in any way of writing them",
        STANDALONE,
        " and tokenizer().encode(decoded) == list(tokens)",
        " and decoded is not None",
        EXPORTED,
    ),
    Bug(
        "standalone: a beam that is twice as wide",
        STANDALONE,
        "(end - reading.reads) // cost",
        "2 * (end - reading.reads) // cost",
        EXPORTED,
    ),
    Bug(
        "standalone: merges in the order of the text",
        STANDALONE,
        "tokens.replace(self.pairs[min(found)], min(found))",
        "tokens.replace(self.pairs[found[0]], found[0])",
        EXPORTED,
    ),
    Bug(
        "export: float64 parameters rounded",
        EXPORT,
        'type_ = "f" if fits_float32(stored.params) else "d"',
        'type_ = "f"',
        EXPORTED,
    ),
    Bug(
        "export: a text as documents",
        EXPORT,
        'if config.mode == "text":',
        'if config.mode == "texts":',
        EXPORTED,
    ),
    Bug(
        "ONNX: heads not scaled",
        ONNX,
        "[head_dim**-0.5]",
        "[1.0]",
        EXPORTED,
    ),
    Bug(
        "ONNX: the embeddings are not normed",
        ONNX,
        'x = rmsnorm(add("Add", add("Gather", "wte", "token"), add("Gather", "wpe", "position")))',
        'x = add("Add", add("Gather", "wte", "token"), add("Gather", "wpe", "position"))',
        EXPORTED,
    ),
    Bug(
        "ONNX: another epsilon",
        ONNX,
        "[1e-5]",
        "[1e-4]",
        EXPORTED,
    ),
    Bug(
        "completions: special tokens are searched",
        COMPLETE,
        "token in special or extended",
        "token == tokenizer.bos or extended",
        PATTERNS,
    ),
    Bug(
        "panels: a document's end costs nothing",
        "web/panels.py",
        "[*tokens, tokenizer.bos]",
        "tokens",
        PANELS,
    ),
    Bug(
        "shelf: room is looked for when the model is written already",
        "web/shelf.py",
        "        self.check_room(path)  # before anything is written\n"
        "        write(path)  # makes the folder, too\n",
        "        write(path)\n        self.check_room(path)\n",
        ("tests/test_serve.py",),
    ),
    Bug(
        "shelf: trainings take the room of saved models",
        "web/shelf.py",
        "sum(each.path is not None for each in self.entries.values())",
        "len(self.entries)",
        AT_A_PAGE,
    ),
    Bug(
        "guard: cookies of others before ours are not told from it",
        "web/guard.py",
        "each.strip().partition",
        "each.partition",
        ("tests/test_serve.py",),
    ),
    Bug(
        "ratings: a save that is given up writes all the same",
        "web/ratings.py",
        "output=path, should_stop=stop.check",
        "output=path",
        AT_A_PAGE,
    ),
    Bug(
        "panels: n-grams of other lists taken for this one's",
        "web/panels.py",
        "key = (docs.sha256(), *how)",
        "key = how",
        PANELS,
    ),
    Bug(
        "panels: points of the tokens behind BOS moved by one",
        "web/panels.py",
        "*found.tokens.points[id], place in named",
        "*found.tokens.points[place - 1], place in named",
        PANELS,
    ),
    Bug(
        "graph: what is folded has no gradient",
        "web/graph.py",
        "rest.grad = exps[others[0]].grad",
        "rest.grad = 0.0",
        GRAPHS,
    ),
    Bug(
        "graph: steps add to the gradient before the last",
        "web/graph.py",
        "grads[source] += amount",
        "grads[source] = amount",
        GRAPHS,
    ),
    Bug(
        "graph: the target is drawn only where it is likely",
        "web/graph.py",
        "sorted({*likeliest, target})",
        "sorted({*likeliest})",
        GRAPHS,
    ),
    Bug(
        "ratings: what is taken back stays learned",
        "web/ratings.py",
        "undone = len(answers) < before.num_aligned",
        "undone = False",
        AT_A_PAGE,
    ),
    Bug(
        "ratings: a client that is gone is learned from",
        "web/ratings.py",
        "            stop.check()\n            aligned = len(answers)",
        "            self._put_up(session, tuned)\n            aligned = len(answers)",
        AT_A_PAGE,
    ),
    Bug(
        "ratings: reward of the tuned samples alone",
        "web/ratings.py",
        "rewards[0] - rewards[1]",
        "rewards[0]",
        AT_A_PAGE,
    ),
    Bug(
        "ratings: the model before, where the shelf has another in its place",
        "web/ratings.py",
        "        session.entry = entry\n        return id",
        "        session.entry = session.entry or entry\n        return id",
        AT_A_PAGE,
    ),
    Bug(
        "ratings: a session is not held while it goes on",
        "web/ratings.py",
        "    with session.lock:\n        if session.ended:",
        "    if True:\n        if session.ended:",
        AT_A_PAGE,
    ),
    Bug(
        "ratings: the engine of the shelf's model is used",
        "web/ratings.py",
        "replace(model, engine=engine)",
        "replace(model, engine=model.engine)",
        AT_A_PAGE,
    ),
    Bug(
        "the page's draws are others",
        "web/static/sampler.js",
        "(product1 >> 32n) ^ c1 ^ k0,",
        "(product1 >> 32n) ^ c1 ^ k1,",
        IN_A_BROWSER,
    ),
    Bug(
        "the page's top-k keeps the least likely",
        "web/static/sampler.js",
        "logits[b] - logits[a]",
        "logits[a] - logits[b]",
        IN_A_BROWSER,
    ),
    Bug(
        "the page draws for the place behind",
        "web/static/generate.js",
        "dial.values().seed, 0, now.position",
        "dial.values().seed, 0, now.position + 1",
        IN_A_BROWSER,
    ),
    Bug(
        "the page's gradients forget the local one",
        "web/static/graph.js",
        "(found.get(input) ?? 0) + node.local_grads[i] * (found.get(id) ?? 0)",
        "(found.get(input) ?? 0) + (found.get(id) ?? 0)",
        IN_A_BROWSER,
    ),
    Bug(
        "the page's commands take a model by its id",
        "web/static/copy.js",
        "model.path ?? model.id",
        "model.id",
        IN_A_BROWSER,
    ),
    Bug(
        "the page shows the last step for the best",
        "web/static/train.js",
        "return made < 0 ? moments.length - 1 : made;",
        "return moments.length - 1;",
        IN_A_BROWSER,
    ),
    Bug(
        "a training forgets the column",
        WORKER,
        "column=request.column, format=request.format",
        "column=None, format=request.format",
        TRAININGS,
    ),
    Bug(
        "a training that learned by heart says its last step is its best",
        JOBS,
        'found.get("best_step", last.step)',
        "last.step",
        TRAININGS,
    ),
    Bug(
        "y is n at a page",
        "web/static/teach.js",
        'liked: key === "y"',
        'liked: key === "n"',
        IN_A_BROWSER,
    ),
    Bug(
        "the page marks the row above",
        "web/static/charts.js",
        "const here = t === data.row;",
        "const here = t === data.row - 1;",
        IN_A_BROWSER,
    ),
    Bug(
        "worker: it goes on where its input has ended",
        WORKER,
        "                self.going.set()\n        os._exit(0)\n",
        "                self.going.set()\n",
        TRAININGS,
    ),
    Bug(
        "worker: a stop does not end a pause",
        WORKER,
        "                self.stopped = True\n                self.going.set()\n",
        "                self.stopped = True\n",
        TRAININGS,
    ),
    Bug(
        "worker: a pause counts as training",
        WORKER,
        " - self.start - self.control.paused_seconds",
        " - self.start",
        TRAININGS,
    ),
    Bug(
        "worker: losses are told twice",
        WORKER,
        "self.num_losses, self.num_held_out = len(losses), len(records)",
        "self.num_held_out = len(records)",
        TRAININGS,
    ),
    Bug(
        "worker: a moment is kept before its losses are told",
        WORKER,
        "        if due or paused or time",
        "        if paused or time",
        TRAININGS,
    ),
    Bug(
        "worker: large models have as many moments",
        WORKER,
        "max(2, min(request.moments, room))",
        "request.moments",
        TRAININGS,
    ),
    Bug(
        "worker: moments take what time they like",
        WORKER,
        "        self.keeping += time.thread_time() - start\n",
        "",
        TRAININGS,
    ),
    Bug(
        "jobs: a moment has the losses of the whole training",
        JOBS,
        "        losses[:step],\n",
        "        losses[:],\n",
        TRAININGS,
    ),
    Bug(
        "jobs: a moment knows what was measured later",
        JOBS,
        " in held_out if number <= step}",
        " in held_out}",
        TRAININGS,
    ),
    Bug(
        "jobs: the last losses are not shown where they fill no point",
        JOBS,
        "        job.add_losses([], last=True)\n",
        "",
        TRAININGS,
    ),
    Bug(
        "jobs: what is forgotten still trains",
        JOBS,
        "        job.process.kill()\n        job.outbox.put(None)\n        for",
        "        for",
        TRAININGS,
    ),
    Bug(
        "jobs: a moment is closed while it is used",
        JOBS,
        "if other.lock.acquire(blocking=False):",
        "if other.lock.acquire(blocking=False) or True:",
        TRAININGS,
    ),
    Bug(
        "jobs: a training that is over is still counted",
        JOBS,
        "sum(not job.over for job in self.jobs.values())",
        "len(self.jobs)",
        TRAININGS,
    ),
    Bug(
        "events: the id of progress says that its moments were told",
        "web/api_jobs.py",
        "replace(now, moments=told.moments, over=0)",
        "replace(now, over=0)",
        TRAININGS,
    ),
    Bug(
        "events: a stream that has ended is still counted",
        "web/api_jobs.py",
        "            self.jobs.streams -= 1\n",
        "            pass\n",
        TRAININGS,
    ),
    Bug(
        "clean: a line that is changed and repeated is not shown as removed",
        "web/api_jobs.py",
        "first.setdefault(doc, number)",
        "first.setdefault(line, number)",
        TRAININGS,
    ),
    Bug(
        "trainer: progress does not tell the held-out losses",
        "trainer.py",
        "records = validation.records if isinstance(validation, Validation) else ()",
        "records = ()",
        ("tests/test_trainer.py",),
    ),
    Bug(
        "transformers: a causal mask left in the encoder",
        f"{TRANSFORMERS}/masks.py",
        "return [[True] * columns for _ in range(rows)]",
        "return [[x <= y for x in range(columns)] for y in range(rows)]",
        SEES,
    ),
    Bug(
        "transformers: a prefix that does not see itself",
        f"{TRANSFORMERS}/masks.py",
        "column < max(row + 1, given)",
        "column < max(row, given)",
        SEES,
    ),
    Bug(
        "transformers: the decoder sees what comes later",
        f"{TRANSFORMERS}/by_scalar.py",
        "head_dim, xs, causal(len(target)))",
        "head_dim, xs, full(len(target), len(target)))",
        SEES,
    ),
    Bug(
        "transformers: cross-attention looks into the decoder",
        f"{TRANSFORMERS}/by_scalar.py",
        "    keys = [linear(rmsnorm(m)",
        "    memory = xs\n    keys = [linear(rmsnorm(m)",
        SEES,
    ),
    Bug(
        "transformers: values of what is hidden",
        f"{TRANSFORMERS}/by_scalar.py",
        "[values[place] for place in seen]",
        "values[-len(seen) :]",
        SEES,
    ),
    Bug(
        "transformers: torch: a causal mask left in the encoder",
        f"{TRANSFORMERS}/by_torch.py",
        "look(encoder, memory, up_to(lengths, source.shape[1]))",
        "look(encoder, memory, causal(source.shape[1]))",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: torch: cross-attention takes values from the decoder's own",
        f"{TRANSFORMERS}/by_torch.py",
        "values = functional.linear(rmsnorm(memory), self.attn_wv)",
        "values = functional.linear(rmsnorm(memory * 0 + x[:, :1]), self.attn_wv)",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: torch: what fills up is seen",
        f"{TRANSFORMERS}/by_torch.py",
        "torch.arange(size) < lengths",
        "torch.arange(size) <= lengths",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: torch: heads and their numbers exchanged",
        f"{TRANSFORMERS}/by_torch.py",
        "(config.n_head, config.head_dim)).transpose(1, 2)",
        "(config.head_dim, config.n_head)).transpose(1, 3)",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: the encoder is shown what it shall guess",
        f"{TRANSFORMERS}/fill_blanks.py",
        "encoder(whole.masked_fill(blank, BLANK), ",
        "encoder(whole, ",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: the encoder learns by the left side alone",
        f"{TRANSFORMERS}/fill_blanks.py",
        "up_to(lengths[indices], longest))",
        "up_to(lengths[indices], longest).tril())",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: the GPT compares beginnings alone",
        f"{TRANSFORMERS}/fill_blanks.py",
        "list(tokens) if right_side else",
        "tokens[: places[0] + 1] if right_side else",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: a prefix mask where none is asked for",
        f"{TRANSFORMERS}/answer.py",
        "if both_ways else mask",
        "if not both_ways else mask",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: the token before the answer is learned, too",
        f"{TRANSFORMERS}/answer.py",
        "~up_to(given[indices] - 1, size - 1)",
        "~up_to(given[indices] - 2, size - 1)",
        SEES_IN_TORCH,
    ),
    Bug(
        "transformers: answers are written a place too late",
        f"{TRANSFORMERS}/answer.py",
        "[each, given + i - 1]",
        "[each, given + i]",
        SEES_IN_TORCH,
    ),
]


def build(folder: Path) -> None:
    """One library, quickly: in the place of the plainest, with this machine's widest vectors."""
    for library in folder.glob("*.so"):
        library.unlink()
    compiler = os.environ.get("CXX", "g++").split()
    flags = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-fno-math-errno", *WIDEST]
    objects = []
    for dtype, real, contract in (("f32", "float", "fast"), ("f64", "double", "off")):
        chosen = [f"-DKAMON_REAL={real}", f"-DKAMON_SUFFIX=_{dtype}", f"-ffp-contract={contract}"]
        objects.append(str(folder / f"{dtype}.o"))
        source = str(folder / "native" / "engine.cpp")
        subprocess.run([*compiler, *flags, *chosen, "-c", source, "-o", objects[-1]], check=True)
    target = str(folder / "kamon_baseline.so")
    subprocess.run([*compiler, "-shared", "-pthread", *objects, "-o", target], check=True)


def caught(bug: Bug) -> bool:
    """Whether the tests fail on a copy of the package with this bug in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "src", "kamon")
        shutil.copytree(ROOT / "src" / "kamon", copy, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "docs" / "transformers", Path(folder, "docs", "transformers"))
        path = copy / bug.file
        code = path.read_text(encoding="utf-8")
        assert code.count(bug.old) == 1, f"{bug.name}: {bug.old!r} is not once in {bug.file}"
        path.write_text(code.replace(bug.old, bug.new), encoding="utf-8")
        if bug.file.startswith("engines/native"):
            build(copy / "engines")
        # Plain: under CI pytest would show all of a difference, for minutes where lists are long.
        plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *plugins]
        environment = os.environ | {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["KAMON_PLANTED"] = str(copy)
        done = subprocess.run(
            [*command, *bug.tests],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.returncode == 1


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    survivors = 0
    for bug in BUGS:
        if word in bug.name:
            found = caught(bug)
            survivors += not found
            print(f"{'caught  ' if found else 'SURVIVED'}  {bug.file}: {bug.name}", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
