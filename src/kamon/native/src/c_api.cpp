// The C interface, which kamon/native/library.py loads with ctypes.
//
// setup.py compiles it once for float and once for double, for each instruction set.

#include <chrono>

#include "bpe.hpp"
#include "branches.hpp"
#include "documents.hpp"
#include "engine.hpp"
#include "mersenne.hpp"
#include "ngram.hpp"

namespace {

Engine& as_engine(void* handle) { return *static_cast<Engine*>(handle); }
Decoder& as_decoder(void* handle) { return *static_cast<Decoder*>(handle); }
Branches& as_branches(void* handle) { return *static_cast<Branches*>(handle); }
Ngram& as_ngram(void* handle) { return *static_cast<Ngram*>(handle); }

// Returns the new object that `make` returns, or null if there is too little memory.
template <class Make>
void* made_or_null(const Make& make) {
  try {
    return make();
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Turns documents with room for block_size tokens, and their lengths in offsets[1 … n], into a
// batch.
void close_gaps(int64_t n, int block_size, int32_t* tokens, int64_t* offsets) {
  offsets[0] = 0;
  for (int64_t i = 0; i < n; i++) {
    const size_t size = sizeof(int32_t) * size_t(offsets[i + 1]);
    std::memmove(tokens + offsets[i], tokens + i * block_size, size);
    offsets[i + 1] += offsets[i];
  }
}

// Makes the compiler believe that v may have changed.
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
#define API(result, name) extern "C" KAMON_EXPORT result KAMON_JOIN(name, KAMON_SUFFIX)

// A function that can fail returns an Error. If it returns a count, the Error is a negative number.
// `stop`: see StopFlag. Tokens, offsets and num_docs: see PackedBatch.

API(int, kamon_create)(int n_layer, int n_embd, int n_head, int block_size, int vocab_size,
                       double beta1, double beta2, double eps_adam, double weight_decay,
                       double grad_clip, double dropout, uint64_t seed, int num_threads,
                       int64_t num_params, void** engine) {
  return error_of([&] {
    if (n_head < 1 || n_embd % n_head) return Error::sizes;
    const Shape shape{n_layer, n_embd, n_head, block_size, vocab_size};
    if (const Error error = check_sizes(shape, num_threads, num_params)) return error;
    const AdamSettings adam{beta1, beta2, eps_adam, weight_decay, grad_clip};
    *engine = new Engine(shape, adam, Dropout{dropout, seed}, num_threads);
    return Error::none;
  });
}

API(void, kamon_destroy)(void* handle) { delete static_cast<Engine*>(handle); }

// params, m and v: num_params numbers each. Sets the gradients to 0.
API(void, kamon_load)(void* handle, const double* params, const double* m, const double* v,
                      int64_t step) {
  Engine& engine = as_engine(handle);
  engine.from_flat(params, engine.params.data);
  engine.from_flat(m, engine.m.data);
  engine.from_flat(v, engine.v.data);
  engine.grads_are_zero = true;
  engine.step = step;
}

// Returns the number of steps of Adam so far.
API(int64_t, kamon_state)(void* handle, double* params, double* m, double* v) {
  const Engine& engine = as_engine(handle);
  engine.to_flat(engine.params.data, params);
  engine.to_flat(engine.m.data, m);
  engine.to_flat(engine.v.data, v);
  return engine.step;
}

API(void, kamon_gradients)(void* handle, double* grads) {
  Engine& engine = as_engine(handle);
  engine.clear_grads_if_zero();
  engine.to_flat(engine.grads[0]->data, grads);
}

// Computes log-probabilities of all targets. If there are weights for them, adds the gradient to
// that of earlier calls. After `stopped` or `memory` the whole gradient is 0.
//
// weights: null for no gradient. dropout_ids: one for each document, or null for no dropout.
API(int, kamon_batch)(void* handle, const int32_t* tokens, int64_t num_tokens,
                      const int64_t* offsets, int64_t num_docs, const double* weights,
                      const uint64_t* dropout_ids, double* logprobs, const int32_t* stop) {
  Engine& engine = as_engine(handle);
  Batch batch{{tokens, num_tokens, offsets, num_docs}};
  if (dropout_ids) batch.dropout = &engine.dropout, batch.dropout_ids = {dropout_ids};
  const StopFlag stop_flag{stop};
  const int error = error_of([&] {
    if (const Error wrong = check(engine.shape, batch)) return wrong;
    std::optional<Weights> loss_weights;
    if (weights) loss_weights = Weights{weights};
    const int num_groups = run_batch(engine, batch, loss_weights, logprobs, stop_flag);
    if (stop_flag()) return Error::stopped;
    if (weights) add_up(engine, num_groups);
    return Error::none;
  });
  if (weights && (error == Error::stopped || error == Error::memory)) engine.grads_are_zero = true;
  return error;
}

// totals and indices: see sum_documents.
API(int, kamon_document_logprobs)(void* handle, const int32_t* tokens, int64_t num_tokens,
                                  const int64_t* offsets, int64_t num_docs, double* totals,
                                  int64_t* indices, const int32_t* stop) {
  Engine& engine = as_engine(handle);
  const Batch batch{{tokens, num_tokens, offsets, num_docs}};
  const StopFlag stop_flag{stop};
  return error_of([&] {
    if (const Error wrong = check(engine.shape, batch)) return wrong;
    std::vector<double> logprobs(static_cast<size_t>(num_tokens));
    run_batch(engine, batch, std::nullopt, logprobs.data(), stop_flag);
    if (stop_flag()) return Error::stopped;
    sum_documents(batch.docs, logprobs.data(), totals, indices);
    return Error::none;
  });
}

API(int, kamon_step)(void* handle, double learning_rate) {
  return error_of([&] {
    adam_step(as_engine(handle), learning_rate, 1);
    return Error::none;
  });
}

// Trains for num_steps steps. Step i uses the documents indices[i · docs_per_step] and following.
// Ends after the first loss that is not finite. Also ends if `stop` asks for it, and an unfinished
// step then does not count. Returns the number of losses.
API(int64_t, kamon_train)(void* handle, const int32_t* tokens, int64_t num_tokens,
                          const int64_t* offsets, int64_t num_docs, const int64_t* indices,
                          int64_t docs_per_step, int64_t num_steps, uint64_t first_dropout_id,
                          const double* learning_rates, double* losses, const int32_t* stop) {
  Engine& engine = as_engine(handle);
  const PackedBatch docs{tokens, num_tokens, offsets, num_docs};
  const StopFlag stop_flag{stop};
  const int64_t result = count_or_error([&]() -> int64_t {
    std::vector<double> logprobs;
    for (int64_t i = 0; i < num_steps; i++) {
      const int64_t first = i * docs_per_step;
      const DropoutIds dropout_ids{nullptr, first_dropout_id + uint64_t(first)};
      const Batch batch{docs, indices + first, docs_per_step, &engine.dropout, dropout_ids};
      if (const Error wrong = check(engine.shape, batch)) return -wrong;
      const int64_t num_targets = batch.num_targets();
      const double weight = 1 / double(num_targets);
      logprobs.resize(size_t(num_targets));
      const int num_groups =
          run_batch(engine, batch, Weights{nullptr, weight}, logprobs.data(), stop_flag);
      if (stop_flag()) {
        engine.grads_are_zero = true;
        return i;
      }
      double total = 0;
      for (const double logprob : logprobs) total -= logprob;
      losses[i] = weight * total;
      if (!std::isfinite(losses[i])) return i + 1;
      adam_step(engine, learning_rates[i], num_groups);
    }
    return num_steps;
  });
  if (result == -Error::memory) engine.grads_are_zero = true;
  return result;
}

// Adds the parts of a mixture to what samples need: see kamon_sample. Returns an Error.
int read_parts(const Engine& engine, int num_parts, const int32_t* starts, const double* weights,
               const int32_t* num_tables, const void* const* tables, SampleParams& params) {
  const Shape& shape = engine.shape;
  if (params.bos < 0 || params.bos >= params.num_choices) return Error::token;
  if (params.num_choices > shape.vocab_size || num_parts < 1) return Error::sizes;
  if (params.start_size < 1 || params.start_size > shape.block_size) return Error::length;
  for (int i = 0; i < num_parts * params.start_size; i++)
    if (starts[i] < 0 || starts[i] >= shape.vocab_size) return Error::token;
  for (int i = 0; i < num_parts; i++, starts += params.start_size) {
    SamplePart part{weights[0], weights[1], starts, {}};
    weights += 2;
    for (int j = 0; j < num_tables[i]; j++) {
      const NgramTable* table = static_cast<const NgramTable*>(*tables++);
      if (table->vocab_size != params.num_choices) return Error::sizes;
      part.tables.push_back({table, *weights++});
    }
    params.parts.push_back(std::move(part));
  }
  return Error::none;
}

// Samples n documents. numbers: those of each document among the random draws. tokens: room for
// n · block_size, of which it uses offsets[n]. offsets: n + 1. num_choices: the tokens after these
// are never chosen. The parts of a mixture have `start_size` tokens of `starts` each. weights: for
// each part, its share, the weight of the GPT, and those of its n-grams, which are in `tables`.
API(int, kamon_sample)(void* handle, const int64_t* numbers, int64_t n, double temperature,
                       uint64_t seed, int bos, int num_choices, int num_parts, int start_size,
                       const int32_t* starts, const double* part_weights, const int32_t* num_tables,
                       const void* const* tables, int32_t* tokens, int64_t* offsets,
                       const int32_t* stop) {
  Engine& engine = as_engine(handle);
  const StopFlag stop_flag{stop};
  return error_of([&] {
    SampleParams params{numbers, temperature, seed, bos, num_choices, start_size, {}};
    const int error =
        read_parts(engine, num_parts, starts, part_weights, num_tables, tables, params);
    if (error) return error;
    const int block_size = engine.shape.block_size;
    int64_t* lengths = offsets + 1;
    constexpr int64_t PIECE = 64 * NUM_LANES;
    engine.run(int((n + PIECE - 1) / PIECE), [&](int piece, int thread) {
      FlushToZero flush;
      Mixture mixture(engine.model(), *engine.workspaces[thread], params);
      const SampleRows rows{piece * PIECE, std::min(n, (piece + 1) * PIECE), tokens, lengths};
      sample_documents(mixture, params, rows, stop_flag);
    });
    if (stop_flag()) return int(Error::stopped);
    close_gaps(n, block_size, tokens, offsets);
    return int(Error::none);
  });
}

// See smooth, also for the order of the contexts.
API(int, kamon_smooth)(int vocab_size, int64_t num_contexts, const int32_t* shorter,
                       const int32_t* timeless, double trust, double* sums, double* p) {
  const bool sound = smooth(vocab_size, num_contexts, shorter, timeless, trust, sums, p);
  return sound ? Error::none : Error::index;
}

// chances: of each node and context, see GuideArrays. p: [context][token].
API(int, kamon_look_ahead)(int vocab_size, int bos, int room, int64_t num_nodes,
                           const int32_t* positions, const int32_t* next, const uint8_t* ends,
                           const int64_t* first_contexts, const int32_t* after,
                           const int64_t* begins, int64_t num_chances, const double* p,
                           double* chances) {
  return error_of([&] {
    const GuideArrays guide{vocab_size, bos,  room,           num_nodes, positions,
                            next,       ends, first_contexts, after,     begins};
    if (!guide.is_sound(num_chances)) return Error::index;
    look_ahead(guide, p, chances);
    return Error::none;
  });
}

// Samples like kamon_sample, under conditions: see GuideArrays and kamon_look_ahead. weights: n.
// top_k, top_p, counts: see Guide.
API(int, kamon_sample_guided)(void* handle, const int64_t* numbers, int64_t n, double temperature,
                              uint64_t seed, int top_k, double top_p, int num_parts,
                              int start_size, const int32_t* starts, const double* part_weights,
                              const int32_t* num_tables, const void* const* tables, int vocab_size,
                              int bos, int room, int64_t num_nodes, const int32_t* positions,
                              const int32_t* next, const uint8_t* ends,
                              const int64_t* first_contexts, const int32_t* after,
                              const int64_t* begins, int64_t num_chances, const double* chances,
                              double* counts, double* weights, int32_t* tokens, int64_t* offsets,
                              const int32_t* stop) {
  Engine& engine = as_engine(handle);
  const StopFlag stop_flag{stop};
  return error_of([&] {
    SampleParams params{numbers, temperature, seed, bos, vocab_size, start_size, {}};
    const int error =
        read_parts(engine, num_parts, starts, part_weights, num_tables, tables, params);
    if (error) return error;
    if (room > engine.shape.block_size - start_size + 1) return int(Error::sizes);
    const GuideArrays arrays{vocab_size, bos,  room,           num_nodes, positions,
                             next,       ends, first_contexts, after,     begins};
    if (!arrays.is_sound(num_chances)) return int(Error::index);
    const int block_size = engine.shape.block_size;
    int64_t* lengths = offsets + 1;
    constexpr int64_t PIECE = 64 * NUM_LANES;
    const int num_pieces = int((n + PIECE - 1) / PIECE);
    const size_t num_counts = counts ? size_t(first_contexts[room + 1]) * size_t(vocab_size) : 0;
    std::vector<double> of_pieces(num_counts * size_t(num_pieces));  // added up in order
    engine.run(num_pieces, [&](int piece, int thread) {
      FlushToZero flush;
      Mixture mixture(engine.model(), *engine.workspaces[thread], params);
      double* own = counts ? of_pieces.data() + num_counts * size_t(piece) : nullptr;
      Guide guide(arrays, chances, own, top_k, top_p);
      const SampleRows rows{piece * PIECE, std::min(n, (piece + 1) * PIECE), tokens, lengths};
      GuidedSampling(mixture, guide, params, rows, weights).run(stop_flag);
    });
    if (stop_flag()) return int(Error::stopped);
    for (size_t i = 0; i < of_pieces.size(); i++) counts[i % num_counts] += of_pieces[i];
    close_gaps(n, block_size, tokens, offsets);
    return int(Error::none);
  });
}

// Returns null if there is no memory.
API(void*, kamon_decoder_create)(void* handle) {
  return made_or_null([&] { return new Decoder(as_engine(handle)); });
}

API(void, kamon_decoder_destroy)(void* handle) { delete static_cast<Decoder*>(handle); }

// Returns Error::length after block_size tokens.
API(int, kamon_decoder_push)(void* handle, int token, double* logits) {
  FlushToZero flush;
  Decoder& decoder = as_decoder(handle);
  const std::lock_guard<std::mutex> lock(decoder.mutex);
  if (token < 0 || token >= decoder.shape.vocab_size) return Error::token;
  if (decoder.sampler.position[0] + 1 >= decoder.shape.block_size) return Error::length;
  decoder.sampler.input[0] = token;
  decoder.sampler.position[0]++;
  decoder.sampler.push();
  for (int o = 0; o < decoder.shape.vocab_size; o++)
    logits[o] = double(decoder.sampler.logit(o, 0));
  return Error::none;
}

// u: the random draws at one position of samples number first … first + n − 1.
API(void, kamon_uniforms)(uint64_t seed, uint64_t first, int64_t n, uint64_t position, double* u) {
  for (int64_t i = 0; i < n; i++) {
    const uint64_t number = first + uint64_t(i);
    uniforms<1>(seed, &number, &position, u + i);
  }
}

// Returns null if there is no memory.
API(void*, kamon_branches_create)(void* handle) {
  return made_or_null([&] { return new Branches(as_engine(handle)); });
}

API(void, kamon_branches_destroy)(void* handle) { delete static_cast<Branches*>(handle); }

// rows: n rows of probabilities. See Branches::push.
API(int, kamon_branches_push)(void* handle, int n, const int32_t* parents, const int32_t* tokens,
                              double* rows) {
  return error_of([&] {
    FlushToZero flush;
    Branches& branches = as_branches(handle);
    const std::lock_guard<std::mutex> lock(branches.mutex);
    return branches.push(n, parents, tokens, rows);
  });
}

// items: of 4 or 8 bytes each.
API(void, kamon_shuffle)(uint32_t* state, uint32_t n, void* items, int bytes) {
  Mersenne rng(state);
  if (bytes == 4)
    shuffle(rng, n, static_cast<uint32_t*>(items));
  else
    shuffle(rng, n, static_cast<uint64_t*>(items));
}

API(void, kamon_gauss)(uint32_t* state, double std, int64_t n, double* out, double* spare) {
  Mersenne rng(state);
  gauss(rng, std, n, out, *spare);
}

// text: of `size` bytes, the last of which is a NUL. starts: of 4 or 8 bytes each.
API(int, kamon_find_starts)(const char* text, int64_t size, int64_t n, const uint8_t* chosen,
                            void* starts, int bytes) {
  return error_of([&] {
    find_starts(text, uint64_t(size), uint64_t(n), chosen, starts, bytes);
    return Error::none;
  });
}

// Returns the number of bytes: see `gather`.
API(int64_t, kamon_gather)(const char* text, int64_t size, const void* starts, int bytes, int64_t n,
                           char* out, int64_t room, int64_t* count) {
  return count_or_error([&] {
    const Starts from(starts, bytes);
    return int64_t(gather(text, uint64_t(size), from, uint64_t(n), out, uint64_t(room), count));
  });
}

// starts: null if the documents follow one another. Returns how many do not equal an earlier one.
API(int64_t, kamon_first_occurrences)(const char* text, int64_t size, const void* starts, int bytes,
                                      int64_t n, uint8_t* first) {
  return count_or_error(
      [&] { return first_occurrences(text, uint64_t(size), starts, bytes, uint64_t(n), first); });
}

// Returns null if there is no memory.
API(void*, kamon_ngram_create)(int vocab_size, int order) {
  return made_or_null([&] { return new Ngram(vocab_size, order); });
}

API(void, kamon_ngram_destroy)(void* handle) { delete static_cast<Ngram*>(handle); }

// Counts documents first … last − 1.
API(int, kamon_ngram_add)(void* handle, const int32_t* tokens, int64_t num_tokens,
                          const int64_t* offsets, int64_t first, int64_t last) {
  Ngram& ngram = as_ngram(handle);
  const PackedBatch docs{tokens, num_tokens, offsets, last};
  return error_of([&] {
    for (int64_t d = first; d < last; d++) {
      if (!docs.is_within_tokens(d)) return Error::offsets;
      if (!ngram.knows(docs.begin(d), docs.length(d))) return Error::token;
      ngram.add(docs.begin(d), docs.length(d));
    }
    return Error::none;
  });
}

// num_grams: order · 2 · 5. Returns the length of the longest document, in tokens.
API(int64_t, kamon_ngram_tally)(void* handle, int64_t* num_grams) {
  as_ngram(handle).tally(num_grams);
  return as_ngram(handle).longest;
}

// discounts: order · 2 · 4. No documents can be added afterwards.
API(int, kamon_ngram_finish)(void* handle, const double* discounts) {
  return error_of([&] {
    as_ngram(handle).finish(discounts);
    return Error::none;
  });
}

// logprobs: of the targets of documents first … last − 1, for each of the orders low … high. The
// orders begin `stride` numbers apart. Returns the number of targets.
API(int64_t, kamon_ngram_logprobs)(void* handle, int low, int high, const int32_t* tokens,
                                   int64_t num_tokens, const int64_t* offsets, int64_t first,
                                   int64_t last, double* logprobs, int64_t stride) {
  const Ngram& ngram = as_ngram(handle);
  const PackedBatch docs{tokens, num_tokens, offsets, last};
  return count_or_error([&]() -> int64_t {
    if (!ngram.has(low, high)) return -Error::index;
    int64_t num_targets = 0;
    for (int64_t d = first; d < last; d++) {
      if (!docs.is_within_tokens(d)) return -Error::offsets;
      if (!ngram.knows(docs.begin(d), docs.length(d))) return -Error::token;
      ngram.logprobs(low, high, docs.begin(d), docs.length(d), logprobs + num_targets,
                     size_t(stride));
      num_targets += std::max(int64_t(0), docs.length(d) - 1);
    }
    return num_targets;
  });
}

// p: of each token after the context.
API(int, kamon_ngram_probabilities)(void* handle, int order, const int32_t* context, int64_t size,
                                    double* p) {
  const Ngram& ngram = as_ngram(handle);
  if (!ngram.has(order, order)) return Error::index;
  if (!ngram.knows(context, size)) return Error::token;
  ngram.probabilities(order, context, size, p);
  return Error::none;
}

// sizes: the numbers of contexts and followers of the n-gram of this order.
API(int, kamon_ngram_sizes)(void* handle, int order, int64_t* sizes) {
  const Ngram& ngram = as_ngram(handle);
  if (!ngram.has(order, order)) return Error::index;
  sizes[0] = ngram.num_contexts(order);
  sizes[1] = ngram.num_grams(order);
  return Error::none;
}

// Fills arrays of these sizes: see NgramArrays.
API(int, kamon_ngram_tabulate)(void* handle, int order, double* kept, int32_t* shorter,
                               int64_t* begins, int32_t* tokens, double* shares, int32_t* longer) {
  const Ngram& ngram = as_ngram(handle);
  return error_of([&] {
    if (!ngram.has(order, order)) return Error::index;
    ngram.tabulate(order, {kept, shorter, begins, tokens, shares, longer});
    return Error::none;
  });
}

// Copies the arrays for `sample`. They may come from another library, which counted the n-gram.
API(int, kamon_table_create)(int vocab_size, int64_t num_contexts, int64_t num_followers,
                             double* kept, int32_t* shorter, int64_t* begins, int32_t* tokens,
                             double* shares, int32_t* longer, void** table) {
  return error_of([&] {
    const NgramArrays arrays{kept, shorter, begins, tokens, shares, longer};
    *table = new NgramTable(vocab_size, num_contexts, num_followers, arrays);
    return Error::none;
  });
}

API(void, kamon_table_destroy)(void* table) { delete static_cast<NgramTable*>(table); }

// Log-probabilities of a mixture from those of its parts: see mix_logprobs.
API(void, kamon_mix)(int64_t n, double weight, const double* gpt, const double* ngram,
                     double* mixed) {
  mix_logprobs(n, weight, gpt, ngram, mixed);
}

// logits: of each token after the context. They become log p of the mixture.
API(int, kamon_mix_logits)(void* handle, int order, const int32_t* context, int64_t size,
                           double weight, double* logits) {
  const Ngram& ngram = as_ngram(handle);
  return error_of([&] {
    if (!ngram.has(order, order)) return Error::index;
    if (!ngram.knows(context, size)) return Error::token;
    mix_logits(ngram, order, context, size, weight, logits);
    return Error::none;
  });
}

API(int, kamon_ngram_sort)(void* handle) {
  return error_of([&] {
    as_ngram(handle).sort();
    return Error::none;
  });
}

// row: p of each token after the context. They become those of the mixture.
API(int, kamon_mix_probabilities)(void* handle, int order, const int32_t* context, int64_t size,
                                  double weight, double* row) {
  const Ngram& ngram = as_ngram(handle);
  return error_of([&] {
    if (!ngram.has(order, order)) return Error::index;
    if (!ngram.knows(context, size)) return Error::token;
    mix_probabilities(ngram, order, context, size, weight, row);
    return Error::none;
  });
}

// For the weight of a mixture: see ratios and derivatives.
API(void, kamon_ratios)(int64_t n, const double* gpt, const double* ngram, double max_log,
                        double* out) {
  ratios(n, gpt, ngram, max_log, out);
}
API(void, kamon_derivatives)(int64_t n, const double* of_ratios, double weight, double* out) {
  derivatives(n, of_ratios, weight, out);
}

// totals and indices, from the log-probabilities of all targets: see sum_documents.
API(int, kamon_sum_documents)(const int32_t* tokens, int64_t num_tokens, const int64_t* offsets,
                              int64_t num_docs, const double* logprobs, int64_t num_targets,
                              double* totals, int64_t* indices) {
  return error_of([&] {
    const PackedBatch docs{tokens, num_tokens, offsets, num_docs};
    if (!docs.is_whole() || docs.num_targets() != num_targets) return Error::offsets;
    sum_documents(docs, logprobs, totals, indices);
    return Error::none;
  });
}

// pairs: two tokens for each merge. text, ends, tokens: see merge_pieces.
API(int, kamon_merge_pieces)(const int32_t* pairs, int64_t num_merges, const uint8_t* text,
                             int64_t num_pieces, int64_t* ends, int32_t* tokens) {
  return error_of([&] {
    merge_pieces(Merges(pairs, num_merges), text, num_pieces, ends, tokens);
    return Error::none;
  });
}

// Writes which numbers of a row are above `least`, in order. Returns how many they are.
API(int64_t, kamon_above)(int64_t n, const double* row, double least, int32_t* found) {
  int64_t size = 0;
  for (int64_t i = 0; i < n; i++)
    if (row[i] > least) found[size++] = int32_t(i);
  return size;
}

// Measures the peak speed of one core in GFLOP/s, for multiply-adds in vectors of this build.
API(double, kamon_peak)(double seconds) {
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
      keep(factor);  // so that the compiler does not merge rounds
    }
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 2.0 * L * SUMS * ROUNDS / took / 1e9);
  } while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds);
  Real used = 0;
  for (auto& s : sum) used += s[0];
  return used > 0 ? best : 0;
}

// The best instruction set of this processor, as an index into LEVELS of the Python side.
API(int, kamon_level)() {
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
