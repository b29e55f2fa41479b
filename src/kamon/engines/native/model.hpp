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

#include "gemm.hpp"

namespace {

// Vectors of Real that start on a cache line and are zero at first.
struct Buffer {
  std::vector<Real> memory;
  Real* data = nullptr;
  size_t size = 0;
  Buffer() = default;
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
    int n_out, n_in, ld;
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
      add(c, 4 * c);
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
  void add(int n_out, int n_in) {
    const int ld = round_up(n_in, L);
    matrices.push_back({size, n_out, n_in, ld});
    size += size_t(n_out) * ld;
  }
};

// Documents of one chunk: tokens that stand behind one another, each document its begin and length.
struct Chunk {
  struct Document {
    int begin, length;  // inputs: columns begin … begin + length − 1
  };
  std::vector<Document> documents;
  std::vector<int> inputs, targets, positions;
  std::vector<double> weights;  // of each target; empty where no gradient is wanted
  void clear() {
    documents.clear();
    inputs.clear();
    targets.clear();
    positions.clear();
    weights.clear();
  }
  int num_tokens() const { return int(inputs.size()); }
};

// The columns of an activation: as many as there are tokens, rounded up to whole vectors; and from
// one row to the next, where a last document's vectors may need some room behind.
struct Columns {
  int width, ldn;
};

// Memory for one chunk, kept from call to call.
struct Workspace {
  struct LayerBuffers {
    Buffer normed1, scale1, qkv, probs, heads, normed2, scale2, hidden;
  };
  std::vector<LayerBuffers> layers;
  Buffer x, scale0, normed0, logits, dx, dnormed, dqkv, dheads, dhidden, transposed, lanes, rows,
      scores, blocks, weights;
  Chunk chunk;
  Columns columns{0, 0};

  void fit(const Shape& s, int num_tokens, int num_docs, size_t probs_size) {
    const int c = round_up(s.n_embd, L), f = round_up(4 * s.n_embd, L);
    const int wanted = round_up(num_tokens + (num_docs > 1 ? L : 0), L);
    const bool grows = wanted > capacity;
    if (grows) capacity = wanted;
    columns = {round_up(num_tokens, L), wanted};
    if (layers.empty()) layers = std::vector<LayerBuffers>(s.n_layer);
    if (grows) {
      const size_t n = capacity;
      for (auto& layer : layers) {
        layer.normed1.resize(c * n);
        layer.scale1.resize(n);
        layer.qkv.resize((3 * s.n_embd + L) * n);
        layer.heads.resize(c * n);
        layer.normed2.resize(c * n);
        layer.scale2.resize(n);
        layer.hidden.resize(f * n);
      }
      for (Buffer* b : {&x, &normed0, &dx, &dnormed, &dheads}) b->resize(c * n);
      for (Buffer* b : {&scale0, &weights}) b->resize(n);
      lanes.resize(3 * n);
      logits.resize(size_t(round_up(s.vocab_size, L)) * n);
      dqkv.resize((3 * s.n_embd + L) * n);
      dhidden.resize(f * n);
      transposed.resize(size_t(f) * (n + L));
      rows.resize(c);
    }
    for (auto& layer : layers) layer.probs.resize(probs_size);
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

// Attention of one document of T tokens from column `begin` on. A document's last vector of lanes may
// reach into the next document's columns, which are then written anew: documents go in order.
// probs: for each head and each vector of queries the weights of keys 0 … T − 1, L queries each.
inline void attention(const Shape& d, const Real* qkv, Real* heads, Real* probs, int begin, int T,
                            int ldn) {
  const Real* q = qkv + begin;
  const Real* k = q + d.n_embd * ldn;
  const Real* v = k + d.n_embd * ldn;
  const Real scale = Real(1) / std::sqrt(Real(d.head_dim));
  for (int h = 0; h < d.n_head; h++)
    for (int from = 0; from < T; from += L) {
      const int num_keys = std::min(T, from + L);
      const ptrdiff_t head = ptrdiff_t(h) * d.head_dim * ldn;
      Vec largest = splat(-std::numeric_limits<Real>::infinity());
      for (int key = 0; key < num_keys; key++) {
        Vec score = {};
        for (int i = 0; i < d.head_dim; i++)
          score += load(q + head + i * ldn + from) * k[head + i * ldn + key];
        score *= scale;
        if (key > from)  // the lanes before the key do not see it
          score = (iota() + Int(from) >= Int(key)) ? score
                                                  : splat(-std::numeric_limits<Real>::infinity());
        store(probs + key * L, score);
        largest = vmax(score, largest);
      }
      Vec total = {};
      for (int key = 0; key < num_keys; key++) {
        const Vec e = vexp(load(probs + key * L) - largest);
        store(probs + key * L, e);
        total += e;
      }
      const Vec inverse = Real(1) / total;
      for (int key = 0; key < num_keys; key++)
        store(probs + key * L, load(probs + key * L) * inverse);
      for (int i = 0; i < d.head_dim; i++) {
        Vec sum = {};
        for (int key = 0; key < num_keys; key++)
          sum += load(probs + key * L) * v[head + i * ldn + key];
        store(heads + head + i * ldn + begin + from, sum);
      }
      probs += ptrdiff_t(T) * L;
    }
}

inline void attention_backward(const Shape& d, const Real* qkv, const Real* dheads, Real* dqkv,
                                     const Real* probs, int begin, int T, int ldn, Workspace& w) {
  const int C = d.n_embd;
  const Real* q = qkv + begin;
  const Real* k = q + C * ldn;
  const Real* v = k + C * ldn;
  Real* dq = dqkv + begin;
  Real* dk = dq + C * ldn;
  Real* dv = dk + C * ldn;
  const Real* dout = dheads + begin;
  const Real scale = Real(1) / std::sqrt(Real(d.head_dim));
  const int padded = round_up(T, L);
  w.scores.resize(size_t(padded) * padded);
  w.blocks.resize(size_t(2) * padded * L);
  for (int h = 0; h < d.n_head; h++) {
    const ptrdiff_t head = ptrdiff_t(h) * d.head_dim * ldn;
    // d score, as `probs`: for each vector of queries all keys, L queries each
    for (int from = 0; from < T; from += L) {
      const int num_keys = std::min(T, from + L);
      const Real* p = probs + ptrdiff_t(from / L) * T * L;
      Real* ds = w.scores.data + ptrdiff_t(from / L) * padded * L;
      Vec mean = {};
      for (int key = 0; key < num_keys; key++) {
        Vec dp = {};
        for (int i = 0; i < d.head_dim; i++)
          dp += load(dout + head + i * ldn + from) * v[head + i * ldn + key];
        store(ds + key * L, dp);
        mean += dp * load(p + key * L);
      }
      for (int key = 0; key < num_keys; key++)
        store(ds + key * L, load(p + key * L) * (load(ds + key * L) - mean) * scale);
      for (int i = 0; i < d.head_dim; i++) {
        Vec sum = {};
        for (int key = 0; key < num_keys; key++)
          sum += load(ds + key * L) * k[head + i * ldn + key];
        store(dq + head + i * ldn + from, sum);
      }
    }
    // For the keys, queries and keys change places: L keys in the lanes, the queries in order.
    for (int key0 = 0; key0 < T; key0 += L) {
      const int num_keys = std::min(L, T - key0);
      Real* ds_by_query = w.blocks.data;
      Real* p_by_query = w.blocks.data + ptrdiff_t(padded) * L;
      for (int from = key0; from < T; from += L) {
        const Real* p = probs + (ptrdiff_t(from / L) * T + key0) * L;
        const Real* ds = w.scores.data + (ptrdiff_t(from / L) * padded + key0) * L;
        Vec rows[L];
        for (int i = 0; i < L; i++) rows[i] = i < num_keys ? load(ds + i * L) : Vec{};
        transpose(rows);
        for (int i = 0; i < L; i++) store(ds_by_query + (from + i) * L, rows[i]);
        for (int i = 0; i < L; i++) rows[i] = i < num_keys ? load(p + i * L) : Vec{};
        transpose(rows);
        for (int i = 0; i < L; i++) store(p_by_query + (from + i) * L, rows[i]);
      }
      for (int i = 0; i < d.head_dim; i++) {
        Vec sum_k = {}, sum_v = {};
        for (int query = key0; query < T; query++) {
          sum_k += load(ds_by_query + query * L) * q[head + i * ldn + query];
          sum_v += load(p_by_query + query * L) * dout[head + i * ldn + query];
        }
        store(dk + head + i * ldn + key0, sum_k);
        store(dv + head + i * ldn + key0, sum_v);
      }
    }
    probs += ptrdiff_t(padded / L) * T * L;
  }
}

// Token and position embeddings of a chunk, transposed into columns; columns without a token are 0.
inline void embed(const Layout& layout, const Real* params, const Chunk& chunk, Real* zeros, Real* x,
                  int n_embd, Columns columns) {
  const int ldn = columns.ldn;
  const Real* wte = params + layout.wte().begin;
  const Real* wpe = params + layout.wpe().begin;
  const int ld = layout.wte().ld;
  const int num_tokens = chunk.num_tokens();
  for (int n = 0; n < columns.width; n += L)
    for (int c = 0; c < n_embd; c += L) {
      Vec rows[L];
      for (int i = 0; i < L; i++)
        rows[i] = n + i < num_tokens ? load(wte + ptrdiff_t(chunk.inputs[n + i]) * ld + c) +
                                           load(wpe + ptrdiff_t(chunk.positions[n + i]) * ld + c)
                                     : load(zeros + c);
      transpose(rows);
      for (int i = 0; i < L; i++) store(x + (c + i) * ldn + n, rows[i]);
    }
}

inline void embed_backward(const Layout& layout, Real* grads, const Chunk& chunk, const Real* dx,
                           int n_embd, int ldn) {
  Real* wte = grads + layout.wte().begin;
  Real* wpe = grads + layout.wpe().begin;
  const int ld = layout.wte().ld;
  const int num_tokens = chunk.num_tokens();
  for (int n = 0; n < num_tokens; n += L)
    for (int c = 0; c < n_embd; c += L) {
      Vec rows[L];
      for (int i = 0; i < L; i++) rows[i] = load(dx + (c + i) * ldn + n);
      transpose(rows);
      for (int i = 0; i < std::min(L, num_tokens - n); i++) {
        Real* token = wte + ptrdiff_t(chunk.inputs[n + i]) * ld + c;
        Real* position = wpe + ptrdiff_t(chunk.positions[n + i]) * ld + c;
        store(token, load(token) + rows[i]);
        store(position, load(position) + rows[i]);
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
  gemm<put>(n_out, m.n_in, columns.width, params + m.begin, m.ld, 1, in, ldn, out, ldn);
}

// Forward through all layers; w.logits then holds the logits. Keeps what backward needs.
inline void forward(const Shape& s, const Layout& layout, const Real* params, Workspace& w) {
  const int ldn = w.columns.ldn;
  embed(layout, params, w.chunk, w.rows.data, w.x.data, s.n_embd, w.columns);
  rmsnorm(s.n_embd, w.x.data, w.normed0.data, w.scale0.data, w.columns);
  std::memcpy(w.x.data, w.normed0.data, sizeof(Real) * s.n_embd * ldn);
  for (int i = 0; i < s.n_layer; i++) {
    auto& b = w.layers[i];
    rmsnorm(s.n_embd, w.x.data, b.normed1.data, b.scale1.data, w.columns);
    linear<Put::set>(3 * s.n_embd, layout.wqkv(i), params, b.normed1.data, b.qkv.data, w.columns);
    Real* probs = b.probs.data;
    for (const auto& doc : w.chunk.documents) {
      attention(s, b.qkv.data, b.heads.data, probs, doc.begin, doc.length, ldn);
      probs += size_t(s.n_head) * doc.length * round_up(doc.length, L);
    }
    linear<Put::add>(s.n_embd, layout.wo(i), params, b.heads.data, w.x.data, w.columns);
    rmsnorm(s.n_embd, w.x.data, b.normed2.data, b.scale2.data, w.columns);
    linear<Put::relu>(s.n_hidden, layout.fc1(i), params, b.normed2.data, b.hidden.data, w.columns);
    linear<Put::add>(s.n_embd, layout.fc2(i), params, b.hidden.data, w.x.data, w.columns);
  }
  linear<Put::set>(s.vocab_size, layout.lm_head(), params, w.x.data, w.logits.data, w.columns);
}

// Backward from w.logits, which holds d loss / d logit. Adds to grads.
inline void backward(const Shape& s, const Layout& layout, const Real* params, Real* grads,
              Workspace& w) {
  const int ldn = w.columns.ldn, num_tokens = w.chunk.num_tokens();
  // gradient of the input: columns of the weights against the gradient of the output
  const auto input_gradient = [&](int n_out, int n_in, const Layout::Matrix& m, const Real* dout,
                                  Real* din) {
    gemm<Put::set>(n_in, n_out, w.columns.width, params + m.begin, 1, m.ld, dout, ldn, din, ldn);
  };
  // gradient of the weights: over all tokens, with the input's features in the lanes
  const auto weight_gradient = [&](int n_out, int n_in, const Layout::Matrix& m, const Real* in,
                                   const Real* dout) {
    transpose(in, ldn, w.transposed.data, m.ld, n_in, num_tokens);
    gemm<Put::add>(n_out, num_tokens, m.ld, dout, ldn, 1, w.transposed.data, m.ld,
                   grads + m.begin, m.ld);
  };
  weight_gradient(s.vocab_size, s.n_embd, layout.lm_head(), w.x.data, w.logits.data);
  input_gradient(s.vocab_size, s.n_embd, layout.lm_head(), w.logits.data, w.dx.data);
  for (int i = s.n_layer - 1; i >= 0; i--) {
    auto& b = w.layers[i];
    weight_gradient(s.n_embd, s.n_hidden, layout.fc2(i), b.hidden.data, w.dx.data);
    input_gradient(s.n_embd, s.n_hidden, layout.fc2(i), w.dx.data, w.dhidden.data);
    for (int at = 0; at < s.n_hidden * ldn; at += L)
      store(w.dhidden.data + at,
            load(b.hidden.data + at) > Real(0) ? load(w.dhidden.data + at) : Vec{});
    weight_gradient(s.n_hidden, s.n_embd, layout.fc1(i), b.normed2.data, w.dhidden.data);
    input_gradient(s.n_hidden, s.n_embd, layout.fc1(i), w.dhidden.data, w.dnormed.data);
    rmsnorm_backward<true>(s.n_embd, w.dnormed.data, b.normed2.data, b.scale2.data, w.dx.data, w.columns);

    weight_gradient(s.n_embd, s.n_embd, layout.wo(i), b.heads.data, w.dx.data);
    input_gradient(s.n_embd, s.n_embd, layout.wo(i), w.dx.data, w.dheads.data);
    const Real* probs = b.probs.data;
    for (const auto& doc : w.chunk.documents) {
      attention_backward(s, b.qkv.data, w.dheads.data, w.dqkv.data, probs, doc.begin, doc.length,
                         ldn, w);
      probs += size_t(s.n_head) * doc.length * round_up(doc.length, L);
    }
    weight_gradient(3 * s.n_embd, s.n_embd, layout.wqkv(i), b.normed1.data, w.dqkv.data);
    input_gradient(3 * s.n_embd, s.n_embd, layout.wqkv(i), w.dqkv.data, w.dnormed.data);
    rmsnorm_backward<true>(s.n_embd, w.dnormed.data, b.normed1.data, b.scale1.data, w.dx.data, w.columns);
  }
  rmsnorm_backward<false>(s.n_embd, w.dx.data, w.normed0.data, w.scale0.data, w.dnormed.data, w.columns);
  embed_backward(layout, grads, w.chunk, w.dnormed.data, s.n_embd, ldn);
}

}  // namespace
