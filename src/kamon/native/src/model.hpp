// The model on a chunk of packed documents: forward, and backward for weighted log-likelihoods.
//
// Every matrix of activations is [feature][token]: tokens stand side by side in the lanes, so
// that norms, softmaxes and attention are plain loops without a horizontal step, and a document of
// any length fills lanes. Rows are ldn numbers apart. What stands in the lanes behind the last token
// is finite and never read by another lane.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "philox.hpp"
#include "sparse_gemm.hpp"

namespace {

// Vectors of Real that start on a cache line and are zero at first.
struct Buffer {
  std::vector<Real> memory;
  Real* data = nullptr;
  size_t size = 0;
  Buffer() = default;
  Buffer(const Real* from, size_t n) {
    resize(n);
    std::memcpy(data, from, sizeof(Real) * n);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void resize(size_t n) {  // never shrinks; what was there is kept only while it fits
    if (n <= size) return;
    constexpr size_t line = 64 / sizeof(Real);
    memory.assign(n + 2 * line + L, Real(0));
    const size_t misplaced = reinterpret_cast<uintptr_t>(memory.data()) % 64 / sizeof(Real);
    data = memory.data() + (misplaced ? line - misplaced : 0);
    size = n;
  }
};

struct Shape {
  int n_layer, n_embd, n_head, block_size, vocab_size;
  int head_dim = n_embd / n_head, n_hidden = 4 * n_embd;
};

// Where each matrix of the parameters begins; its rows are padded with zeros to whole vectors.
struct Layout {
  struct Matrix {
    size_t begin;
    int num_rows, num_columns, ld;
    bool turned;  // a row for each input rather than for each output
  };
  std::vector<Matrix> matrices;  // in the order of `parameter_shapes`
  size_t size = 0;
  explicit Layout(const Shape& s) {
    const int c = s.n_embd;
    add(s.vocab_size, c);
    add(s.block_size, c);
    add(s.vocab_size, c);
    for (int i = 0; i < s.n_layer; i++) {
      for (int m = 0; m < 4; m++) add(c, c);
      add(4 * c, c);
      add(4 * c, c, true);  // as fc1: in both, a hidden unit that is 0 is a row that is passed over
    }
  }
  const Matrix& wte() const { return matrices[0]; }
  const Matrix& wpe() const { return matrices[1]; }
  const Matrix& lm_head() const { return matrices[2]; }
  // wq, wk and wv follow one another: together they are one (3 n_embd, n_embd)
  const Matrix& wqkv(int layer) const { return matrices[3 + 6 * layer]; }
  const Matrix& wo(int layer) const { return matrices[6 + 6 * layer]; }
  const Matrix& fc1(int layer) const { return matrices[7 + 6 * layer]; }
  const Matrix& fc2(int layer) const { return matrices[8 + 6 * layer]; }

 private:
  void add(int num_rows, int num_columns, bool turned = false) {
    const int ld = round_up(num_columns, L);
    matrices.push_back({size, num_rows, num_columns, ld, turned});
    size += size_t(num_rows) * ld;
  }
};

// Documents of one chunk: tokens that stand behind one another, each document its begin and length.
struct Chunk {
  struct Document {
    int begin, length;  // inputs: columns begin … begin + length − 1
  };
  std::vector<Document> documents;
  std::vector<int> inputs, targets, positions;  // of each token; no shorter than num_tokens
  std::vector<uint64_t> draws;                  // of each token's document: see Dropout
  int num_tokens = 0;
  void clear() {
    documents.clear();
    num_tokens = 0;
  }
  // The tokens of one more document, of which each but the last is an input.
  void add(const std::int32_t* tokens, int length, uint64_t draw) {
    documents.push_back({num_tokens, length});
    const size_t needed = size_t(num_tokens + length);
    for (auto* column : {&inputs, &targets, &positions})
      if (needed > column->size()) column->resize(needed);
    if (needed > draws.size()) draws.resize(needed);
    for (int n = 0; n < length; n++, num_tokens++) {
      inputs[num_tokens] = tokens[n];
      targets[num_tokens] = tokens[n + 1];
      positions[num_tokens] = n;
      draws[num_tokens] = draw;
    }
  }
};

// The columns of an activation: as many as there are tokens, rounded up to half a vector; and from one
// row to the next, where a last document's vectors may need some room behind.
struct Columns {
  int width, ldn;
};

// How many numbers the weights of attention of a document of T tokens take: see `attention`.
inline size_t probs_size(const Shape& s, int T) {
  const size_t num_blocks = size_t((T + L - 1) / L);
  return s.n_head * num_blocks * (num_blocks + 1) / 2 * L * L;
}

// Memory for one chunk, kept from call to call.
struct Workspace {
  struct LayerBuffers {
    Buffer normed1, scale1, qkv, probs, heads, normed2, scale2, hidden, mask1, mask2;
    Bits by_unit, by_token;  // which hidden units are above 0
    bool sparse = false;     // whether they are few
  };
  std::vector<LayerBuffers> layers;
  Buffer x, scale0, normed0, mask0, branch, logits, dx, dnormed, dqkv, dheads, dhidden, transposed, rows,
      lanes, scores, blocks, weights;
  Chunk chunk;
  Columns columns{0, 0};

  // Room for what `chunk` holds.
  void fit(const Shape& s) {
    fit(s, chunk.num_tokens, int(chunk.documents.size()));
    size_t size = 0;
    for (const auto& doc : chunk.documents) size += probs_size(s, doc.length);
    for (auto& layer : layers) layer.probs.resize(size);
  }
  void fit(const Shape& s, int num_tokens, int num_docs) {
    const int c = round_up(s.n_embd, L), f = round_up(4 * s.n_embd, L);
    const int wanted = round_up(num_tokens + (num_docs > 1 ? L : 0), L);
    const bool grows = wanted > capacity;
    columns = {round_up(num_tokens, HALF), wanted};
    if (layers.empty()) layers = std::vector<LayerBuffers>(s.n_layer);
    if (grows) {
      const size_t n = wanted;
      for (auto& layer : layers) {
        layer.normed1.resize(c * n);
        layer.scale1.resize(n);
        layer.qkv.resize((3 * s.n_embd + L) * n);
        layer.heads.resize(c * n);
        layer.normed2.resize(c * n);
        layer.scale2.resize(n);
        layer.hidden.resize(f * n);
      }
      for (Buffer* b : {&x, &normed0, &branch, &dx, &dnormed, &dheads, &transposed, &rows}) b->resize(c * n);
      for (Buffer* b : {&scale0, &weights}) b->resize(n);
      lanes.resize(3 * n);
      logits.resize(size_t(round_up(s.vocab_size, L)) * n);
      dqkv.resize((3 * s.n_embd + L) * n);
      dhidden.resize(f * n);
      capacity = wanted;  // now, for each of these may throw
    }
  }

 private:
  int capacity = 0;
};

// y = x · (mean(x²) + 1e-5)^−½ for each token; `scale` keeps the second factor.
inline void rmsnorm(int n_embd, const Real* x, Real* y, Real* scale, Columns columns) {
  const int ldn = columns.ldn;
  for (int j = 0; j < columns.width; j += L) {
    Vec sum = {};
    for (int c = 0; c < n_embd; c++) {
      const Vec v = load(x + c * ldn + j);
      sum += v * v;
    }
    const Vec s = Real(1) / vsqrt(sum * (Real(1) / Real(n_embd)) + Real(1e-5));
    store(scale + j, s);
    for (int c = 0; c < n_embd; c++) store(y + c * ldn + j, load(x + c * ldn + j) * s);
  }
}

// dx (+)= scale · (dy − y · mean(dy · y)): the derivative of the above.
template <bool add>
void rmsnorm_backward(int n_embd, const Real* dy, const Real* y, const Real* scale,
                                   Real* dx, Columns columns) {
  const int ldn = columns.ldn;
  for (int j = 0; j < columns.width; j += L) {
    Vec sum = {};
    for (int c = 0; c < n_embd; c++) sum += load(dy + c * ldn + j) * load(y + c * ldn + j);
    const Vec mean = sum * (Real(1) / Real(n_embd));
    const Vec s = load(scale + j);
    for (int c = 0; c < n_embd; c++) {
      const Vec d = s * (load(dy + c * ldn + j) - load(y + c * ldn + j) * mean);
      Real* to = dx + c * ldn + j;
      store(to, add ? load(to) + d : d);
    }
  }
}

// Keys are taken BLOCK at a time, queries L; the last block may reach behind the document. Loops over a
// constant number of keys have no branch to mispredict, and their sums stay in registers.
constexpr int BLOCK = L < 4 ? L : 4;

// sum[n] += Σ_i a[i][lane] · b[i][n]: products of L queries in the lanes with BLOCK keys.
KAMON_INLINE void products(int head_dim, const Real* a, const Real* b, int ldn, Vec (&sum)[BLOCK]) {
  for (int i = 0; i < head_dim; i++) {
    const Vec lanes = load(a + ptrdiff_t(i) * ldn);
    for (int n = 0; n < BLOCK; n++) sum[n] += lanes * b[ptrdiff_t(i) * ldn + n];
  }
}

// out[i][lane] = Σ_n weights[n][lane] · values[i][n] for each feature i; n in order, up to a whole BLOCK.
inline void mix(int head_dim, int num_n, const Real* weights, const Real* values, Real* out, int ldn) {
  constexpr int FEATURES = 4;
  int i = 0;
  for (; i + FEATURES <= head_dim; i += FEATURES) {
    Vec sum[FEATURES] = {};
    for (int n0 = 0; n0 < num_n; n0 += BLOCK)
      for (int n = n0; n < n0 + BLOCK; n++) {
        const Vec weight = load(weights + n * L);
        for (int f = 0; f < FEATURES; f++) sum[f] += weight * values[ptrdiff_t(i + f) * ldn + n];
      }
    for (int f = 0; f < FEATURES; f++) store(out + ptrdiff_t(i + f) * ldn, sum[f]);
  }
  for (; i < head_dim; i++) {
    Vec sum = {};
    for (int n0 = 0; n0 < num_n; n0 += BLOCK)
      for (int n = n0; n < n0 + BLOCK; n++)
        sum += load(weights + n * L) * values[ptrdiff_t(i) * ldn + n];
    store(out + ptrdiff_t(i) * ldn, sum);
  }
}

// Attention of one document of T tokens from column `begin` on. What reaches behind the document: as
// keys, it has weight 0; what is written for queries there belongs to the next document, which
// writes it anew, for documents go in order.
// probs: for each head, for each L queries, the weights of the keys 0 … from + L − 1, L queries each.
inline void attention(const Shape& d, const Real* qkv, Real* heads, Real* probs, int begin, int T,
                      int ldn) {
  const ptrdiff_t matrix = ptrdiff_t(d.n_embd) * ldn;
  const Real scale = Real(1) / std::sqrt(Real(d.head_dim));
  const Vec unseen = splat(-std::numeric_limits<Real>::infinity());
  for (int h = 0; h < d.n_head; h++) {
    const ptrdiff_t head = ptrdiff_t(h) * d.head_dim * ldn + begin;
    const Real *q = qkv + head, *k = q + matrix, *v = k + matrix;
    for (int from = 0; from < T; from += L) {
      const int num_keys = std::min(from + L, round_up(T, BLOCK));
      Vec largest = unseen;
      for (int key = 0; key < num_keys; key += BLOCK) {
        Vec score[BLOCK] = {};
        products(d.head_dim, q + from, k + key, ldn, score);
        for (int n = 0; n < BLOCK; n++) {
          score[n] *= scale;
          if (key >= from) score[n] = iota() >= Int(key - from + n) ? score[n] : unseen;
          store(probs + (key + n) * L, score[n]);
          largest = vmax(score[n], largest);
        }
      }
      Vec total = {};
      for (int key = 0; key < num_keys; key += BLOCK)
        for (int n = key; n < key + BLOCK; n++) {
          const Vec e = vexp(load(probs + n * L) - largest);
          store(probs + n * L, e);
          total += e;
        }
      const Vec inverse = Real(1) / total;
      for (int key = 0; key < num_keys; key += BLOCK)
        for (int n = key; n < key + BLOCK; n++) store(probs + n * L, load(probs + n * L) * inverse);
      mix(d.head_dim, num_keys, probs, v, heads + head + from, ldn);
      probs += ptrdiff_t(from + L) * L;
    }
  }
}

inline void attention_backward(const Shape& d, const Real* qkv, const Real* dheads, Real* dqkv,
                               const Real* probs, int begin, int T, int ldn, Workspace& w) {
  const ptrdiff_t matrix = ptrdiff_t(d.n_embd) * ldn;
  const Real scale = Real(1) / std::sqrt(Real(d.head_dim));
  const ptrdiff_t padded = round_up(T, L);
  w.scores.resize(probs_size(d, T) / d.n_head);
  w.blocks.resize(size_t(2 * padded * L));
  for (int h = 0; h < d.n_head; h++) {
    const ptrdiff_t head = ptrdiff_t(h) * d.head_dim * ldn + begin;
    const Real *q = qkv + head, *k = q + matrix, *v = k + matrix, *dout = dheads + head;
    Real *dq = dqkv + head, *dk = dq + matrix, *dv = dk + matrix;
    // d score, laid out as `probs`
    const Real* p = probs;
    Real* ds = w.scores.data;
    for (int from = 0; from < T; from += L) {
      const int num_keys = std::min(from + L, round_up(T, BLOCK));
      Vec mean = {};
      for (int key = 0; key < num_keys; key += BLOCK) {
        Vec dp[BLOCK] = {};
        products(d.head_dim, dout + from, v + key, ldn, dp);
        for (int n = 0; n < BLOCK; n++) {
          store(ds + (key + n) * L, dp[n]);
          mean += dp[n] * load(p + (key + n) * L);
        }
      }
      for (int key = 0; key < num_keys; key += BLOCK)
        for (int n = key; n < key + BLOCK; n++)
          store(ds + n * L, load(p + n * L) * (load(ds + n * L) - mean) * scale);
      mix(d.head_dim, num_keys, ds, k, dq + from, ldn);
      p += ptrdiff_t(from + L) * L;
      ds += ptrdiff_t(from + L) * L;
    }
    // For the keys, queries and keys change places: L keys in the lanes, the queries in order.
    Real* ds_by_query = w.blocks.data;
    Real* p_by_query = ds_by_query + padded * L;
    for (int key = 0; key < T; key += L) {
      for (int from = key; from < T; from += L) {
        const ptrdiff_t block = ptrdiff_t(from) * (from + L) / 2 + ptrdiff_t(key) * L;
        const ptrdiff_t to = ptrdiff_t(from - key) * L;
        const auto turn = [=](const Real* by_key, Real* by_query) {
          transpose(T - key, T - from, [=](int n) { return by_key + n * L; }, by_query, L);
        };
        turn(w.scores.data + block, ds_by_query + to);
        turn(probs + block, p_by_query + to);
      }
      const int num_queries = round_up(T - key, BLOCK);
      mix(d.head_dim, num_queries, ds_by_query, q + key, dk + key, ldn);
      mix(d.head_dim, num_queries, p_by_query, dout + key, dv + key, ldn);
    }
    probs = p;
  }
}

// Token and position embeddings of a chunk, transposed into columns; columns without a token are 0.
inline void embed(const Layout& layout, const Real* params, const Chunk& chunk, Real* x, int n_embd,
                  Columns columns) {
  const Real* wte = params + layout.wte().begin;
  const Real* wpe = params + layout.wpe().begin;
  const int ld = layout.wte().ld;
  for (int n = 0; n < columns.width; n += L) {
    const int num_rows = std::min(L, chunk.num_tokens - n);
    for (int c = 0; c < n_embd; c += L) {
      alignas(64) Real sums[L * L];
      for (int i = 0; i < num_rows; i++)
        store(sums + i * L, load(wte + ptrdiff_t(chunk.inputs[n + i]) * ld + c) +
                                load(wpe + ptrdiff_t(chunk.positions[n + i]) * ld + c));
      transpose(num_rows, L, [&](int i) { return sums + i * L; }, x + c * columns.ldn + n, columns.ldn);
    }
  }
}

inline void embed_backward(const Layout& layout, Real* grads, bool fresh, const Chunk& chunk,
                           const Real* dx, int n_embd, int ldn) {
  Real* wte = grads + layout.wte().begin;
  Real* wpe = grads + layout.wpe().begin;
  if (fresh) std::memset(wte, 0, sizeof(Real) * (layout.lm_head().begin - layout.wte().begin));
  const int ld = layout.wte().ld;
  for (int n = 0; n < chunk.num_tokens; n += L) {
    const int num_cols = std::min(L, chunk.num_tokens - n);
    for (int c = 0; c < n_embd; c += L) {
      alignas(64) Real rows[L * L];
      const Real* from = dx + c * ldn + n;
      transpose(L, num_cols, [=](int i) { return from + i * ldn; }, rows, L);
      for (int i = 0; i < num_cols; i++) {
        Real* token = wte + ptrdiff_t(chunk.inputs[n + i]) * ld + c;
        Real* position = wpe + ptrdiff_t(chunk.positions[n + i]) * ld + c;
        store(token, load(token) + load(rows + i * L));
        store(position, load(position) + load(rows + i * L));
      }
    }
  }
}

// Logits to probabilities in place, column by column. lanes: the largest logit and the total of each.
inline void softmax(Real* logits, int vocab_size, Real* largest, Real* total, Columns columns) {
  const int ldn = columns.ldn;
  for (int j = 0; j < columns.width; j += L) {
    Vec top = load(logits + j);
    for (int o = 1; o < vocab_size; o++) top = vmax(load(logits + ptrdiff_t(o) * ldn + j), top);
    Vec sum = {};
    for (int o = 0; o < vocab_size; o++) {
      Real* at = logits + ptrdiff_t(o) * ldn + j;
      const Vec e = vexp(load(at) - top);
      store(at, e);
      sum += e;
    }
    const Vec inverse = Real(1) / sum;
    for (int o = 0; o < vocab_size; o++) {
      Real* at = logits + ptrdiff_t(o) * ldn + j;
      store(at, load(at) * inverse);
    }
    store(largest + j, top);
    store(total + j, sum);
  }
}

// out = W in for each token; of n_out rows, which are those of several matrices in the case of wqkv.
template <Put put>
void linear(int n_out, const Layout::Matrix& m, const Real* params, const Real* in, Real* out,
            Columns columns) {
  const int ldn = columns.ldn;
  const auto product = m.turned ? gemm<put, A::by_column> : gemm<put, A::by_row>;
  product(n_out, m.turned ? m.num_rows : m.num_columns, columns.width, params + m.begin, m.ld, in, ldn,
          out, ldn);
}

// rows[token][feature] = in[feature][token], and back; the features are padded to whole vectors.
inline void to_rows(int num_features, int num_tokens, const Real* in, int ldn, Real* rows, int ld) {
  for (int n = 0; n < num_tokens; n += L)
    for (int i = 0; i < num_features; i += L)
      transpose(num_features - i, num_tokens - n, [=](int r) { return in + ptrdiff_t(i + r) * ldn + n; },
                rows + ptrdiff_t(n) * ld + i, ld);
}
inline void from_rows(int num_features, int num_tokens, const Real* rows, int ld, Real* out, int ldn) {
  for (int n = 0; n < num_tokens; n += L)
    for (int i = 0; i < num_features; i += L)
      transpose(num_tokens - n, num_features - i, [=](int r) { return rows + ptrdiff_t(n + r) * ld + i; },
                out + ptrdiff_t(i) * ldn + n, ldn);
}

// What a training step leaves out: kamon/dropout.py says of what and by which draws.
struct Dropout {
  double rate;
  uint64_t seed;

  // Room for the masks of a chunk.
  static void fit(const Shape& s, Workspace& w) {
    const size_t size = size_t(round_up(s.n_embd, L)) * w.columns.ldn;
    w.mask0.resize(size);
    for (auto& layer : w.layers)
      for (Buffer* b : {&layer.mask1, &layer.mask2}) b->resize(size);
  }

  // The factors of one site, as the activations lie: 0, or what keeps the mean.
  void fill(Real* mask, int site, int n_embd, const Chunk& chunk, Columns columns) const {
    const uint64_t below = uint64_t(rate * 0x1p32);
    const Real scale = Real(1 / (1 - rate));
    const int groups = (n_embd + 3) / 4;
    for (int n = 0; n < chunk.num_tokens; n += L)
      for (int g = 0; g < groups; g++) {
        uint64_t word[4][L];
        for (int l = 0; l < L; l++) {
          const int token = std::min(n + l, chunk.num_tokens - 1);
          word[0][l] = uint64_t(site) * groups + g;
          word[1][l] = uint64_t(chunk.positions[token]);
          word[2][l] = chunk.draws[token] & 0xFFFFFFFF;
          word[3][l] = chunk.draws[token] >> 32;
        }
        philox4x32<L>(word[0], word[1], word[2], word[3], (seed & 0xFFFFFFFF) ^ 0x64726F70,
                      seed >> 32);
        for (int i = 0; i < std::min(4, n_embd - 4 * g); i++)
          for (int l = 0; l < L; l++)
            mask[ptrdiff_t(4 * g + i) * columns.ldn + n + l] = word[i][l] < below ? Real(0) : scale;
      }
  }
};

// out = a · b, number by number.
inline void multiply(const Real* a, const Real* b, Real* out, size_t size) {
  for (size_t i = 0; i < size; i += L) store(out + i, load(a + i) * load(b + i));
}

// x += mask · (W in), or without a mask x += W in. by_token: where `in` is above 0, if it is 0 elsewhere.
inline void add_branch(int n_out, const Layout::Matrix& m, const Real* params, const Real* in,
                       const Bits* by_token, const Real* mask, Workspace& w) {
  if (by_token) {
    const int num_tokens = w.chunk.num_tokens, ldn = w.columns.ldn;
    sparse_gemm<Put::set, A::by_column>(num_tokens, *by_token, m.ld, in, ldn, params + m.begin, m.ld,
                                        w.rows.data, m.ld);
    from_rows(n_out, num_tokens, w.rows.data, m.ld, w.branch.data, ldn);
  } else if (mask) {
    linear<Put::set>(n_out, m, params, in, w.branch.data, w.columns);
  } else {
    return linear<Put::add>(n_out, m, params, in, w.x.data, w.columns);
  }
  const size_t size = size_t(n_out) * w.columns.ldn;
  for (size_t i = 0; i < size; i += L) {
    const Vec branch = load(w.branch.data + i);
    store(w.x.data + i, load(w.x.data + i) + (mask ? load(mask + i) * branch : branch));
  }
}

// Forward through all layers; w.logits then holds the logits. Keeps what backward needs.
// dropout: null where nothing is left out.
inline void forward(const Shape& s, const Layout& layout, const Real* params, Workspace& w,
                    const Dropout* dropout) {
  const int ldn = w.columns.ldn;
  embed(layout, params, w.chunk, w.x.data, s.n_embd, w.columns);
  rmsnorm(s.n_embd, w.x.data, w.normed0.data, w.scale0.data, w.columns);
  if (dropout) {
    Dropout::fit(s, w);
    dropout->fill(w.mask0.data, 0, s.n_embd, w.chunk, w.columns);
    multiply(w.normed0.data, w.mask0.data, w.x.data, size_t(s.n_embd) * ldn);
  } else {
    std::memcpy(w.x.data, w.normed0.data, sizeof(Real) * s.n_embd * ldn);
  }
  for (int i = 0; i < s.n_layer; i++) {
    auto& b = w.layers[i];
    if (dropout) {
      dropout->fill(b.mask1.data, 2 * i + 1, s.n_embd, w.chunk, w.columns);
      dropout->fill(b.mask2.data, 2 * i + 2, s.n_embd, w.chunk, w.columns);
    }
    rmsnorm(s.n_embd, w.x.data, b.normed1.data, b.scale1.data, w.columns);
    linear<Put::set>(3 * s.n_embd, layout.wqkv(i), params, b.normed1.data, b.qkv.data, w.columns);
    Real* probs = b.probs.data;
    for (const auto& doc : w.chunk.documents) {
      attention(s, b.qkv.data, b.heads.data, probs, doc.begin, doc.length, ldn);
      probs += probs_size(s, doc.length);
    }
    const Real* mask1 = dropout ? b.mask1.data : nullptr;
    const Real* mask2 = dropout ? b.mask2.data : nullptr;
    add_branch(s.n_embd, layout.wo(i), params, b.heads.data, nullptr, mask1, w);
    rmsnorm(s.n_embd, w.x.data, b.normed2.data, b.scale2.data, w.columns);
    linear<Put::relu>(s.n_hidden, layout.fc1(i), params, b.normed2.data, b.hidden.data, w.columns);
    b.sparse = find_positive(b.hidden.data, s.n_hidden, w.chunk.num_tokens, ldn, layout.fc2(i).ld,
                             b.by_unit, b.by_token);
    add_branch(s.n_embd, layout.fc2(i), params, b.hidden.data, b.sparse ? &b.by_token : nullptr, mask2, w);
  }
  linear<Put::set>(s.vocab_size, layout.lm_head(), params, w.x.data, w.logits.data, w.columns);
}

// Backward from w.logits, which holds d loss / d logit. Adds to grads, or where they are `fresh` sets
// them, whatever they hold.
inline void backward(const Shape& s, const Layout& layout, const Real* params, Real* grads, bool fresh,
                     Workspace& w, const Dropout* dropout) {
  const int ldn = w.columns.ldn, num_tokens = w.chunk.num_tokens;
  // gradient of the input: the weights, turned, against the gradient of the output
  const auto input_gradient = [&](int n_out, int n_in, const Layout::Matrix& m, const Real* dout,
                                  Real* din) {
    const auto product = m.turned ? gemm<Put::set, A::by_row> : gemm<Put::set, A::by_column>;
    product(n_in, n_out, w.columns.width, params + m.begin, m.ld, dout, ldn, din, ldn);
  };
  // gradient of the weights: over all tokens, row r against column c. skip: where `row` counts, if not everywhere
  const auto weight_gradient = [&](int num_rows, const Layout::Matrix& m, const Real* row, const Real* column,
                                   const Bits* skip) {
    Real* turned = w.transposed.data;
    Real* to = grads + m.begin;
    to_rows(m.num_columns, num_tokens, column, ldn, turned, m.ld);
    if (skip) {
      const auto put = fresh ? sparse_gemm<Put::set, A::by_row> : sparse_gemm<Put::add, A::by_row>;
      put(num_rows, *skip, m.ld, row, ldn, turned, m.ld, to, m.ld);
    } else {
      const auto put = fresh ? gemm<Put::set, A::by_row> : gemm<Put::add, A::by_row>;
      put(num_rows, num_tokens, m.ld, row, ldn, turned, m.ld, to, m.ld);
    }
  };
  // the gradient of what a mask let through
  const auto masked = [&](const Real* mask) -> const Real* {
    if (!dropout) return w.dx.data;
    multiply(w.dx.data, mask, w.branch.data, size_t(s.n_embd) * ldn);
    return w.branch.data;
  };
  weight_gradient(s.vocab_size, layout.lm_head(), w.logits.data, w.x.data, nullptr);
  input_gradient(s.vocab_size, s.n_embd, layout.lm_head(), w.logits.data, w.dx.data);
  for (int i = s.n_layer - 1; i >= 0; i--) {
    auto& b = w.layers[i];
    const Real* dbranch = masked(b.mask2.data);
    const Bits* by_unit = b.sparse ? &b.by_unit : nullptr;
    weight_gradient(s.n_hidden, layout.fc2(i), b.hidden.data, dbranch, by_unit);
    input_gradient(s.n_embd, s.n_hidden, layout.fc2(i), dbranch, w.dhidden.data);
    if (b.sparse) {
      const auto& m = layout.fc1(i);
      sparse_gemm<Put::set, A::by_column>(num_tokens, b.by_token, m.ld, w.dhidden.data, ldn,
                                          params + m.begin, m.ld, w.rows.data, m.ld);
      from_rows(s.n_embd, num_tokens, w.rows.data, m.ld, w.dnormed.data, ldn);
    } else {
      for (int at = 0; at < s.n_hidden * ldn; at += L)
        store(w.dhidden.data + at,
              load(b.hidden.data + at) > Real(0) ? load(w.dhidden.data + at) : Vec{});
      input_gradient(s.n_hidden, s.n_embd, layout.fc1(i), w.dhidden.data, w.dnormed.data);
    }
    weight_gradient(s.n_hidden, layout.fc1(i), w.dhidden.data, b.normed2.data, by_unit);
    rmsnorm_backward<true>(s.n_embd, w.dnormed.data, b.normed2.data, b.scale2.data, w.dx.data, w.columns);

    dbranch = masked(b.mask1.data);
    weight_gradient(s.n_embd, layout.wo(i), dbranch, b.heads.data, nullptr);
    input_gradient(s.n_embd, s.n_embd, layout.wo(i), dbranch, w.dheads.data);
    const Real* probs = b.probs.data;
    for (const auto& doc : w.chunk.documents) {
      attention_backward(s, b.qkv.data, w.dheads.data, w.dqkv.data, probs, doc.begin, doc.length,
                         ldn, w);
      probs += probs_size(s, doc.length);
    }
    weight_gradient(3 * s.n_embd, layout.wqkv(i), w.dqkv.data, b.normed1.data, nullptr);
    input_gradient(3 * s.n_embd, s.n_embd, layout.wqkv(i), w.dqkv.data, w.dnormed.data);
    rmsnorm_backward<true>(s.n_embd, w.dnormed.data, b.normed1.data, b.scale1.data, w.dx.data, w.columns);
  }
  rmsnorm_backward<false>(s.n_embd, masked(w.mask0.data), w.normed0.data, w.scale0.data, w.dnormed.data, w.columns);
  embed_backward(layout, grads, fresh, w.chunk, w.dnormed.data, s.n_embd, ldn);
}

}  // namespace
