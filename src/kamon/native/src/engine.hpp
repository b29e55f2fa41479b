// The engine: batches of documents, divided among threads, and steps of Adam.
#pragma once

#include <climits>
#include <memory>

#include "fp_env.hpp"
#include "sampler.hpp"
#include "thread_pool.hpp"

namespace {

constexpr int CHUNK_TOKENS = 96;   // computed together: enough lanes, and small enough for the cache
constexpr int GROUP_TOKENS = 96;   // the least that a thread is called for
constexpr int MAX_GROUPS = 8;
constexpr int MOST_THREADS = 1024;  // as in kamon/engine.py

struct Engine {
  Shape shape;
  Layout layout;
  double beta1, beta2, eps_adam, weight_decay, grad_clip;
  Dropout dropout;
  int64_t step = 0;
  Buffer params, m, v;
  std::vector<std::unique_ptr<Buffer>> grads;  // of each group; the first one is the sum
  bool fresh = true;  // the gradients are zero, whatever grads holds: this saves clearing them
  std::vector<std::unique_ptr<Workspace>> workspaces;
  int num_threads;

  Engine(const Shape& s, double b1, double b2, double eps, double decay, double clip, Dropout drop, int n)
      : shape(s), layout(s), beta1(b1), beta2(b2), eps_adam(eps), weight_decay(decay), grad_clip(clip), dropout(drop),
        num_threads(n) {
    for (Buffer* b : {&params, &m, &v}) b->resize(layout.size);
    grads.push_back(std::make_unique<Buffer>());
    grads[0]->resize(layout.size);
    for (int t = 0; t < num_threads; t++) workspaces.push_back(std::make_unique<Workspace>());
  }

  // task(i, thread) for each i < num_tasks, on all threads: they start when there is work for two.
  template <class Task>
  void run(int num_tasks, const Task& task) {
    if (num_tasks < 2 || num_threads < 2) {
      for (int i = 0; i < num_tasks; i++) task(i, 0);
      return;
    }
    if (!pool || pool->process != this_process()) pool.reset(new Threads(num_threads));
    pool->run(num_tasks, task);
  }

  void from_flat(const double* flat, Real* padded) const {
    for_each([&](size_t place) { padded[place] = Real(*flat++); });
  }
  void to_flat(const Real* padded, double* flat) const {
    for_each([&](size_t place) { *flat++ = double(padded[place]); });
  }

 private:
  // visit(place among the padded) for each parameter in the order of the flat ones
  template <class Visit>
  void for_each(const Visit& visit) const {
    for (const auto& m : layout.matrices) {
      const int n_out = m.turned ? m.num_columns : m.num_rows, n_in = m.turned ? m.num_rows : m.num_columns;
      for (int o = 0; o < n_out; o++)
        for (int i = 0; i < n_in; i++)
          visit(m.begin + (m.turned ? size_t(i) * m.ld + o : size_t(o) * m.ld + i));
    }
  }

  std::unique_ptr<Threads, Forget> pool;
};

// A batch as Python packs it, or the documents of one step out of it.
struct Batch {
  const int32_t* tokens;
  int64_t num_tokens;
  const int64_t* offsets;
  const int64_t* indices;  // which documents, in this order; null for all
  int64_t num_docs;
  bool dropped = false;             // whether dropout is to leave something out of them
  const uint64_t* draws = nullptr;  // of each document; null for first_draw and those that follow
  uint64_t first_draw = 0;
  uint64_t draw(int64_t i) const { return draws ? draws[i] : first_draw + uint64_t(i); }
  int64_t doc(int64_t i) const { return indices ? indices[i] : i; }
  int length(int64_t i) const {  // targets of the i-th document
    const int64_t d = doc(i);
    return int(offsets[d + 1] - offsets[d]) - (offsets[d + 1] > offsets[d] ? 1 : 0);
  }
  const int32_t* begin(int64_t i) const { return tokens + offsets[doc(i)]; }
};

// Forward, the logarithm of the probability of each target, and backward if there are weights.
void compute(const Engine& e, Workspace& w, const double* weights, double share, bool want_gradient,
             bool dropped, Real* grads, bool fresh, double* logprobs) {
  const int num_tokens = w.chunk.num_tokens, ldn = w.columns.ldn;
  const int* targets = w.chunk.targets.data();
  const Dropout* dropout = dropped && e.dropout.rate > 0 ? &e.dropout : nullptr;
  forward(e.shape, e.layout, e.params.data, w, dropout);
  Real* largest = w.lanes.data;
  Real* total = largest + ldn;
  Real* target_logit = total + ldn;
  Real* logits = w.logits.data;
  for (int n = 0; n < num_tokens; n++) target_logit[n] = logits[ptrdiff_t(targets[n]) * ldn + n];
  softmax(logits, e.shape.vocab_size, largest, total, w.columns);
  if constexpr (is_float) {  // finite even where the probability is too small for a float
    for (int j = 0; j < w.columns.width; j += L) store(total + j, vlog(load(total + j)));
    for (int n = 0; n < num_tokens; n++)
      logprobs[n] = double(target_logit[n] - largest[n]) - double(total[n]);
  } else {
    for (int n = 0; n < num_tokens; n++)
      logprobs[n] = std::log(logits[ptrdiff_t(targets[n]) * ldn + n]);
  }
  if (!want_gradient) return;
  // d loss / d logit = weight · (probability − 1 if it is the target)
  Real* weight = w.weights.data;
  std::memset(weight, 0, sizeof(Real) * ldn);
  for (int n = 0; n < num_tokens; n++) weight[n] = Real(weights ? weights[n] : share);
  for (int j = 0; j < w.columns.width; j += L) {
    const Vec by = load(weight + j);
    for (int o = 0; o < e.shape.vocab_size; o++) {
      Real* at = logits + ptrdiff_t(o) * ldn + j;
      store(at, load(at) * by);
    }
  }
  for (int n = 0; n < num_tokens; n++) logits[ptrdiff_t(targets[n]) * ldn + n] -= weight[n];
  backward(e.shape, e.layout, e.params.data, grads, fresh, w, dropout);
}

// As ERRORS of native.py has them.
enum Error { none = 0, memory = 1, token = 2, length = 3, index = 4, stopped = 5, offsets = 6, sizes = 7 };

// Whether the numbers of memory that a model takes fit, and it is the model that Python means.
Error check_sizes(const Shape& s, int num_threads, int64_t num_params) {
  if (std::min({s.n_layer, s.n_embd, s.block_size, s.vocab_size, num_threads}) < 1) return Error::sizes;
  if (num_threads > MOST_THREADS) return Error::sizes;
  const double size = (2.0 * s.vocab_size + s.block_size + 12.0 * s.n_layer * s.n_embd) * s.n_embd;
  if (size != double(num_params)) return Error::sizes;
  const double longest_row = s.block_size + 2.0 * CHUNK_TOKENS + 2.0 * L;
  return size > 1e15 || 4.0 * s.n_embd * longest_row > INT_MAX || s.vocab_size > INT_MAX / 2 ? Error::memory
                                                                                             : Error::none;
}

// Whether document d lies within the tokens.
bool lies_within(const int64_t* offsets, int64_t d, int64_t num_tokens) {
  return offsets[d] >= 0 && offsets[d] <= offsets[d + 1] && offsets[d + 1] <= num_tokens;
}

Error check(const Engine& e, const Batch& batch, int64_t num_known) {
  if (!batch.indices && (batch.offsets[0] != 0 || batch.offsets[batch.num_docs] != batch.num_tokens))
    return Error::offsets;
  for (int64_t i = 0; i < batch.num_docs; i++) {
    const int64_t d = batch.doc(i);
    if (d < 0 || d >= num_known) return Error::index;
    if (!lies_within(batch.offsets, d, batch.num_tokens)) return Error::offsets;
    if (batch.offsets[d + 1] - batch.offsets[d] > int64_t(e.shape.block_size) + 1) return Error::length;
    for (int64_t at = batch.offsets[d]; at < batch.offsets[d + 1]; at++)
      if (batch.tokens[at] < 0 || batch.tokens[at] >= e.shape.vocab_size) return Error::token;
  }
  return Error::none;
}

// Documents first … last − 1 in chunks, unless told to stop; logprobs and weights are those of the first one's first target.
void run_documents(Engine& e, int thread, const Batch& batch, const Stop& stop, int64_t first, int64_t last,
                   const double* weights, double share, bool want_gradient, Real* grads, bool fresh,
                   double* logprobs) {
  Workspace& w = *e.workspaces[thread];
  int64_t left = 0;  // tokens, to be divided evenly
  for (int64_t i = first; i < last; i++) left += batch.length(i);
  for (int64_t i = first; i < last;) {
    Chunk& chunk = w.chunk;
    chunk.clear();
    const int64_t num_chunks = (left + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    const int64_t size = num_chunks ? (left + num_chunks - 1) / num_chunks : 0;
    do {
      const int length = batch.length(i);
      if (length > 0) chunk.add(batch.begin(i), length, batch.draw(i));
      i++;
    } while (i < last && chunk.num_tokens + batch.length(i) / 2 <= size);
    if (!chunk.num_tokens) continue;
    left -= chunk.num_tokens;
    if (stop()) return;
    w.fit(e.shape);
    compute(e, w, weights, share, want_gradient, batch.dropped, grads, fresh, logprobs);
    fresh = false;
    logprobs += chunk.num_tokens;
    if (weights) weights += chunk.num_tokens;
  }
  if (want_gradient && fresh) std::memset(grads, 0, sizeof(Real) * e.layout.size);
}

// As many groups as may be worth a thread each, and a power of two: two threads then share them evenly.
int count_groups(int64_t num_targets, int64_t num_docs, bool want_gradient) {
  const int64_t largest = std::min(num_docs, want_gradient ? int64_t(MAX_GROUPS) : int64_t(1) << 20);
  int groups = 1;
  while (2 * groups <= largest && num_targets >= 2 * groups * GROUP_TOKENS) groups *= 2;
  return groups;
}

// The whole batch: cut into groups by its documents alone, so that any number of threads computes the
// same sums in the same order.
//
// Returns the number of groups: the gradient is the sum of as many of e.grads.
int run_batch(Engine& e, const Batch& batch, const Stop& stop, const double* weights, double share,
              bool want_gradient, double* logprobs) {
  int64_t num_targets = 0;
  for (int64_t i = 0; i < batch.num_docs; i++) num_targets += batch.length(i);
  const int num_groups = count_groups(num_targets, batch.num_docs, want_gradient);
  const bool fresh = e.fresh;
  if (want_gradient) e.fresh = false;
  if (num_groups == 1) {
    FlushToZero flush;
    run_documents(e, 0, batch, stop, 0, batch.num_docs, weights, share, want_gradient,
                  e.grads[0]->data, fresh, logprobs);
    return 1;
  }
  std::vector<int64_t> firsts{0}, targets_before{0};
  int64_t seen = 0;
  for (int64_t i = 0; i < batch.num_docs; i++) {
    if (seen >= num_targets * int64_t(firsts.size()) / num_groups && i > firsts.back() &&
        int(firsts.size()) < num_groups) {
      firsts.push_back(i);
      targets_before.push_back(seen);
    }
    seen += batch.length(i);
  }
  const int found = int(firsts.size());
  firsts.push_back(batch.num_docs);
  if (want_gradient)
    while (int(e.grads.size()) < found) {
      auto more = std::make_unique<Buffer>();
      more->resize(e.layout.size);
      e.grads.push_back(std::move(more));
    }
  e.run(found, [&](int g, int thread) {
    FlushToZero flush;
    const int64_t before = targets_before[g];
    run_documents(e, thread, batch, stop, firsts[g], firsts[g + 1],
                  weights ? weights + before : nullptr, share, want_gradient,
                  want_gradient ? e.grads[g]->data : nullptr, g || fresh, logprobs + before);
  });
  return found;
}

// task(first, last) for pieces of the parameters, on all threads if there are many.
template <class Task>
void for_pieces(Engine& e, const Task& task) {
  constexpr size_t PIECE = 16384;
  const int num_pieces = int((e.layout.size + PIECE - 1) / PIECE);
  const auto piece = [&](int i, int) {
    FlushToZero flush;
    task(i * PIECE, std::min(e.layout.size, (i + 1) * PIECE));
  };
  if (num_pieces <= 2)
    for (int i = 0; i < num_pieces; i++) piece(i, 0);
  else
    e.run(num_pieces, piece);
}

// The gradients of all groups, to be added up in their order.
struct Groups {
  int size;
  const Real* grads[MAX_GROUPS];
  Groups(const Engine& e, int num_groups) : size(num_groups) {
    for (int g = 0; g < size; g++) grads[g] = e.grads[g]->data;
  }
  KAMON_INLINE Vec sum(size_t i) const {
    Vec total = load(grads[0] + i);
    for (int g = 1; g < size; g++) total += load(grads[g] + i);
    return total;
  }
};

void add_up(Engine& e, int num_groups) {
  for_pieces(e, [&](size_t first, size_t last) {
    const Groups groups(e, num_groups);
    for (size_t i = first; i < last; i += L) store(e.grads[0]->data + i, groups.sum(i));
  });
}

// One vector of parameters:
// m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← (1 − ηλ) p − η m̂ / (√v̂ + ε).
struct Adam {
  Real beta1, beta2, rest1, rest2, m_scale, v_scale, eps, kept;

  Adam(const Engine& e, double learning_rate) {
    const double t = double(e.step + 1);
    beta1 = Real(e.beta1), beta2 = Real(e.beta2);
    rest1 = Real(1 - e.beta1), rest2 = Real(1 - e.beta2);
    const double v_correction = 1 / (1 - std::pow(e.beta2, t));
    const double root = is_float ? std::sqrt(v_correction) : 1;
    m_scale = Real(learning_rate / (1 - std::pow(e.beta1, t)) / root);
    v_scale = Real(v_correction);
    eps = Real(e.eps_adam / root);
    kept = Real(1 - learning_rate * e.weight_decay);
  }

  KAMON_INLINE void update(Vec g, Real* p, Real* m, Real* v) const {
    Vec mean = load(m), square = load(v), root;
    if constexpr (is_float) {  // the same with fewer operations, and other roundings
      mean += rest1 * (g - mean);
      square += rest2 * (g * g - square);
      root = vsqrt(square);
    } else {
      mean = beta1 * mean + rest1 * g;
      square = beta2 * square + rest2 * (g * g);
      root = vsqrt(square * v_scale);
    }
    store(m, mean);
    store(v, square);
    store(p, load(p) * kept - quotient(m_scale * mean, root + eps));
  }
};

// Of the gradient of all parameters together. Number i of a row is added to sum i modulo LANES, whatever the width of
// the machine's vectors: every build finds the same.
double sum_of_squares(const Engine& e) {
  constexpr int LANES = 8;
  double sums[LANES] = {};
  for (const auto& matrix : e.layout.matrices)
    for (int r = 0; r < matrix.num_rows; r++) {
      const Real* row = e.grads[0]->data + matrix.begin + size_t(r) * matrix.ld;
      for (int i = 0; i < matrix.num_columns; i += LANES)
        for (int l = 0; l < std::min(LANES, matrix.num_columns - i); l++) sums[l] += double(row[i + l]) * double(row[i + l]);
    }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// Where the gradient is longer than grad_clip, shorten it to that.
void clip(Engine& e) {
  const double norm = std::sqrt(sum_of_squares(e));
  if (norm <= e.grad_clip) return;
  const Real factor = Real(e.grad_clip / norm);
  for_pieces(e, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; i += L)
      store(e.grads[0]->data + i, load(e.grads[0]->data + i) * factor);
  });
}

void adam_step(Engine& e, double learning_rate, int num_groups) {
  if (e.fresh) std::memset(e.grads[0]->data, 0, sizeof(Real) * e.layout.size);
  if (e.grad_clip > 0) {
    if (num_groups > 1) add_up(e, num_groups);
    num_groups = 1;
    clip(e);
  }
  const Adam adam(e, learning_rate);
  for_pieces(e, [&e, &adam, num_groups](size_t first, size_t last) {
    const Groups groups(e, num_groups);
    const Adam local = adam;
    Real *p = e.params.data, *m = e.m.data, *v = e.v.data;
    for (size_t i = first; i < last; i += L) local.update(groups.sum(i), p + i, m + i, v + i);
  });
  e.step++;
  e.fresh = true;
}

// One document, token by token, in the first lane, with the parameters of the moment.
struct Decoder {
  std::mutex mutex;
  const Shape shape;
  const Layout layout;
  const Buffer params;
  Workspace workspace;
  Sampler sampler;
  explicit Decoder(const Engine& e)
      : shape(e.shape),
        layout(e.layout),
        params(e.params.data, e.layout.size),
        sampler(shape, layout, params.data, workspace) {}
};

}  // namespace
