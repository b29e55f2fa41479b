// The engine behind the contract of kamon/engine.py, as functions that ctypes can call.
//
// Compiled once for float and once for double, for each instruction set: see setup.py.

#include <chrono>
#include <memory>
#include <new>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

#include "model.hpp"
#include "philox.hpp"
#include "threads.hpp"

namespace {

// Denormals cost ten times a normal number and mean nothing here. The caller's setting comes back.
class FlushToZero {
 public:
#if defined(__x86_64__) || defined(__i386__)
  FlushToZero() : before(_mm_getcsr()) { _mm_setcsr(0x1f80 | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before); }

 private:
  unsigned before;
#elif defined(__aarch64__)
  FlushToZero() {
    asm volatile("mrs %0, fpcr" : "=r"(before));
    asm volatile("msr fpcr, %0" ::"r"(uint64_t(1) << 24));
  }
  ~FlushToZero() { asm volatile("msr fpcr, %0" ::"r"(before)); }

 private:
  uint64_t before;
#endif
};

constexpr int CHUNK_TOKENS = 96;   // computed together: enough lanes, and small enough for the cache
constexpr int GROUP_TOKENS = 128;  // the least that a thread is called for
constexpr int MAX_GROUPS = 8;

struct Engine {
  Shape shape;
  Layout layout;
  double beta1, beta2, eps_adam;
  int64_t step = 0;
  Buffer params, m, v;
  std::vector<std::unique_ptr<Buffer>> grads;  // of each group; the first one is the sum
  bool fresh = true;  // the gradients are zero, whatever grads holds: this saves clearing them
  std::vector<std::unique_ptr<Workspace>> workspaces;
  int num_threads;

  Engine(const Shape& s, double b1, double b2, double eps, int n)
      : shape(s), layout(s), beta1(b1), beta2(b2), eps_adam(eps), num_threads(n) {
    for (Buffer* b : {&params, &m, &v}) b->resize(layout.size);
    grads.push_back(std::make_unique<Buffer>());
    grads[0]->resize(layout.size);
    for (int t = 0; t < num_threads; t++) workspaces.push_back(std::make_unique<Workspace>());
  }

  // Started when there is work for more than one.
  Threads& threads() {
    if (!pool) pool = std::make_unique<Threads>(num_threads);
    return *pool;
  }

  void from_flat(const double* flat, Real* padded) const {
    for (const auto& matrix : layout.matrices)
      for (int o = 0; o < matrix.n_out; o++)
        for (int i = 0; i < matrix.n_in; i++)
          padded[matrix.begin + size_t(o) * matrix.ld + i] = Real(*flat++);
  }
  void to_flat(const Real* padded, double* flat) const {
    for (const auto& matrix : layout.matrices)
      for (int o = 0; o < matrix.n_out; o++)
        for (int i = 0; i < matrix.n_in; i++)
          *flat++ = double(padded[matrix.begin + size_t(o) * matrix.ld + i]);
  }

 private:
  std::unique_ptr<Threads> pool;
};

// A batch as Python packs it, or the documents of one step out of it.
struct Batch {
  const int32_t* tokens;
  const int64_t* offsets;
  const int64_t* indices;  // which documents, in this order; null for all
  int64_t num_docs;
  int64_t doc(int64_t i) const { return indices ? indices[i] : i; }
  int length(int64_t i) const {  // targets of the i-th document
    const int64_t d = doc(i);
    return int(offsets[d + 1] - offsets[d]) - (offsets[d + 1] > offsets[d] ? 1 : 0);
  }
  const int32_t* begin(int64_t i) const { return tokens + offsets[doc(i)]; }
};

// Forward, the logarithm of the probability of each target, and backward if there are weights.
void compute(const Engine& e, Workspace& w, const double* weights, double share, bool want_gradient,
             Real* grads, bool fresh, double* logprobs) {
  const int num_tokens = w.chunk.num_tokens, ldn = w.columns.ldn;
  const int* targets = w.chunk.targets.data();
  forward(e.shape, e.layout, e.params.data, w);
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
  backward(e.shape, e.layout, e.params.data, grads, fresh, w);
}

enum Error { none = 0, memory = 1, token = 2, length = 3, index = 4 };

Error check(const Engine& e, const Batch& batch, int64_t num_known) {
  for (int64_t i = 0; i < batch.num_docs; i++) {
    const int64_t d = batch.doc(i);
    if (d < 0 || d >= num_known) return Error::index;
    if (batch.length(i) > e.shape.block_size) return Error::length;
    for (int64_t at = batch.offsets[d]; at < batch.offsets[d + 1]; at++)
      if (batch.tokens[at] < 0 || batch.tokens[at] >= e.shape.vocab_size) return Error::token;
  }
  return Error::none;
}

// Documents first … last − 1 in chunks; logprobs and weights are those of the first one's first target.
void run_documents(const Engine& e, Workspace& w, const Batch& batch, int64_t first, int64_t last,
                   const double* weights, double share, bool want_gradient, Real* grads, bool fresh,
                   double* logprobs) {
  for (int64_t i = first; i < last;) {
    Chunk& chunk = w.chunk;
    chunk.clear();
    do {
      const int length = batch.length(i);
      if (length > 0) chunk.add(batch.begin(i), length);
      i++;
    } while (i < last && chunk.num_tokens + batch.length(i) <= CHUNK_TOKENS);
    if (!chunk.num_tokens) continue;
    w.fit(e.shape);
    compute(e, w, weights, share, want_gradient, grads, fresh, logprobs);
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
int run_batch(Engine& e, const Batch& batch, const double* weights, double share, bool want_gradient,
              double* logprobs) {
  int64_t num_targets = 0;
  for (int64_t i = 0; i < batch.num_docs; i++) num_targets += batch.length(i);
  const int num_groups = count_groups(num_targets, batch.num_docs, want_gradient);
  const bool fresh = e.fresh;
  if (want_gradient) e.fresh = false;
  if (num_groups == 1) {
    FlushToZero flush;
    run_documents(e, *e.workspaces[0], batch, 0, batch.num_docs, weights, share, want_gradient,
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
      e.grads.push_back(std::make_unique<Buffer>());
      e.grads.back()->resize(e.layout.size);
    }
  e.threads().run(found, [&](int g, int thread) {
    FlushToZero flush;
    const int64_t before = targets_before[g];
    run_documents(e, *e.workspaces[thread], batch, firsts[g], firsts[g + 1],
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
    e.threads().run(num_pieces, piece);
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

// One vector of parameters: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p − η m̂ / (√v̂ + ε).
struct Adam {
  Real beta1, beta2, rest1, rest2, m_scale, v_scale, eps;

  Adam(const Engine& e, double learning_rate) {
    const double t = double(e.step + 1);
    beta1 = Real(e.beta1), beta2 = Real(e.beta2);
    rest1 = Real(1 - e.beta1), rest2 = Real(1 - e.beta2);
    const double v_correction = 1 / (1 - std::pow(e.beta2, t));
    const double root = is_float ? std::sqrt(v_correction) : 1;
    m_scale = Real(learning_rate / (1 - std::pow(e.beta1, t)) / root);
    v_scale = Real(v_correction);
    eps = Real(e.eps_adam / root);
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
    store(p, load(p) - quotient(m_scale * mean, root + eps));
  }
};

void adam_step(Engine& e, double learning_rate, int num_groups) {
  if (e.fresh) std::memset(e.grads[0]->data, 0, sizeof(Real) * e.layout.size);
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

// Samples side by side, one a lane: each keeps its own place in its document, and a lane whose
// document has ended takes the next sample. Keys and values go into a ring of the last block_size
// rounds, of which a lane looks at those since its document began.
constexpr int SIDE = 2 * L;

struct Sampler {
  const Engine& e;
  Workspace& w;
  Buffer keys, values, probs;  // keys and values: [layer][slot][feature][lane]
  int round = 0;
  std::vector<int> position = std::vector<int>(SIDE, -1);

  Sampler(const Engine& engine, Workspace& workspace) : e(engine), w(workspace) {
    const Shape& s = e.shape;
    w.fit(s, SIDE, 1);
    const size_t cache = size_t(s.n_layer) * s.block_size * s.n_embd * SIDE;
    keys.resize(cache);
    values.resize(cache);
    probs.resize(size_t(s.block_size) * L);
  }

  // Every lane reads w.chunk.inputs[lane] at position[lane]; the logits are then in w.logits.
  void push() {
    const Shape& s = e.shape;
    const Real* params = e.params.data;
    const int ldn = SIDE;
    w.columns = {SIDE, SIDE};
    const int slot = round++ % s.block_size;
    int depth = 1;
    for (int lane = 0; lane < SIDE; lane++) {
      w.chunk.positions[lane] = std::max(0, position[lane]);
      depth = std::max(depth, position[lane] + 1);
    }
    embed(e.layout, params, w.chunk, w.x.data, s.n_embd, w.columns);
    rmsnorm(s.n_embd, w.x.data, w.normed0.data, w.scale0.data, w.columns);
    std::memcpy(w.x.data, w.normed0.data, sizeof(Real) * s.n_embd * ldn);
    for (int i = 0; i < s.n_layer; i++) {
      auto& b = w.layers[i];
      const size_t row = size_t(s.n_embd) * ldn;
      Real* layer_keys = keys.data + size_t(i) * s.block_size * row;
      Real* layer_values = values.data + size_t(i) * s.block_size * row;
      rmsnorm(s.n_embd, w.x.data, b.normed1.data, b.scale1.data, w.columns);
      linear<Put::set>(3 * s.n_embd, e.layout.wqkv(i), params, b.normed1.data, b.qkv.data, w.columns);
      std::memcpy(layer_keys + slot * row, b.qkv.data + row, sizeof(Real) * row);
      std::memcpy(layer_values + slot * row, b.qkv.data + 2 * row, sizeof(Real) * row);
      const Real scale = Real(1) / std::sqrt(Real(s.head_dim));
      for (int h = 0; h < s.n_head; h++)
        for (int j = 0; j < ldn; j += L) {
          IntVec place;
          for (int l = 0; l < L; l++) place[l] = Int(position[j + l]);
          const size_t head = size_t(h) * s.head_dim * ldn + j;
          Vec largest = splat(-std::numeric_limits<Real>::infinity());
          for (int age = depth - 1; age >= 0; age--) {
            const Real* k = layer_keys + ((slot - age + s.block_size) % s.block_size) * row + head;
            Vec score = {};
            for (int c = 0; c < s.head_dim; c++)
              score += load(b.qkv.data + head + c * ldn) * load(k + c * ldn);
            score *= scale;
            score = place >= Int(age) ? score : splat(-std::numeric_limits<Real>::infinity());
            if (age == 0) score = place >= Int(0) ? score : Vec{};  // an idle lane
            store(probs.data + age * L, score);
            largest = vmax(score, largest);
          }
          Vec total = {};
          for (int age = depth - 1; age >= 0; age--) {
            const Vec p = vexp(load(probs.data + age * L) - largest);
            store(probs.data + age * L, p);
            total += p;
          }
          const Vec inverse = Real(1) / total;
          for (int age = depth - 1; age >= 0; age--)
            store(probs.data + age * L, load(probs.data + age * L) * inverse);
          for (int c = 0; c < s.head_dim; c++) {
            Vec sum = {};
            for (int age = depth - 1; age >= 0; age--) {
              const Real* v =
                  layer_values + ((slot - age + s.block_size) % s.block_size) * row + head;
              sum += load(probs.data + age * L) * load(v + c * ldn);
            }
            store(b.heads.data + head + c * ldn, sum);
          }
        }
      linear<Put::add>(s.n_embd, e.layout.wo(i), params, b.heads.data, w.x.data, w.columns);
      rmsnorm(s.n_embd, w.x.data, b.normed2.data, b.scale2.data, w.columns);
      linear<Put::relu>(s.n_hidden, e.layout.fc1(i), params, b.normed2.data, b.hidden.data, w.columns);
      linear<Put::add>(s.n_embd, e.layout.fc2(i), params, b.hidden.data, w.x.data, w.columns);
    }
    linear<Put::set>(s.vocab_size, e.layout.lm_head(), params, w.x.data, w.logits.data, w.columns);
  }

  // The next token of each lane, as `choose` in kamon/sampler.py: u is the draw of each lane.
  void choose(double temperature, const Real* u, int* tokens) {
    const int vocab_size = e.shape.vocab_size;
    const double scale = temperature > 1e-300 ? 1 / temperature : INFINITY;
    for (int j = 0; j < SIDE; j += L) {
      Vec top = load(w.logits.data + j);
      IntVec top_token = {};
      Vec size = {};
      for (int o = 0; o < vocab_size; o++) {
        const Vec logit = load(w.logits.data + ptrdiff_t(o) * SIDE + j);
        const auto better = logit > top;
        top_token = better ? IntVec{} + Int(o) : top_token;
        top = better ? logit : top;
        size = vmax(size, vmax(logit, -logit));
      }
      bool cold = false;
      for (int l = 0; l < L; l++) cold |= !(double(size[l]) * scale < 1e30);
      if (cold) {
        for (int l = 0; l < L; l++) tokens[j + l] = int(top_token[l]);
        continue;
      }
      Vec total = {};
      for (int o = 0; o < vocab_size; o++) {
        Real* at = w.logits.data + ptrdiff_t(o) * SIDE + j;
        total += vexp((load(at) - top) * Real(scale));
        store(at, total);
      }
      const Vec mark = load(u + j) * total;
      IntVec token = {};
      for (int o = 0; o < vocab_size - 1; o++)  // those whose running sum does not pass the mark
        token += (load(w.logits.data + ptrdiff_t(o) * SIDE + j) <= mark) ? IntVec{} + 1 : IntVec{};
      for (int l = 0; l < L; l++) tokens[j + l] = int(token[l]);
    }
  }
};

void sample_range(const Engine& e, Workspace& w, int64_t first, int64_t last, double temperature,
                  uint64_t seed, int bos, int32_t* tokens, int32_t* lengths) {
  FlushToZero flush;
  Sampler sampler(e, w);
  const int block_size = e.shape.block_size;
  std::vector<int64_t> index(SIDE, -1);
  std::vector<int> chosen(SIDE);
  std::vector<Real> u(SIDE);
  w.chunk.inputs.assign(SIDE, 0);
  w.chunk.positions.assign(SIDE, 0);
  w.chunk.num_tokens = SIDE;
  int64_t next = first, running = 0;
  const auto begin = [&](int lane) {
    index[lane] = next < last ? next++ : -1;
    sampler.position[lane] = index[lane] < 0 ? -1 : 0;
    w.chunk.inputs[lane] = bos;
    running += index[lane] >= 0;
  };
  for (int lane = 0; lane < SIDE; lane++) begin(lane);
  while (running) {
    sampler.push();
    for (int lane = 0; lane < SIDE; lane++)
      u[lane] = index[lane] < 0 ? Real(0)
                                : Real(uniform(seed, uint64_t(index[lane]),
                                               uint64_t(sampler.position[lane])));
    sampler.choose(temperature, u.data(), chosen.data());
    for (int lane = 0; lane < SIDE; lane++) {
      if (index[lane] < 0) continue;
      int& position = sampler.position[lane];
      const bool ends = chosen[lane] == bos;
      if (!ends) tokens[index[lane] * block_size + position++] = chosen[lane];
      if (ends || position == block_size) {
        lengths[index[lane]] = position;
        running--;
        begin(lane);
      } else {
        w.chunk.inputs[lane] = chosen[lane];
      }
    }
  }
}

// One document, token by token, in the first lane.
struct Decoder {
  Engine engine;  // a copy of the parameters of its moment
  Workspace workspace;
  std::unique_ptr<Sampler> sampler;
  explicit Decoder(const Engine& e)
      : engine(e.shape, e.beta1, e.beta2, e.eps_adam, 1) {
    std::memcpy(engine.params.data, e.params.data, sizeof(Real) * e.layout.size);
    sampler = std::make_unique<Sampler>(engine, workspace);
    workspace.chunk.inputs.assign(SIDE, 0);
    workspace.chunk.positions.assign(SIDE, 0);
    workspace.chunk.num_tokens = SIDE;
  }
};

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
#define API(name) \
  extern "C" __attribute__((visibility("default"))) auto KAMON_JOIN(name, KAMON_SUFFIX)

API(kamon_create)(int n_layer, int n_embd, int n_head, int block_size, int vocab_size, double beta1,
                  double beta2, double eps_adam, int num_threads)->void* {
  try {
    return new Engine(Shape{n_layer, n_embd, n_head, block_size, vocab_size}, beta1, beta2, eps_adam,
                      num_threads);
  } catch (const std::exception&) {
    return nullptr;
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

// weights: null for no gradient. Returns an Error.
API(kamon_batch)(void* engine, const int32_t* tokens, const int64_t* offsets, int64_t num_docs,
                 const double* weights, double* logprobs)->int {
  try {
    Engine& e = *static_cast<Engine*>(engine);
    const Batch batch{tokens, offsets, nullptr, num_docs};
    if (const Error error = check(e, batch, num_docs)) return error;
    const int num_groups = run_batch(e, batch, weights, 0, weights != nullptr, logprobs);
    if (weights && num_groups > 1) add_up(e, num_groups);
    return Error::none;
  } catch (const std::exception&) {
    return Error::memory;
  }
}

API(kamon_step)(void* engine, double learning_rate)->void {
  adam_step(*static_cast<Engine*>(engine), learning_rate, 1);
}

// num_steps steps of batch_size documents each, which `indices` names out of num_docs; stops behind
// the first loss that is not finite. Returns the number of losses, or an Error, negative.
API(kamon_train)(void* engine, const int32_t* tokens, const int64_t* offsets, int64_t num_docs,
                 const int64_t* indices, int64_t batch_size, int64_t num_steps,
                 const double* learning_rates, double* losses)->int64_t {
  try {
    Engine& e = *static_cast<Engine*>(engine);
    std::vector<double> logprobs;
    for (int64_t i = 0; i < num_steps; i++) {
      const Batch batch{tokens, offsets, indices + i * batch_size, batch_size};
      if (const Error error = check(e, batch, num_docs)) return -error;
      int64_t num_targets = 0;
      for (int64_t d = 0; d < batch_size; d++) num_targets += batch.length(d);
      const double share = 1 / double(num_targets);
      logprobs.resize(size_t(num_targets));
      const int num_groups = run_batch(e, batch, nullptr, share, true, logprobs.data());
      double total = 0;
      for (const double logprob : logprobs) total -= logprob;
      losses[i] = share * total;
      if (!std::isfinite(losses[i])) return i + 1;
      adam_step(e, learning_rates[i], num_groups);
    }
    return num_steps;
  } catch (const std::exception&) {
    return -Error::memory;
  }
}

// tokens: n rows of block_size; lengths: n.
API(kamon_sample)(void* engine, int64_t n, double temperature, uint64_t seed, int bos,
                  int32_t* tokens, int32_t* lengths)->int {
  try {
    Engine& e = *static_cast<Engine*>(engine);
    constexpr int64_t PIECE = 16 * SIDE;
    e.threads().run(int((n + PIECE - 1) / PIECE), [&](int piece, int thread) {
      sample_range(e, *e.workspaces[thread], piece * PIECE, std::min(n, (piece + 1) * PIECE),
                   temperature, seed, bos, tokens, lengths);
    });
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

API(kamon_decoder_push)(void* decoder, int token, double* logits)->void {
  FlushToZero flush;
  Decoder& d = *static_cast<Decoder*>(decoder);
  d.workspace.chunk.inputs[0] = token;
  d.sampler->position[0]++;
  d.sampler->push();
  for (int o = 0; o < d.engine.shape.vocab_size; o++)
    logits[o] = double(d.workspace.logits.data[ptrdiff_t(o) * SIDE]);
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
