// The engine: batches of documents, divided among threads, and steps of Adam.
#pragma once

#include <climits>
#include <memory>
#include <optional>

#include "errors.hpp"
#include "fp_env.hpp"
#include "sampler.hpp"
#include "thread_pool.hpp"

namespace {

constexpr int CHUNK_TOKENS = 96;  // computed together: they fill the lanes and fit into the cache
constexpr int MIN_GROUP_TOKENS = 96;  // fewer tokens are not worth a thread
constexpr int MAX_GROUPS = 8;
constexpr int MAX_THREADS = 1024;  // the Python side has the same limit

struct AdamSettings {
  double beta1, beta2, eps, weight_decay;
  double grad_clip;  // 0: gradients are not clipped
};

struct Engine {
  const Shape shape;
  const ParamLayout layout;
  const AdamSettings adam;
  const Dropout dropout;
  const int num_threads;
  int64_t step = 0;
  Buffer params, m, v;
  std::vector<std::unique_ptr<Buffer>> grads;  // one for each group, the first is also their sum
  bool grads_are_zero = true;  // if true, the numbers in `grads` do not count
  std::vector<std::unique_ptr<Workspace>> workspaces;  // one for each thread

  Engine(const Shape& shape_, const AdamSettings& adam_, const Dropout& dropout_, int threads)
      : shape(shape_), layout(shape_), adam(adam_), dropout(dropout_), num_threads(threads) {
    for (Buffer* buffer : {&params, &m, &v}) buffer->resize(layout.size);
    make_grads(1);
    for (int t = 0; t < num_threads; t++) workspaces.push_back(std::make_unique<Workspace>());
  }

  Model model() const { return {shape, layout, params.data}; }

  // Calls task(i, thread) for each i < num_tasks. The threads start when there are two tasks.
  template <class Task>
  void run(int num_tasks, const Task& task) {
    if (num_tasks < 2 || num_threads < 2) {
      for (int i = 0; i < num_tasks; i++) task(i, 0);
      return;
    }
    if (!pool || pool->process != this_process()) pool.reset(new ThreadPool(num_threads));
    pool->run(num_tasks, task);
  }

  void make_grads(int num_groups) {
    while (int(grads.size()) < num_groups) {
      auto buffer = std::make_unique<Buffer>();
      buffer->resize(layout.size);
      grads.push_back(std::move(buffer));
    }
  }

  void clear_grads_if_zero() {
    if (grads_are_zero) std::memset(grads[0]->data, 0, sizeof(Real) * layout.size);
  }

  void from_flat(const double* flat, Real* padded) const {
    for_each_param([&](size_t index) { padded[index] = Real(*flat++); });
  }
  void to_flat(const Real* padded, double* flat) const {
    for_each_param([&](size_t index) { *flat++ = double(padded[index]); });
  }

 private:
  // Calls visit(index in a padded buffer) for each parameter, in the order of Python's flat arrays.
  template <class Visit>
  void for_each_param(const Visit& visit) const {
    for (const auto& matrix : layout.matrices) {
      const ptrdiff_t ld = matrix.ld;
      for (int o = 0; o < matrix.num_outputs(); o++)
        for (int i = 0; i < matrix.num_inputs(); i++)
          visit(matrix.begin + (matrix.transposed ? i * ld + o : o * ld + i));
    }
  }

  std::unique_ptr<ThreadPool, DeleteUnlessForked> pool;
};

// Documents in Python's form: document d has the tokens offsets[d] … offsets[d + 1] − 1.
struct PackedBatch {
  const int32_t* tokens;
  int64_t num_tokens;
  const int64_t* offsets;
  int64_t num_docs;

  bool is_within_tokens(int64_t doc) const {
    return offsets[doc] >= 0 && offsets[doc] <= offsets[doc + 1] && offsets[doc + 1] <= num_tokens;
  }
  const int32_t* begin(int64_t doc) const { return tokens + offsets[doc]; }
  int64_t length(int64_t doc) const { return offsets[doc + 1] - offsets[doc]; }
  int num_targets(int64_t doc) const { return int(std::max(int64_t(0), length(doc) - 1)); }

  // Whether the documents consist of all tokens, one after the other.
  bool is_whole() const {
    if (offsets[0] != 0 || offsets[num_docs] != num_tokens) return false;
    for (int64_t d = 0; d < num_docs; d++)
      if (!is_within_tokens(d)) return false;
    return true;
  }
  int64_t num_targets() const {
    int64_t total = 0;
    for (int64_t d = 0; d < num_docs; d++) total += num_targets(d);
    return total;
  }
};

// The random draws for the dropout of each document.
struct DropoutIds {
  const uint64_t* ids = nullptr;  // null: consecutive ones
  uint64_t first = 0;
  uint64_t operator[](int64_t i) const { return ids ? ids[i] : first + uint64_t(i); }
};

// The documents that are computed together: those in `indices`, or all of `docs`.
struct Batch {
  PackedBatch docs;
  const int64_t* indices = nullptr;  // null: all
  int64_t size = docs.num_docs;
  const Dropout* dropout = nullptr;  // null: none
  DropoutIds dropout_ids{};

  int64_t doc(int64_t i) const { return indices ? indices[i] : i; }
  int num_targets(int64_t i) const { return docs.num_targets(doc(i)); }
  int64_t num_targets() const {
    int64_t total = 0;
    for (int64_t i = 0; i < size; i++) total += num_targets(i);
    return total;
  }
};

// The weight of each target's log-probability in the loss.
struct Weights {
  const double* weights;  // null: all are `same`
  double same = 0;
  double operator[](int64_t n) const { return weights ? weights[n] : same; }
  Weights from(int64_t n) const { return {weights ? weights + n : nullptr, same}; }
};

// Some documents of a batch that one thread computes, and the memory for the results.
struct Group {
  int64_t first, last;             // documents first … last − 1
  std::optional<Weights> weights;  // from the first document's first target on
  Gradient gradient;               // unused without weights
  double* logprobs;                // from the first document's first target on
};

// Log-probabilities of the targets of workspace.chunk, from the logits. The logits become
// probabilities.
inline void target_logprobs(const Shape& shape, Workspace& workspace, double* logprobs) {
  const int num_tokens = workspace.chunk.num_tokens, ldn = workspace.columns.ldn;
  const int* targets = workspace.chunk.targets.data();
  Real* largest = workspace.lanes.data;
  Real* total = largest + ldn;
  Real* target_logit = total + ldn;
  Real* logits = workspace.logits.data;
  for (int n = 0; n < num_tokens; n++) target_logit[n] = logits[ptrdiff_t(targets[n]) * ldn + n];
  softmax(logits, shape.vocab_size, largest, total, workspace.columns);
  if constexpr (is_float) {  // finite even if the probability is too small for a float
    for (int j = 0; j < workspace.columns.width; j += L) store(total + j, vlog(load(total + j)));
    for (int n = 0; n < num_tokens; n++)
      logprobs[n] = double(target_logit[n] - largest[n]) - double(total[n]);
  } else {
    for (int n = 0; n < num_tokens; n++)
      logprobs[n] = std::log(logits[ptrdiff_t(targets[n]) * ldn + n]);
  }
}

// Turns probabilities into d loss / d logit = weight · (probability − 1 if it is the target's).
inline void logit_gradients(const Shape& shape, Workspace& workspace, const Weights& weights) {
  const int num_tokens = workspace.chunk.num_tokens, ldn = workspace.columns.ldn;
  const int* targets = workspace.chunk.targets.data();
  Real* logits = workspace.logits.data;
  Real* weight = workspace.weights.data;
  std::memset(weight, 0, sizeof(Real) * ldn);
  for (int n = 0; n < num_tokens; n++) weight[n] = Real(weights[n]);
  for (int j = 0; j < workspace.columns.width; j += L) {
    const Vec factor = load(weight + j);
    for (int o = 0; o < shape.vocab_size; o++) {
      Real* row = logits + ptrdiff_t(o) * ldn + j;
      store(row, load(row) * factor);
    }
  }
  for (int n = 0; n < num_tokens; n++) logits[ptrdiff_t(targets[n]) * ldn + n] -= weight[n];
}

// Computes the documents of a group in chunks. Ends early if `stop` asks for it.
void run_documents(const Engine& engine, Workspace& workspace, const Batch& batch, Group group,
                   const StopFlag& stop) {
  const Model model = engine.model();
  const bool uses_dropout = batch.dropout && batch.dropout->rate > 0;
  const Dropout* dropout = uses_dropout ? batch.dropout : nullptr;
  Chunk& chunk = workspace.chunk;
  int64_t num_left = 0;  // targets, which the chunks share evenly
  for (int64_t i = group.first; i < group.last; i++) num_left += batch.num_targets(i);
  for (int64_t i = group.first; i < group.last;) {
    chunk.clear();
    const int64_t num_chunks = (num_left + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    const int64_t size = num_chunks ? (num_left + num_chunks - 1) / num_chunks : 0;
    do {
      const int length = batch.num_targets(i);
      if (length > 0) chunk.add(batch.docs.begin(batch.doc(i)), length, batch.dropout_ids[i]);
      i++;
    } while (i < group.last && chunk.num_tokens + batch.num_targets(i) / 2 <= size);
    if (!chunk.num_tokens) continue;
    num_left -= chunk.num_tokens;
    if (stop()) return;
    workspace.fit(engine.shape);
    forward(model, workspace, dropout);
    target_logprobs(engine.shape, workspace, group.logprobs);
    group.logprobs += chunk.num_tokens;
    if (!group.weights) continue;
    logit_gradients(engine.shape, workspace, *group.weights);
    backward(model, workspace, group.gradient, dropout);
    group.gradient.is_zero = false;
    group.weights = group.weights->from(chunk.num_tokens);
  }
  if (group.weights && group.gradient.is_zero)
    std::memset(group.gradient.grads, 0, sizeof(Real) * engine.layout.size);
}

// The number of groups. It grows with the number of targets and is a power of two, so that two
// threads share the groups evenly.
inline int count_groups(int64_t num_targets, int64_t num_docs, int max_groups) {
  const int64_t largest = std::min(num_docs, int64_t(max_groups));
  int groups = 1;
  while (2 * groups <= largest && num_targets >= 2 * groups * MIN_GROUP_TOKENS) groups *= 2;
  return groups;
}

// Divides the documents of a batch into groups with about the same number of targets.
inline std::vector<Group> make_groups(const Batch& batch, const std::optional<Weights>& weights,
                                      double* logprobs) {
  const int64_t num_targets = batch.num_targets();
  const int num_groups = count_groups(num_targets, batch.size, weights ? MAX_GROUPS : int(1) << 20);
  std::vector<Group> groups;
  const auto start_group = [&](int64_t first, int64_t targets_before) {
    if (!groups.empty()) groups.back().last = first;
    groups.push_back({first, batch.size, weights, {}, logprobs + targets_before});
    if (weights) groups.back().weights = weights->from(targets_before);
  };
  start_group(0, 0);
  int64_t targets_before = 0;
  for (int64_t i = 0; num_groups > 1 && i < batch.size; i++) {
    if (targets_before >= num_targets * int64_t(groups.size()) / num_groups &&
        i > groups.back().first && int(groups.size()) < num_groups)
      start_group(i, targets_before);
    targets_before += batch.num_targets(i);
  }
  return groups;
}

// Computes the whole batch. The groups depend only on its documents. So any number of threads
// computes the same sums in the same order.
//
// Returns the number of groups. The gradient is the sum of so many of engine.grads.
int run_batch(Engine& engine, const Batch& batch, const std::optional<Weights>& weights,
              double* logprobs, const StopFlag& stop) {
  std::vector<Group> groups = make_groups(batch, weights, logprobs);
  const int num_groups = int(groups.size());
  if (weights) {
    engine.make_grads(num_groups);
    for (int g = 0; g < num_groups; g++)
      groups[g].gradient = {engine.grads[g]->data, g > 0 || engine.grads_are_zero};
    engine.grads_are_zero = false;
  }
  engine.run(num_groups, [&](int g, int thread) {
    FlushToZero flush;
    run_documents(engine, *engine.workspaces[thread], batch, groups[g], stop);
  });
  return num_groups;
}

// totals: the sum of each document's log-probabilities, from left to right. indices: its least
// likely target, the first one if several are equal. Both are 0 for a document without targets.
inline void sum_documents(const PackedBatch& docs, const double* logprobs, double* totals,
                          int64_t* indices) {
  for (int64_t d = 0; d < docs.num_docs; logprobs += docs.num_targets(d++)) {
    double total = 0;
    int least = 0;
    for (int n = 0; n < docs.num_targets(d); n++) {
      total += logprobs[n];
      if (logprobs[n] < logprobs[least]) least = n;
    }
    totals[d] = total;
    indices[d] = least;
  }
}

// Whether a model has the size that Python expects, and its memory is addressable.
inline Error check_sizes(const Shape& shape, int num_threads, int64_t num_params) {
  const int smallest =
      std::min({shape.n_layer, shape.n_embd, shape.block_size, shape.vocab_size, num_threads});
  if (smallest < 1 || num_threads > MAX_THREADS) return Error::sizes;
  const double num_rows =
      2.0 * shape.vocab_size + shape.block_size + 12.0 * shape.n_layer * shape.n_embd;
  const double size = num_rows * shape.n_embd;
  if (size != double(num_params)) return Error::sizes;
  const double longest_row = shape.block_size + 2.0 * CHUNK_TOKENS + 2.0 * L;
  const bool is_too_large =
      size > 1e15 || 4.0 * shape.n_embd * longest_row > INT_MAX || shape.vocab_size > INT_MAX / 2;
  return is_too_large ? Error::memory : Error::none;
}

inline Error check(const Shape& shape, const Batch& batch) {
  const PackedBatch& docs = batch.docs;
  if (!batch.indices && (docs.offsets[0] != 0 || docs.offsets[docs.num_docs] != docs.num_tokens))
    return Error::offsets;
  for (int64_t i = 0; i < batch.size; i++) {
    const int64_t doc = batch.doc(i);
    if (doc < 0 || doc >= docs.num_docs) return Error::index;
    if (!docs.is_within_tokens(doc)) return Error::offsets;
    if (docs.length(doc) > int64_t(shape.block_size) + 1) return Error::length;
    for (int64_t n = 0; n < docs.length(doc); n++)
      if (docs.begin(doc)[n] < 0 || docs.begin(doc)[n] >= shape.vocab_size) return Error::token;
  }
  return Error::none;
}

// Calls task(first, last) for pieces of the parameters, on all threads if there are many
// parameters.
template <class Task>
void for_pieces(Engine& engine, const Task& task) {
  constexpr size_t PIECE = 16384;
  const int num_pieces = int((engine.layout.size + PIECE - 1) / PIECE);
  const auto piece = [&](int i, int) {
    FlushToZero flush;
    task(i * PIECE, std::min(engine.layout.size, (i + 1) * PIECE));
  };
  if (num_pieces <= 2)
    for (int i = 0; i < num_pieces; i++) piece(i, 0);
  else
    engine.run(num_pieces, piece);
}

// Adds the gradients of all groups in the order of the groups.
struct GroupGradients {
  const int num_groups;
  const Real* grads[MAX_GROUPS];
  GroupGradients(const Engine& engine, int num_groups_) : num_groups(num_groups_) {
    for (int g = 0; g < num_groups; g++) grads[g] = engine.grads[g]->data;
  }
  KAMON_INLINE Vec sum(size_t i) const {
    Vec total = load(grads[0] + i);
    for (int g = 1; g < num_groups; g++) total += load(grads[g] + i);
    return total;
  }
};

inline void add_up(Engine& engine, int num_groups) {
  if (num_groups < 2) return;
  for_pieces(engine, [&](size_t first, size_t last) {
    const GroupGradients gradients(engine, num_groups);
    for (size_t i = first; i < last; i += L) store(engine.grads[0]->data + i, gradients.sum(i));
  });
}

// One vector of parameters:
// m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← (1 − ηλ) p − η m̂ / (√v̂ + ε).
struct AdamUpdate {
  Real beta1, beta2, one_minus_beta1, one_minus_beta2, m_scale, v_scale, eps, decay;

  AdamUpdate(const AdamSettings& adam, int64_t step, double learning_rate) {
    const double t = double(step + 1);
    beta1 = Real(adam.beta1), beta2 = Real(adam.beta2);
    one_minus_beta1 = Real(1 - adam.beta1), one_minus_beta2 = Real(1 - adam.beta2);
    const double v_correction = 1 / (1 - std::pow(adam.beta2, t));
    const double root = is_float ? std::sqrt(v_correction) : 1;
    m_scale = Real(learning_rate / (1 - std::pow(adam.beta1, t)) / root);
    v_scale = Real(v_correction);
    eps = Real(adam.eps / root);
    decay = Real(1 - learning_rate * adam.weight_decay);
  }

  KAMON_INLINE void apply(Vec g, Real* p, Real* m, Real* v) const {
    Vec mean = load(m), square = load(v), root;
    if constexpr (is_float) {  // the same with fewer operations, but it rounds differently
      mean += one_minus_beta1 * (g - mean);
      square += one_minus_beta2 * (g * g - square);
      root = vsqrt(square);
    } else {
      mean = beta1 * mean + one_minus_beta1 * g;
      square = beta2 * square + one_minus_beta2 * (g * g);
      root = vsqrt(square * v_scale);
    }
    store(m, mean);
    store(v, square);
    store(p, load(p) * decay - quotient(m_scale * mean, root + eps));
  }
};

// The sum of squares of the whole gradient. Number i of a row goes into sum i modulo NUM_SUMS for
// any vector width. So every build computes the same.
inline double sum_of_squares(const Engine& engine) {
  constexpr int NUM_SUMS = 8;
  double sums[NUM_SUMS] = {};
  for (const auto& matrix : engine.layout.matrices)
    for (int r = 0; r < matrix.num_rows; r++) {
      const Real* row = engine.grads[0]->data + matrix.begin + size_t(r) * matrix.ld;
      for (int i = 0; i < matrix.num_columns; i += NUM_SUMS)
        for (int k = 0; k < std::min(NUM_SUMS, matrix.num_columns - i); k++)
          sums[k] += double(row[i + k]) * double(row[i + k]);
    }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// Scales the gradient to the norm grad_clip if its norm is larger.
inline void clip(Engine& engine) {
  const double norm = std::sqrt(sum_of_squares(engine));
  if (norm <= engine.adam.grad_clip) return;
  const Real factor = Real(engine.adam.grad_clip / norm);
  Real* grads = engine.grads[0]->data;
  for_pieces(engine, [&](size_t first, size_t last) {
    for (size_t i = first; i < last; i += L) store(grads + i, load(grads + i) * factor);
  });
}

// One step of Adam with the sum of the gradients of num_groups groups, which is 0 afterwards.
void adam_step(Engine& engine, double learning_rate, int num_groups) {
  engine.clear_grads_if_zero();
  if (engine.adam.grad_clip > 0) {
    add_up(engine, num_groups);
    num_groups = 1;
    clip(engine);
  }
  const AdamUpdate update(engine.adam, engine.step, learning_rate);
  for_pieces(engine, [&engine, &update, num_groups](size_t first, size_t last) {
    const GroupGradients gradients(engine, num_groups);
    const AdamUpdate local = update;
    Real *p = engine.params.data, *m = engine.m.data, *v = engine.v.data;
    for (size_t i = first; i < last; i += L) local.apply(gradients.sum(i), p + i, m + i, v + i);
  });
  engine.step++;
  engine.grads_are_zero = true;
}

// Reads one document token by token in the first lane. It has its own copy of the parameters, which
// training does not change.
struct Decoder {
  std::mutex mutex;
  const Shape shape;
  const ParamLayout layout;
  const Buffer params;
  Workspace workspace;
  Sampler sampler;
  explicit Decoder(const Engine& engine)
      : shape(engine.shape),
        layout(engine.layout),
        params(engine.params.data, engine.layout.size),
        sampler({shape, layout, params.data}, workspace) {}
};

}  // namespace
