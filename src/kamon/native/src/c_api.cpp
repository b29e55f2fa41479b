// The C interface, which kamon.native.library loads with ctypes.
//
// Compiled once for float and once for double, for each instruction set: see setup.py.

#include <chrono>

#include "documents.hpp"
#include "engine.hpp"
#include "mersenne.hpp"
#include "ngram.hpp"

namespace {

// Make the compiler believe that v may have changed.
KAMON_INLINE void keep(Vec& v) {
#if defined(__x86_64__)
  asm volatile("" : "+x"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

}  // namespace

#define KAMON_JOIN2(a, b) a##b
#define KAMON_JOIN(a, b) KAMON_JOIN2(a, b)
#ifdef _WIN32
#define KAMON_EXPORT __declspec(dllexport)
#else
#define KAMON_EXPORT __attribute__((visibility("default")))
#endif
#define API(name) extern "C" KAMON_EXPORT auto KAMON_JOIN(name, KAMON_SUFFIX)

API(kamon_create)(int n_layer, int n_embd, int n_head, int block_size, int vocab_size, double beta1,
                  double beta2, double eps_adam, double weight_decay, double grad_clip, double dropout,
                  uint64_t seed, int num_threads, int64_t num_params, void** engine)->int {
  try {
    if (n_head < 1 || n_embd % n_head) return Error::sizes;
    const Shape shape{n_layer, n_embd, n_head, block_size, vocab_size};
    if (const Error error = check_sizes(shape, num_threads, num_params)) return error;
    *engine = new Engine(shape, beta1, beta2, eps_adam, weight_decay, grad_clip, Dropout{dropout, seed},
                         num_threads);
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

API(kamon_destroy)(void* engine)->void { delete static_cast<Engine*>(engine); }

API(kamon_load)(void* engine, const double* params, const double* m, const double* v,
                int64_t step)->void {
  Engine& e = *static_cast<Engine*>(engine);
  e.from_flat(params, e.params.data);
  e.from_flat(m, e.m.data);
  e.from_flat(v, e.v.data);
  e.fresh = true;
  e.step = step;
}

API(kamon_state)(void* engine, double* params, double* m, double* v)->int64_t {
  Engine& e = *static_cast<Engine*>(engine);
  e.to_flat(e.params.data, params);
  e.to_flat(e.m.data, m);
  e.to_flat(e.v.data, v);
  return e.step;
}

API(kamon_gradients)(void* engine, double* grads)->void {
  Engine& e = *static_cast<Engine*>(engine);
  if (e.fresh) std::memset(e.grads[0]->data, 0, sizeof(Real) * e.layout.size);
  e.to_flat(e.grads[0]->data, grads);
}

// weights: null for no gradient; draws: null for no dropout; stop: see Stop. Returns an Error; where that
// is `stopped` or `memory`, gradients are cleared.
API(kamon_batch)(void* engine, const int32_t* tokens, int64_t num_tokens, const int64_t* offsets,
                 int64_t num_docs, const double* weights, const uint64_t* draws, double* logprobs,
                 const int32_t* stop)->int {
  Engine& e = *static_cast<Engine*>(engine);
  try {
    const Batch batch{tokens, num_tokens, offsets, nullptr, num_docs, draws != nullptr, draws};
    if (const Error error = check(e, batch, num_docs)) return error;
    const int num_groups = run_batch(e, batch, Stop{stop}, weights, 0, weights != nullptr, logprobs);
    if (Stop{stop}()) {
      if (weights) e.fresh = true;
      return Error::stopped;
    }
    if (weights && num_groups > 1) add_up(e, num_groups);
    return Error::none;
  } catch (const std::exception&) {
    if (weights) e.fresh = true;
    return Error::memory;
  }
}

// Of each document the sum of its logprobs, from left to right, and the place of the least one,
// the first among equals: `document_logprobs` of kamon/engine.py. Both 0 for one without targets.
API(kamon_document_logprobs)(void* engine, const int32_t* tokens, int64_t num_tokens,
                             const int64_t* offsets, int64_t num_docs, double* totals, int64_t* places,
                             const int32_t* stop)->int {
  try {
    Engine& e = *static_cast<Engine*>(engine);
    const Batch batch{tokens, num_tokens, offsets, nullptr, num_docs, false, nullptr};
    if (const Error error = check(e, batch, num_docs)) return error;
    std::vector<double> logprobs(static_cast<size_t>(num_tokens));
    run_batch(e, batch, Stop{stop}, nullptr, 0, false, logprobs.data());
    if (Stop{stop}()) return Error::stopped;
    const double* own = logprobs.data();
    for (int64_t d = 0; d < num_docs; own += batch.length(d++)) {
      double total = 0;
      int place = 0;
      for (int n = 0; n < batch.length(d); n++) {
        total += own[n];
        if (own[n] < own[place]) place = n;
      }
      totals[d] = total;
      places[d] = place;
    }
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

API(kamon_step)(void* engine, double learning_rate)->int {
  try {
    adam_step(*static_cast<Engine*>(engine), learning_rate, 1);
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

// num_steps steps of batch_size documents each, which `indices` names out of num_docs; stops behind
// the first loss that is not finite, or in the middle of a step, which is then not made, if
// told to stop. Returns the number of losses, or an Error, negative.
API(kamon_train)(void* engine, const int32_t* tokens, int64_t num_tokens, const int64_t* offsets,
                 int64_t num_docs, const int64_t* indices, int64_t batch_size, int64_t num_steps,
                 uint64_t first_draw, const double* learning_rates, double* losses,
                 const int32_t* stop)->int64_t {
  Engine& e = *static_cast<Engine*>(engine);
  try {
    std::vector<double> logprobs;
    for (int64_t i = 0; i < num_steps; i++) {
      const Batch batch{tokens,     num_tokens, offsets, indices + i * batch_size,
                        batch_size, true,       nullptr, first_draw + uint64_t(i * batch_size)};
      if (const Error error = check(e, batch, num_docs)) return -error;
      int64_t num_targets = 0;
      for (int64_t d = 0; d < batch_size; d++) num_targets += batch.length(d);
      const double share = 1 / double(num_targets);
      logprobs.resize(size_t(num_targets));
      const int num_groups = run_batch(e, batch, Stop{stop}, nullptr, share, true, logprobs.data());
      if (Stop{stop}()) {
        e.fresh = true;
        return i;
      }
      double total = 0;
      for (const double logprob : logprobs) total -= logprob;
      losses[i] = share * total;
      if (!std::isfinite(losses[i])) return i + 1;
      adam_step(e, learning_rates[i], num_groups);
    }
    return num_steps;
  } catch (const std::exception&) {
    e.fresh = true;
    return -Error::memory;
  }
}

// tokens: room for n · block_size, of which offsets[n] are used; offsets: n + 1.
// Documents number first … first + n − 1.
API(kamon_sample)(void* engine, int64_t number, int64_t n, double temperature, uint64_t seed, int bos,
                  int32_t* tokens, int64_t* offsets, const int32_t* stop)->int {
  try {
    Engine& e = *static_cast<Engine*>(engine);
    if (bos < 0 || bos >= e.shape.vocab_size) return Error::token;
    const int block_size = e.shape.block_size;
    int64_t* lengths = offsets + 1;
    constexpr int64_t PIECE = 64 * SIDE;
    e.run(int((n + PIECE - 1) / PIECE), [&](int piece, int thread) {
      FlushToZero flush;
      Sampler sampler(e.shape, e.layout, e.params.data, *e.workspaces[thread]);
      sample_documents(sampler, Stop{stop}, block_size, number, piece * PIECE,
                       std::min(n, (piece + 1) * PIECE), temperature, seed, bos, tokens, lengths);
    });
    if (Stop{stop}()) return Error::stopped;
    offsets[0] = 0;
    for (int64_t i = 0; i < n; i++) {  // close the gaps
      std::memmove(tokens + offsets[i], tokens + i * block_size, sizeof(int32_t) * lengths[i]);
      offsets[i + 1] += offsets[i];
    }
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

API(kamon_decoder_create)(void* engine)->void* {
  try {
    return new Decoder(*static_cast<Engine*>(engine));
  } catch (const std::exception&) {
    return nullptr;
  }
}

API(kamon_decoder_destroy)(void* decoder)->void { delete static_cast<Decoder*>(decoder); }

// Returns an Error: `length` where block_size tokens were pushed.
API(kamon_decoder_push)(void* decoder, int token, double* logits)->int {
  FlushToZero flush;
  Decoder& d = *static_cast<Decoder*>(decoder);
  const std::lock_guard<std::mutex> lock(d.mutex);
  if (token < 0 || token >= d.shape.vocab_size) return Error::token;
  if (d.sampler.position[0] + 1 >= d.shape.block_size) return Error::length;
  d.sampler.input[0] = token;
  d.sampler.position[0]++;
  d.sampler.push();
  for (int o = 0; o < d.shape.vocab_size; o++) logits[o] = double(d.sampler.logit(o, 0));
  return Error::none;
}

// items: of 4 or 8 bytes.
API(kamon_shuffle)(uint32_t* state, uint32_t n, void* items, int bytes)->void {
  Mersenne rng(state);
  if (bytes == 4)
    shuffle(rng, n, static_cast<uint32_t*>(items));
  else
    shuffle(rng, n, static_cast<uint64_t*>(items));
}

API(kamon_gauss)(uint32_t* state, double std, int64_t n, double* out, double* spare)->void {
  Mersenne rng(state);
  gauss(rng, std, n, out, *spare);
}

// The texts have `size` bytes, of which the last is a NUL. starts: of 4 or 8 bytes each. Returns an Error.
API(kamon_find_starts)(const char* text, int64_t size, int64_t n, const uint8_t* chosen, void* starts,
                       int bytes)->int {
  try {
    find_starts(text, uint64_t(size), uint64_t(n), chosen, starts, bytes);
    return Error::none;
  } catch (const Outside&) {
    return Error::offsets;
  }
}

// Returns the bytes, or an Error, negative.
API(kamon_gather)(const char* text, int64_t size, const void* starts, int bytes, int64_t n, char* out,
                  int64_t room, int64_t* count)->int64_t {
  try {
    return int64_t(
        gather(text, uint64_t(size), Starts(starts, bytes), uint64_t(n), out, uint64_t(room), count));
  } catch (const Outside&) {
    return -Error::offsets;
  }
}

// starts: null for documents one behind the other. Returns how many, or an Error, negative.
API(kamon_first_occurrences)(const char* text, int64_t size, const void* starts, int bytes, int64_t n,
                             uint8_t* first)->int64_t {
  try {
    return first_occurrences(text, uint64_t(size), starts, bytes, uint64_t(n), first);
  } catch (const Outside&) {
    return -Error::offsets;
  } catch (const std::exception&) {
    return -Error::memory;
  }
}

API(kamon_ngram_create)(int vocab_size, int order)->void* {
  try {
    return new Ngram(vocab_size, order);
  } catch (const std::exception&) {
    return nullptr;
  }
}

API(kamon_ngram_destroy)(void* ngram)->void { delete static_cast<Ngram*>(ngram); }

// Count documents first … last − 1. Returns an Error.
API(kamon_ngram_add)(void* ngram, const int32_t* tokens, int64_t num_tokens, const int64_t* offsets,
                     int64_t first, int64_t last)->int {
  try {
    Ngram& g = *static_cast<Ngram*>(ngram);
    for (int64_t d = first; d < last; d++) {
      if (!lies_within(offsets, d, num_tokens)) return Error::offsets;
      const int32_t* document = tokens + offsets[d];
      const int64_t length = offsets[d + 1] - offsets[d];
      if (!g.knows(document, length)) return Error::token;
      g.add(document, length);
    }
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

// num_grams: order · 2 · 5. Returns how many tokens the longest document has.
API(kamon_ngram_tally)(void* ngram, int64_t* num_grams)->int64_t {
  static_cast<Ngram*>(ngram)->tally(num_grams);
  return static_cast<Ngram*>(ngram)->longest;
}

// discounts: order · 2 · 4. Then nothing can be added. Returns an Error.
API(kamon_ngram_finish)(void* ngram, const double* discounts)->int {
  try {
    static_cast<Ngram*>(ngram)->finish(discounts);
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

// log p of the targets of documents first … last − 1, for the orders low … high, which are `stride`
// numbers apart. Returns the number of targets, or an Error, negative.
API(kamon_ngram_logprobs)(void* ngram, int low, int high, const int32_t* tokens, int64_t num_tokens,
                          const int64_t* offsets, int64_t first, int64_t last, double* logprobs,
                          int64_t stride)->int64_t {
  try {
    const Ngram& g = *static_cast<Ngram*>(ngram);
    if (!g.has(low, high)) return -Error::index;
    int64_t num_targets = 0;
    for (int64_t d = first; d < last; d++) {
      if (!lies_within(offsets, d, num_tokens)) return -Error::offsets;
      const int32_t* document = tokens + offsets[d];
      const int64_t length = offsets[d + 1] - offsets[d];
      if (!g.knows(document, length)) return -Error::token;
      g.logprobs(low, high, document, length, logprobs + num_targets, size_t(stride));
      num_targets += std::max(int64_t(0), length - 1);
    }
    return num_targets;
  } catch (const std::exception&) {
    return -Error::memory;
  }
}

// Returns an Error.
API(kamon_ngram_probabilities)(void* ngram, int order, const int32_t* context, int64_t size,
                               double* p)->int {
  const Ngram& g = *static_cast<Ngram*>(ngram);
  if (!g.has(order, order)) return Error::index;
  if (!g.knows(context, size)) return Error::token;
  g.probabilities(order, context, size, p);
  return Error::none;
}

// Multiply-adds that one core does in vectors of this build, in GFLOP/s: nothing here can be faster.
API(kamon_peak)(double seconds)->double {
  using Clock = std::chrono::steady_clock;
  constexpr int ROUNDS = 10000, SUMS = 12;
  Vec sum[SUMS];
  for (auto& s : sum) s = splat(Real(1));
  Vec factor = splat(Real(0.999)), addend = splat(Real(0.001));
  double best = 0;
  const auto begin = Clock::now();
  do {
    const auto start = Clock::now();
    for (int i = 0; i < ROUNDS; i++) {
      for (auto& s : sum) s = s * factor + addend;
      keep(factor);  // a round is not to be merged with the next
    }
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 2.0 * L * SUMS * ROUNDS / took / 1e9);
  } while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds);
  Real used = 0;
  for (auto& s : sum) used += s[0];
  return used > 0 ? best : 0;
}

// The best instruction set of this processor, as a place in LEVELS of native.py.
API(kamon_level)()->int {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  return avx2 ? (avx512 ? 2 : 1) : 0;
#else
  return 0;
#endif
}
