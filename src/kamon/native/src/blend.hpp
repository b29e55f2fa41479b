// A mixture of the GPT with n-grams: p = weight · GPT + Σ weight · n-gram.
//
// The current context is the longest known one at the end of the document so far. The next token
// leads to the context with this token added, if it is known. If not, the search continues with the
// shorter contexts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "errors.hpp"
#include "model.hpp"
#include "ngram.hpp"

namespace {

constexpr int NUM_LANES = 2 * L;  // documents that the sampler makes at a time

// The n-gram of NgramArrays in the numbers of this build.
class NgramTable {
 public:
  struct Follower {
    int32_t token;
    Real share;      // of the token after this context
    int32_t longer;  // context that ends with the token, or −1 after the longest contexts
  };
  struct Context {
    int64_t begin;    // its first follower, in ascending order of tokens
    Real kept;        // probability that it leaves to the shorter context
    int32_t shorter;  // context without the first token
  };
  const int vocab_size;
  std::vector<Real> unigram;  // p after the empty context, which is number 0

  NgramTable(int vocab, int64_t num_contexts, int64_t num_followers, const NgramArrays& arrays)
      : vocab_size(vocab) {
    check(num_contexts, num_followers, arrays);
    followers.reserve(size_t(num_followers));
    contexts.reserve(size_t(num_contexts) + 1);
    for (int64_t f = 0; f < num_followers; f++)
      followers.push_back({arrays.tokens[f], Real(arrays.shares[f]), arrays.longer[f]});
    for (int64_t c = 0; c < num_contexts; c++) {
      contexts.push_back({arrays.begins[c], Real(arrays.kept[c]), arrays.shorter[c]});
      for (int64_t f = arrays.begins[c]; f < arrays.begins[c + 1]; f++)
        if (arrays.longer[f] >= 0) num_extended = int32_t(c + 1);
    }
    contexts.push_back({num_followers, Real(0), 0});
    unigram.assign(size_t(vocab), Real(1.0 / vocab) * contexts[0].kept);
    for (const Follower* f = begin(0); f < end(0); f++) unigram[size_t(f->token)] += f->share;
  }

  const Context& operator[](int32_t context) const { return contexts[size_t(context)]; }
  const Follower* begin(int32_t context) const { return followers.data() + (*this)[context].begin; }
  const Follower* end(int32_t context) const { return begin(context + 1); }

  // The context after one more token.
  int32_t next(int32_t context, int32_t token) const {
    for (;; context = (*this)[context].shorter) {
      const int32_t longer = context < num_extended ? extended(context, token) : -1;
      if (longer >= 0) return longer;
      if (context == 0) return 0;
    }
  }

  // Loads a context or its followers into the cache. The program does other work meanwhile.
  void prefetch(int32_t context) const { __builtin_prefetch(&contexts[size_t(context)]); }
  void prefetch_followers(int32_t context) const {
    const Follower *first = begin(context), *last = end(context);
    for (int line = 0; line < 3 && first < last; line++, first += 64 / sizeof(Follower))
      __builtin_prefetch(first);
  }

 private:
  int32_t num_extended = 0;  // contexts up to the last one with a longer context
  std::vector<Context> contexts;  // and one more, where the last one's followers end
  std::vector<Follower> followers;

  // The context that ends with a follower, or −1 if there is none. The search has no branch that
  // the processor could mispredict.
  int32_t extended(int32_t context, int32_t token) const {
    const Follower* found = begin(context);
    for (int64_t left = end(context) - found; left > 1;) {
      const int64_t half = left / 2;
      found += found[half].token <= token ? half : 0;
      left -= half;
    }
    return found < end(context) && found->token == token ? found->longer : -1;
  }

  // Checks that every number is in its range, and that the path of shorter contexts ends.
  void check(int64_t num_contexts, int64_t num_followers, const NgramArrays& arrays) const {
    const int64_t* begins = arrays.begins;
    if (vocab_size < 1 || num_contexts < 1 || num_contexts > INT32_MAX || begins[0] != 0 ||
        begins[num_contexts] != num_followers)
      throw OutOfBounds();
    for (int64_t c = 0; c < num_contexts; c++) {
      const int64_t longest = std::max(int64_t(0), c - 1);
      if (begins[c] > begins[c + 1] || arrays.shorter[c] < 0 || arrays.shorter[c] > longest)
        throw OutOfBounds();
    }
    for (int64_t f = 0; f < num_followers; f++)
      if (arrays.tokens[f] < 0 || arrays.tokens[f] >= vocab_size || arrays.longer[f] < -1 ||
          arrays.longer[f] >= num_contexts)
        throw OutOfBounds();
  }
};

// An n-gram of a blend and its weight.
struct WeightedTable {
  const NgramTable* table;
  double weight;
};

// Mixes n-grams into the logits of a sampler. Each lane has its own contexts. Of the tokens that the
// GPT knows, those after the first `vocab_size` are not chosen.
class Mixer {
 public:
  Mixer(int gpt_vocab_, int vocab_size_, double weight_, const std::vector<WeightedTable>& tables_)
      : gpt_vocab(gpt_vocab_), vocab_size(vocab_size_), weight(Real(weight_)) {
    for (const WeightedTable& each : tables_) ngrams.push_back({each.table, Real(each.weight)});
    shares.resize(size_t(vocab_size) * NUM_LANES);
  }

  void begin(int lane, int32_t bos) {
    for (Ngram& ngram : ngrams) ngram.contexts[lane] = ngram.table->next(0, bos);
  }
  void read(int lane, int32_t token) {
    for (Ngram& ngram : ngrams) {
      ngram.contexts[lane] = ngram.table->next(ngram.contexts[lane], token);
      ngram.table->prefetch(ngram.contexts[lane]);
    }
  }

  // Turns logits into the probabilities of the mixture.
  void mix(Real* logits) {
    Real largest[NUM_LANES], total[NUM_LANES];
    std::memset(shares.data, 0, sizeof(Real) * shares.size);
    for (const Ngram& ngram : ngrams) prefetch(ngram);
    softmax(logits, gpt_vocab, largest, total, {NUM_LANES, NUM_LANES});
    for (Ngram& ngram : ngrams)
      for (int lane = 0; lane < NUM_LANES; lane++) ngram.left[lane] = add_shares(ngram, lane);
    for (int o = 0; o < vocab_size; o++)
      for (int j = 0; j < NUM_LANES; j += L) {
        const ptrdiff_t place = ptrdiff_t(o) * NUM_LANES + j;
        Vec p = load(shares.data + place);
        for (const Ngram& ngram : ngrams)
          p += load(ngram.left + j) * ngram.table->unigram[size_t(o)];
        store(logits + place, load(logits + place) * weight + p);
      }
  }

  // Turns probabilities into their logarithms. If one is too small for a Real, it becomes the
  // smallest Real.
  static void take_logarithms(Real* p, ptrdiff_t count) {
    const Vec smallest = splat(std::numeric_limits<Real>::min());
    for (ptrdiff_t i = 0; i < count; i += L) store(p + i, logarithm(vmax(load(p + i), smallest)));
  }

 private:
  struct Ngram {
    const NgramTable* table;
    Real weight;
    int32_t contexts[NUM_LANES] = {};
    Real left[NUM_LANES] = {};  // the probability that leaves to the empty context
  };
  const int gpt_vocab, vocab_size;
  const Real weight;  // of the GPT
  std::vector<Ngram> ngrams;
  Buffer shares;  // [token][lane], of all contexts but the empty ones

  // Prefetches all followers that `add_shares` reads. It goes through the lanes once per length, so
  // that the processor waits for the contexts of all lanes together.
  static void prefetch(const Ngram& ngram) {
    const NgramTable& table = *ngram.table;
    int32_t left[NUM_LANES];
    std::copy_n(ngram.contexts, NUM_LANES, left);
    for (bool any = true; any;) {
      any = false;
      for (int32_t& context : left) {
        if (!context) continue;
        table.prefetch_followers(context);
        context = table[context].shorter;
        table.prefetch(context);
        any = true;
      }
    }
  }

  // Adds the shares of a lane's context and the shorter ones. Returns the probability that they
  // leave to the empty context.
  Real add_shares(const Ngram& ngram, int lane) {
    const NgramTable& table = *ngram.table;
    Real left = ngram.weight;
    for (int32_t context = ngram.contexts[lane]; context; context = table[context].shorter) {
      for (const auto* f = table.begin(context); f < table.end(context); f++)
        shares.data[ptrdiff_t(f->token) * NUM_LANES + lane] += left * f->share;
      left *= table[context].kept;
    }
    return left;
  }

  static KAMON_INLINE Vec logarithm(Vec x) {
    if constexpr (is_float) {
      return vlog(x);
    } else {
      for (int l = 0; l < L; l++) x[l] = std::log(x[l]);
      return x;
    }
  }
};

// Turns the logits after a context into log p of the mixture. See BlendedDecoder in Python.
inline void mix_logits(const Ngram& ngram, int order, const int32_t* context, int64_t size,
                       double weight, double* logits) {
  const int vocab_size = ngram.vocab_size;
  std::vector<double> p(static_cast<size_t>(vocab_size));
  ngram.probabilities(order, context, size, p.data());
  const double largest = *std::max_element(logits, logits + vocab_size);
  double total = 0;
  for (int o = 0; o < vocab_size; o++) total += logits[o] = std::exp(logits[o] - largest);
  // As in Python, which may round it otherwise than 1 / total. Volatile, because compilers make a
  // division of a constant exponent.
  const volatile double exponent = -1;
  const double scale = std::pow(total, exponent);
  for (int o = 0; o < vocab_size; o++) {
    const double mixed = weight * (logits[o] * scale) + (1 - weight) * p[size_t(o)];
    logits[o] = std::log(std::max(mixed, std::numeric_limits<double>::min()));
  }
}

// Turns probabilities after a context into those of the mixture.
inline void mix_probabilities(const Ngram& ngram, int order, const int32_t* context, int64_t size,
                              double weight, double* row) {
  std::vector<double> p(static_cast<size_t>(ngram.vocab_size));
  ngram.probabilities(order, context, size, p.data());
  for (int o = 0; o < ngram.vocab_size; o++) row[o] = weight * row[o] + (1 - weight) * p[size_t(o)];
}

// out = log(weight · eᵃ + (1 − weight) · eᵇ), number by number, without overflow or underflow.
inline void mix_logprobs(int64_t n, double weight, const double* a, const double* b, double* out) {
  for (int64_t i = 0; i < n; i++) {
    if (weight == 1 || weight == 0)
      out[i] = weight == 1 ? a[i] : b[i];
    else if (a[i] >= b[i])
      out[i] = a[i] + std::log(weight + (1 - weight) * std::exp(b[i] - a[i]));
    else
      out[i] = b[i] + std::log(weight * std::exp(a[i] - b[i]) + (1 - weight));
  }
}

// p of the n-gram divided by p of the GPT, from log p of both. The result is limited to
// exp(max_log) and its inverse.
inline void ratios(int64_t n, const double* gpt, const double* ngram, double max_log, double* out) {
  for (int64_t i = 0; i < n; i++)
    out[i] = std::exp(std::min(std::max(ngram[i] - gpt[i], -max_log), max_log));
}

// From ratios, the first derivative of the log-likelihood by the weight, and minus the second one.
inline void derivatives(int64_t n, const double* ratios, double weight, double* out) {
  double first = 0, second = 0;
  for (int64_t i = 0; i < n; i++) {
    const double term = (1 - ratios[i]) / (weight + (1 - weight) * ratios[i]);
    first += term;
    second += term * term;
  }
  out[0] = first, out[1] = second;
}

}  // namespace
