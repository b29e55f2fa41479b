// The model on a chunk of packed documents: forward, and backward for weighted log-likelihoods.
//
// Every matrix of activations is [feature][token], so each token has a lane. Norms, softmaxes and
// attention are plain loops without sums across lanes, and a document of any length fills lanes.
// Rows are ldn numbers apart. The lanes after the last token hold finite numbers, which no other
// lane reads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "philox.hpp"
#include "sparse_gemm.hpp"

namespace {

// Numbers that start on a cache line and are 0 at first.
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
  void resize(size_t n) {  // never shrinks, and sets all numbers to 0 if it grows
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

// The start of each matrix of parameters. Zeros pad its rows to whole vectors.
struct ParamLayout {
  struct Matrix {
    size_t begin;
    int num_rows, num_columns, ld;
    bool transposed;  // a row for each input instead of each output
    int num_outputs() const { return transposed ? num_columns : num_rows; }
    int num_inputs() const { return transposed ? num_rows : num_columns; }
  };
  std::vector<Matrix> matrices;  // in the order of `parameter_shapes`
  size_t size = 0;
  explicit ParamLayout(const Shape& shape) {
    const int c = shape.n_embd;
    add(shape.vocab_size, c);
    add(shape.block_size, c);
    add(shape.vocab_size, c);
    for (int i = 0; i < shape.n_layer; i++) {
      for (int m = 0; m < 4; m++) add(c, c);
      add(4 * c, c);
      add_transposed(4 * c, c);  // a row for each hidden unit, as in fc1, so zeros leave out rows
    }
  }
  const Matrix& wte() const { return matrices[0]; }
  const Matrix& wpe() const { return matrices[1]; }
  const Matrix& lm_head() const { return matrices[2]; }
  // wq, wk and wv follow one another and form one matrix (3 n_embd, n_embd)
  const Matrix& wqkv(int layer) const { return matrices[3 + 6 * layer]; }
  const Matrix& wo(int layer) const { return matrices[6 + 6 * layer]; }
  const Matrix& fc1(int layer) const { return matrices[7 + 6 * layer]; }
  const Matrix& fc2(int layer) const { return matrices[8 + 6 * layer]; }

 private:
  void add(int num_rows, int num_columns) {
    const int ld = round_up(num_columns, L);
    matrices.push_back({size, num_rows, num_columns, ld, false});
    size += size_t(num_rows) * ld;
  }
  void add_transposed(int num_rows, int num_columns) {
    add(num_rows, num_columns);
    matrices.back().transposed = true;
  }
};

// A model for the functions below.
struct Model {
  const Shape& shape;
  const ParamLayout& layout;
  const Real* params;
  const Real* weights(const ParamLayout::Matrix& matrix) const { return params + matrix.begin; }
};

// The sums that backward adds to, in the layout of the parameters.
struct Gradient {
  Real* grads = nullptr;
  bool is_zero = false;  // if true, backward overwrites `grads` instead of adding
};

// The documents of one chunk, one after the other.
struct Chunk {
  struct Document {
    int begin, length;  // its inputs are columns begin … begin + length − 1
  };
  std::vector<Document> documents;
  std::vector<int> inputs, targets, positions;  // of each token, so at least num_tokens
  std::vector<uint64_t> dropout_ids;            // of each token's document: see Dropout
  int num_tokens = 0;
  void clear() {
    documents.clear();
    num_tokens = 0;
  }
  // Adds a document of length + 1 tokens. All but the last are inputs, and all but the first are
  // targets.
  void add(const std::int32_t* tokens, int length, uint64_t dropout_id) {
    documents.push_back({num_tokens, length});
    const size_t needed = size_t(num_tokens + length);
    for (auto* column : {&inputs, &targets, &positions})
      if (needed > column->size()) column->resize(needed);
    if (needed > dropout_ids.size()) dropout_ids.resize(needed);
    for (int n = 0; n < length; n++, num_tokens++) {
      inputs[num_tokens] = tokens[n];
      targets[num_tokens] = tokens[n + 1];
      positions[num_tokens] = n;
      dropout_ids[num_tokens] = dropout_id;
    }
  }
};

// The columns of an activation. width: the number of tokens, rounded up to half a vector. ldn: the
// distance of two rows. It has room for whole vectors that begin in the last document.
struct Columns {
  int width, ldn;
};

// The size of the attention weights for a document of T tokens: see `attention`.
inline size_t probs_size(const Shape& shape, int T) {
  const size_t num_blocks = size_t((T + L - 1) / L);
  return shape.n_head * num_blocks * (num_blocks + 1) / 2 * L * L;
}

// Memory for one chunk, which later calls use again.
struct Workspace {
  struct LayerBuffers {
    Buffer normed1, scale1, qkv, probs, heads, normed2, scale2, hidden, mask1, mask2;
    Bits by_unit, by_token;  // which hidden units are above 0
    bool is_sparse = false;  // whether they are few
  };
  std::vector<LayerBuffers> layers;
  Buffer x, scale0, normed0, mask0, branch, logits, dx, dnormed, dqkv, dheads, dhidden, transposed,
      rows, lanes, scores, blocks, weights;
  Chunk chunk;
  Columns columns{0, 0};

  // Makes room for the documents in `chunk`.
  void fit(const Shape& shape) {
    fit(shape, chunk.num_tokens, int(chunk.documents.size()));
    size_t size = 0;
    for (const auto& doc : chunk.documents) size += probs_size(shape, doc.length);
    for (auto& layer : layers) layer.probs.resize(size);
  }
  void fit(const Shape& shape, int num_tokens, int num_docs) {
    const int ldn = round_up(num_tokens + (num_docs > 1 ? L : 0), L);
    columns = {round_up(num_tokens, HALF), ldn};
    if (layers.empty()) layers = std::vector<LayerBuffers>(shape.n_layer);
    if (ldn <= capacity) return;
    const size_t n = ldn, c = round_up(shape.n_embd, L), f = round_up(shape.n_hidden, L);
    const size_t qkv_rows = 3 * shape.n_embd + L;
    for (auto& layer : layers) {
      for (Buffer* buffer : {&layer.normed1, &layer.heads, &layer.normed2}) buffer->resize(c * n);
      for (Buffer* buffer : {&layer.scale1, &layer.scale2}) buffer->resize(n);
      layer.qkv.resize(qkv_rows * n);
      layer.hidden.resize(f * n);
    }
    for (Buffer* buffer : {&x, &normed0, &branch, &dx, &dnormed, &dheads, &transposed, &rows})
      buffer->resize(c * n);
    for (Buffer* buffer : {&scale0, &weights}) buffer->resize(n);
    lanes.resize(3 * n);
    logits.resize(size_t(round_up(shape.vocab_size, L)) * n);
    dqkv.resize(qkv_rows * n);
    dhidden.resize(f * n);
    capacity = ldn;  // at the end, because each of these may throw
  }

 private:
  int capacity = 0;  // the largest ldn that fits
};

// y = x · (mean(x²) + 1e-5)^−½ for each token. scale: the second factor.
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

// dx = scale · (dy − y · mean(dy · y)), the derivative of rmsnorm, or dx += … to add.
template <Epilogue epilogue>
void rmsnorm_backward(int n_embd, const Real* dy, const Real* y, const Real* scale, Real* dx,
                      Columns columns) {
  const int ldn = columns.ldn;
  for (int j = 0; j < columns.width; j += L) {
    Vec sum = {};
    for (int c = 0; c < n_embd; c++) sum += load(dy + c * ldn + j) * load(y + c * ldn + j);
    const Vec mean = sum * (Real(1) / Real(n_embd));
    const Vec s = load(scale + j);
    for (int c = 0; c < n_embd; c++) {
      const Vec d = s * (load(dy + c * ldn + j) - load(y + c * ldn + j) * mean);
      Real* result = dx + c * ldn + j;
      store(result, epilogue == Epilogue::add ? load(result) + d : d);
    }
  }
}

// Attention uses L queries and BLOCK keys at a time. The last block may reach beyond the document.
// A loop over a constant number of keys has no branch that the processor could mispredict, and its
// sums stay in registers.
constexpr int BLOCK = L < 4 ? L : 4;

// sum[n] += Σ_i a[i][lane] · b[i][n]: L queries, in the lanes, times BLOCK keys.
KAMON_INLINE void dot_products(int head_dim, const Real* a, const Real* b, int ldn,
                               Vec (&sum)[BLOCK]) {
  for (int i = 0; i < head_dim; i++) {
    const Vec lanes = load(a + ptrdiff_t(i) * ldn);
    for (int n = 0; n < BLOCK; n++) sum[n] += lanes * b[ptrdiff_t(i) * ldn + n];
  }
}

// out[i][lane] = Σ_n weights[n][lane] · values[i][n] for each feature i, with n in order.
// num_n is rounded up to a whole BLOCK.
inline void weighted_sum(int head_dim, int num_n, const Real* weights, const Real* values,
                         Real* out, int ldn) {
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

// Attention of one document. Columns after the document have weight 0 as keys. As queries they
// write into the columns of the next document, which overwrites them, because it comes later.
//
// probs: for each head, for each L queries, the weights of the keys 0 … from + L − 1.
inline void attention(const Shape& shape, const Real* qkv, Real* heads, Real* probs,
                      Chunk::Document doc, int ldn) {
  const int T = doc.length;
  const ptrdiff_t matrix = ptrdiff_t(shape.n_embd) * ldn;
  const Real scale = Real(1) / std::sqrt(Real(shape.head_dim));
  const Vec masked = splat(-std::numeric_limits<Real>::infinity());
  for (int h = 0; h < shape.n_head; h++) {
    const ptrdiff_t head = ptrdiff_t(h) * shape.head_dim * ldn + doc.begin;
    const Real *q = qkv + head, *k = q + matrix, *v = k + matrix;
    for (int from = 0; from < T; from += L) {
      const int num_keys = std::min(from + L, round_up(T, BLOCK));
      Vec largest = masked;
      for (int key = 0; key < num_keys; key += BLOCK) {
        Vec score[BLOCK] = {};
        dot_products(shape.head_dim, q + from, k + key, ldn, score);
        for (int n = 0; n < BLOCK; n++) {
          score[n] *= scale;
          if (key >= from) score[n] = iota() >= Int(key - from + n) ? score[n] : masked;
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
      weighted_sum(shape.head_dim, num_keys, probs, v, heads + head + from, ldn);
      probs += ptrdiff_t(from + L) * L;
    }
  }
}

// Turns the gradient of one head's output in one document into those of q, k and v.
struct HeadBackward {
  const int head_dim, T, ldn;
  const Real *q, *k, *v, *dout;
  Real *dq, *dk, *dv;
  const Real* probs;
  Real* dscores;  // in the layout of `probs`

  HeadBackward(const Shape& shape, const Real* qkv, const Real* head_probs, Chunk::Document doc,
               int h, const Workspace& workspace)
      : head_dim(shape.head_dim), T(doc.length), ldn(workspace.columns.ldn), probs(head_probs) {
    const ptrdiff_t head = ptrdiff_t(h) * head_dim * ldn + doc.begin;
    const ptrdiff_t matrix = ptrdiff_t(shape.n_embd) * ldn;
    q = qkv + head, k = q + matrix, v = k + matrix;
    dq = workspace.dqkv.data + head, dk = dq + matrix, dv = dk + matrix;
    dout = workspace.dheads.data + head;
    dscores = workspace.scores.data;
  }

  void queries() const {
    const Real scale = Real(1) / std::sqrt(Real(head_dim));
    const Real* p = probs;
    Real* ds = dscores;
    for (int from = 0; from < T; from += L) {
      const int num_keys = std::min(from + L, round_up(T, BLOCK));
      Vec mean = {};
      for (int key = 0; key < num_keys; key += BLOCK) {
        Vec dp[BLOCK] = {};
        dot_products(head_dim, dout + from, v + key, ldn, dp);
        for (int n = 0; n < BLOCK; n++) {
          store(ds + (key + n) * L, dp[n]);
          mean += dp[n] * load(p + (key + n) * L);
        }
      }
      for (int key = 0; key < num_keys; key += BLOCK)
        for (int n = key; n < key + BLOCK; n++)
          store(ds + n * L, load(p + n * L) * (load(ds + n * L) - mean) * scale);
      weighted_sum(head_dim, num_keys, ds, k, dq + from, ldn);
      p += ptrdiff_t(from + L) * L;
      ds += ptrdiff_t(from + L) * L;
    }
  }

  // After `queries`. Here keys and queries change roles, with L keys in the lanes and the queries
  // in order.
  void keys_and_values(Real* dscores_by_query, Real* probs_by_query) const {
    for (int key = 0; key < T; key += L) {
      for (int from = key; from < T; from += L) {
        const ptrdiff_t block = ptrdiff_t(from) * (from + L) / 2 + ptrdiff_t(key) * L;
        const ptrdiff_t row = ptrdiff_t(from - key) * L;
        const auto transpose_block = [=](const Real* by_key, Real* by_query) {
          transpose(T - key, T - from, [=](int n) { return by_key + n * L; }, by_query, L);
        };
        transpose_block(dscores + block, dscores_by_query + row);
        transpose_block(probs + block, probs_by_query + row);
      }
      const int num_queries = round_up(T - key, BLOCK);
      weighted_sum(head_dim, num_queries, dscores_by_query, q + key, dk + key, ldn);
      weighted_sum(head_dim, num_queries, probs_by_query, dout + key, dv + key, ldn);
    }
  }
};

// Computes workspace.dqkv from workspace.dheads for one document with these qkv and probs.
inline void attention_backward(const Shape& shape, const Real* qkv, const Real* probs,
                               Chunk::Document doc, Workspace& workspace) {
  const size_t head_size = probs_size(shape, doc.length) / shape.n_head;
  const size_t block_size = size_t(round_up(doc.length, L)) * L;
  workspace.scores.resize(head_size);
  workspace.blocks.resize(2 * block_size);
  Real* blocks = workspace.blocks.data;
  for (int h = 0; h < shape.n_head; h++) {
    const HeadBackward backward(shape, qkv, probs + h * head_size, doc, h, workspace);
    backward.queries();
    backward.keys_and_values(blocks, blocks + block_size);
  }
}

// Token plus position embeddings of a chunk, in columns. Columns without a token are 0.
inline void embed(const Model& model, const Chunk& chunk, Real* x, Columns columns) {
  const ParamLayout& layout = model.layout;
  const Real* wte = model.weights(layout.wte());
  const Real* wpe = model.weights(layout.wpe());
  const int n_embd = model.shape.n_embd;
  const int ld = layout.wte().ld;
  for (int n = 0; n < columns.width; n += L) {
    const int num_rows = std::min(L, chunk.num_tokens - n);
    for (int c = 0; c < n_embd; c += L) {
      alignas(64) Real sums[L * L];
      for (int i = 0; i < num_rows; i++)
        store(sums + i * L, load(wte + ptrdiff_t(chunk.inputs[n + i]) * ld + c) +
                                load(wpe + ptrdiff_t(chunk.positions[n + i]) * ld + c));
      transpose(
          num_rows, L, [&](int i) { return sums + i * L; }, x + c * columns.ldn + n, columns.ldn);
    }
  }
}

inline void embed_backward(const Model& model, const Gradient& gradient, const Chunk& chunk,
                           const Real* dx, int ldn) {
  const ParamLayout& layout = model.layout;
  Real* wte = gradient.grads + layout.wte().begin;
  Real* wpe = gradient.grads + layout.wpe().begin;
  const int n_embd = model.shape.n_embd;
  if (gradient.is_zero)
    std::memset(wte, 0, sizeof(Real) * (layout.lm_head().begin - layout.wte().begin));
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

// Turns the logits of each column into probabilities. largest: its largest logit. total: the sum of
// its exponentials.
inline void softmax(Real* logits, int vocab_size, Real* largest, Real* total, Columns columns) {
  const int ldn = columns.ldn;
  for (int j = 0; j < columns.width; j += L) {
    Vec top = load(logits + j);
    for (int o = 1; o < vocab_size; o++) top = vmax(load(logits + ptrdiff_t(o) * ldn + j), top);
    Vec sum = {};
    for (int o = 0; o < vocab_size; o++) {
      Real* row = logits + ptrdiff_t(o) * ldn + j;
      const Vec e = vexp(load(row) - top);
      store(row, e);
      sum += e;
    }
    const Vec inverse = Real(1) / sum;
    for (int o = 0; o < vocab_size; o++) {
      Real* row = logits + ptrdiff_t(o) * ldn + j;
      store(row, load(row) * inverse);
    }
    store(largest + j, top);
    store(total + j, sum);
  }
}

// out = W · in for each token. n_out: the rows of W, for wqkv those of three matrices.
template <Epilogue epilogue>
void linear(int n_out, const ParamLayout::Matrix& matrix, const Model& model, const Real* in,
            Real* out, Columns columns) {
  const int ldn = columns.ldn;
  const auto product =
      matrix.transposed ? gemm<epilogue, Layout::column_major> : gemm<epilogue, Layout::row_major>;
  product(n_out, matrix.num_inputs(), columns.width, model.weights(matrix), matrix.ld, in, ldn, out,
          ldn);
}

// rows[token][feature] = in[feature][token], and back. The features are padded to whole vectors.
inline void to_rows(int num_features, int num_tokens, const Real* in, int ldn, Real* rows, int ld) {
  for (int n = 0; n < num_tokens; n += L)
    for (int i = 0; i < num_features; i += L)
      transpose(
          num_features - i, num_tokens - n, [=](int r) { return in + ptrdiff_t(i + r) * ldn + n; },
          rows + ptrdiff_t(n) * ld + i, ld);
}
inline void from_rows(int num_features, int num_tokens, const Real* rows, int ld, Real* out,
                      int ldn) {
  for (int n = 0; n < num_tokens; n += L)
    for (int i = 0; i < num_features; i += L)
      transpose(
          num_tokens - n, num_features - i, [=](int r) { return rows + ptrdiff_t(n + r) * ld + i; },
          out + ptrdiff_t(i) * ldn + n, ldn);
}

// The dropout of a training step and its random draws. See the Python module for dropout.
struct Dropout {
  double rate;
  uint64_t seed;

  // Makes room for the masks of a chunk.
  static void fit(const Shape& shape, Workspace& workspace) {
    const size_t size = size_t(round_up(shape.n_embd, L)) * workspace.columns.ldn;
    workspace.mask0.resize(size);
    for (auto& layer : workspace.layers)
      for (Buffer* mask : {&layer.mask1, &layer.mask2}) mask->resize(size);
  }

  // The factors of one site in the layout of its activations. Each is 0 or the one that keeps the
  // mean.
  void fill(Real* mask, int site, int n_embd, const Chunk& chunk, Columns columns) const {
    const uint64_t threshold = uint64_t(rate * 0x1p32);
    const Real scale = Real(1 / (1 - rate));
    const int groups = (n_embd + 3) / 4;
    for (int n = 0; n < chunk.num_tokens; n += L)
      for (int g = 0; g < groups; g++) {
        uint64_t word[4][L];
        for (int l = 0; l < L; l++) {
          const int token = std::min(n + l, chunk.num_tokens - 1);
          word[0][l] = uint64_t(site) * groups + g;
          word[1][l] = uint64_t(chunk.positions[token]);
          word[2][l] = chunk.dropout_ids[token] & 0xFFFFFFFF;
          word[3][l] = chunk.dropout_ids[token] >> 32;
        }
        philox4x32<L>(word[0], word[1], word[2], word[3], (seed & 0xFFFFFFFF) ^ 0x64726F70,
                      seed >> 32);
        for (int i = 0; i < std::min(4, n_embd - 4 * g); i++)
          for (int l = 0; l < L; l++)
            mask[ptrdiff_t(4 * g + i) * columns.ldn + n + l] =
                word[i][l] < threshold ? Real(0) : scale;
      }
  }
};

// out = a · b, number by number.
inline void multiply(const Real* a, const Real* b, Real* out, size_t size) {
  for (size_t i = 0; i < size; i += L) store(out + i, load(a + i) * load(b + i));
}

// x += mask · (W · in), or without a mask x += W · in. by_token: if `in` is sparse, which numbers
// of it are above 0, otherwise null.
inline void add_branch(int n_out, const ParamLayout::Matrix& matrix, const Model& model,
                       const Real* in, const Bits* by_token, const Real* mask,
                       Workspace& workspace) {
  Real* x = workspace.x.data;
  const Real* branch = workspace.branch.data;
  const Columns columns = workspace.columns;
  if (by_token) {
    const int num_tokens = workspace.chunk.num_tokens, ld = matrix.ld;
    sparse_gemm<Epilogue::set, Layout::column_major>(num_tokens, *by_token, ld, in, columns.ldn,
                                                     model.weights(matrix), ld, workspace.rows.data,
                                                     ld);
    from_rows(n_out, num_tokens, workspace.rows.data, ld, workspace.branch.data, columns.ldn);
  } else if (mask) {
    linear<Epilogue::set>(n_out, matrix, model, in, workspace.branch.data, columns);
  } else {
    return linear<Epilogue::add>(n_out, matrix, model, in, x, columns);
  }
  const size_t size = size_t(n_out) * columns.ldn;
  for (size_t i = 0; i < size; i += L) {
    const Vec term = load(branch + i);
    store(x + i, load(x + i) + (mask ? load(mask + i) * term : term));
  }
}

// Computes workspace.logits for workspace.chunk, and keeps the numbers for backward. dropout: null
// for none.
inline void forward(const Model& model, Workspace& workspace, const Dropout* dropout) {
  const Shape& shape = model.shape;
  const ParamLayout& layout = model.layout;
  const Columns columns = workspace.columns;
  const Chunk& chunk = workspace.chunk;
  const int n_embd = shape.n_embd;
  Real* x = workspace.x.data;
  embed(model, chunk, x, columns);
  rmsnorm(n_embd, x, workspace.normed0.data, workspace.scale0.data, columns);
  if (dropout) {
    Dropout::fit(shape, workspace);
    dropout->fill(workspace.mask0.data, 0, n_embd, chunk, columns);
    multiply(workspace.normed0.data, workspace.mask0.data, x, size_t(n_embd) * columns.ldn);
  } else {
    std::memcpy(x, workspace.normed0.data, sizeof(Real) * n_embd * columns.ldn);
  }
  for (int i = 0; i < shape.n_layer; i++) {
    auto& layer = workspace.layers[i];
    if (dropout) {
      dropout->fill(layer.mask1.data, 2 * i + 1, n_embd, chunk, columns);
      dropout->fill(layer.mask2.data, 2 * i + 2, n_embd, chunk, columns);
    }
    const Real* mask1 = dropout ? layer.mask1.data : nullptr;
    const Real* mask2 = dropout ? layer.mask2.data : nullptr;
    rmsnorm(n_embd, x, layer.normed1.data, layer.scale1.data, columns);
    linear<Epilogue::set>(3 * n_embd, layout.wqkv(i), model, layer.normed1.data, layer.qkv.data,
                          columns);
    Real* probs = layer.probs.data;
    for (const auto& doc : chunk.documents) {
      attention(shape, layer.qkv.data, layer.heads.data, probs, doc, columns.ldn);
      probs += probs_size(shape, doc.length);
    }
    add_branch(n_embd, layout.wo(i), model, layer.heads.data, nullptr, mask1, workspace);
    rmsnorm(n_embd, x, layer.normed2.data, layer.scale2.data, columns);
    linear<Epilogue::relu>(shape.n_hidden, layout.fc1(i), model, layer.normed2.data,
                           layer.hidden.data, columns);
    layer.is_sparse = find_positive(layer.hidden.data, shape.n_hidden, chunk.num_tokens,
                                    columns.ldn, layout.fc2(i).ld, layer.by_unit, layer.by_token);
    const Bits* by_token = layer.is_sparse ? &layer.by_token : nullptr;
    add_branch(n_embd, layout.fc2(i), model, layer.hidden.data, by_token, mask2, workspace);
  }
  linear<Epilogue::set>(shape.vocab_size, layout.lm_head(), model, x, workspace.logits.data,
                        columns);
}

// The steps back through a chunk, after `forward` with the same dropout.
class Backward {
 public:
  Backward(const Model& model_, Workspace& workspace_, const Gradient& gradient_,
           const Dropout* dropout_)
      : model(model_), workspace(workspace_), gradient(gradient_), dropout(dropout_) {}

  // Adds to the gradient. workspace.logits has d loss / d logit.
  void run() {
    const ParamLayout& layout = model.layout;
    const int n_embd = shape.n_embd;
    Real* dlogits = workspace.logits.data;
    weight_gradient(shape.vocab_size, layout.lm_head(), dlogits, workspace.x.data);
    input_gradient(shape.vocab_size, n_embd, layout.lm_head(), dlogits, workspace.dx.data);
    for (int i = shape.n_layer - 1; i >= 0; i--) {
      mlp(i);
      attention_branch(i);
    }
    rmsnorm_backward<Epilogue::set>(n_embd, branch_gradient(workspace.mask0),
                                    workspace.normed0.data, workspace.scale0.data,
                                    workspace.dnormed.data, workspace.columns);
    embed_backward(model, gradient, workspace.chunk, workspace.dnormed.data, ldn);
  }

 private:
  const Model model;
  Workspace& workspace;
  const Gradient gradient;
  const Dropout* dropout;
  const Shape& shape = model.shape;
  const int ldn = workspace.columns.ldn, num_tokens = workspace.chunk.num_tokens;

  void mlp(int i) {
    const auto &fc1 = model.layout.fc1(i), &fc2 = model.layout.fc2(i);
    auto& layer = workspace.layers[i];
    const Bits* by_unit = layer.is_sparse ? &layer.by_unit : nullptr;
    const Real *dbranch = branch_gradient(layer.mask2), *hidden = layer.hidden.data;
    Real *dhidden = workspace.dhidden.data, *dnormed = workspace.dnormed.data;
    weight_gradient(shape.n_hidden, fc2, hidden, dbranch, by_unit);
    input_gradient(shape.n_embd, shape.n_hidden, fc2, dbranch, dhidden);
    if (layer.is_sparse) {
      Real* rows = workspace.rows.data;
      sparse_gemm<Epilogue::set, Layout::column_major>(num_tokens, layer.by_token, fc1.ld, dhidden,
                                                       ldn, model.weights(fc1), fc1.ld, rows,
                                                       fc1.ld);
      from_rows(shape.n_embd, num_tokens, rows, fc1.ld, dnormed, ldn);
    } else {
      for (int n = 0; n < shape.n_hidden * ldn; n += L)
        store(dhidden + n, load(hidden + n) > Real(0) ? load(dhidden + n) : Vec{});
      input_gradient(shape.n_hidden, shape.n_embd, fc1, dhidden, dnormed);
    }
    weight_gradient(shape.n_hidden, fc1, dhidden, layer.normed2.data, by_unit);
    rmsnorm_backward<Epilogue::add>(shape.n_embd, dnormed, layer.normed2.data, layer.scale2.data,
                                    workspace.dx.data, workspace.columns);
  }

  void attention_branch(int i) {
    const int n_embd = shape.n_embd;
    const auto &wo = model.layout.wo(i), &wqkv = model.layout.wqkv(i);
    auto& layer = workspace.layers[i];
    const Real *dbranch = branch_gradient(layer.mask1), *probs = layer.probs.data;
    Real *dqkv = workspace.dqkv.data, *dnormed = workspace.dnormed.data;
    weight_gradient(n_embd, wo, dbranch, layer.heads.data);
    input_gradient(n_embd, n_embd, wo, dbranch, workspace.dheads.data);
    for (const auto& doc : workspace.chunk.documents) {
      attention_backward(shape, layer.qkv.data, probs, doc, workspace);
      probs += probs_size(shape, doc.length);
    }
    weight_gradient(3 * n_embd, wqkv, dqkv, layer.normed1.data);
    input_gradient(3 * n_embd, n_embd, wqkv, dqkv, dnormed);
    rmsnorm_backward<Epilogue::add>(n_embd, dnormed, layer.normed1.data, layer.scale1.data,
                                    workspace.dx.data, workspace.columns);
  }

  // The gradient of a branch's output: that of x times the mask of its dropout.
  const Real* branch_gradient(const Buffer& mask) {
    if (!dropout) return workspace.dx.data;
    multiply(workspace.dx.data, mask.data, workspace.branch.data, size_t(shape.n_embd) * ldn);
    return workspace.branch.data;
  }

  // The gradient of the input: the transposed weights times the gradient of the output.
  void input_gradient(int n_out, int n_in, const ParamLayout::Matrix& matrix, const Real* dout,
                      Real* din) {
    const auto product = matrix.transposed ? gemm<Epilogue::set, Layout::row_major>
                                           : gemm<Epilogue::set, Layout::column_major>;
    product(n_in, n_out, workspace.columns.width, model.weights(matrix), matrix.ld, dout, ldn, din,
            ldn);
  }

  // The gradient of the weights: row r of `rows` times column c of `columns`, over all tokens.
  // above_0: which numbers of `rows` are above 0, if it is sparse.
  void weight_gradient(int num_rows, const ParamLayout::Matrix& matrix, const Real* rows,
                       const Real* columns, const Bits* above_0 = nullptr) {
    Real* transposed = workspace.transposed.data;
    Real* out = gradient.grads + matrix.begin;
    const int ld = matrix.ld;
    to_rows(matrix.num_columns, num_tokens, columns, ldn, transposed, ld);
    if (above_0) {
      const auto product = gradient.is_zero ? sparse_gemm<Epilogue::set, Layout::row_major>
                                            : sparse_gemm<Epilogue::add, Layout::row_major>;
      product(num_rows, *above_0, ld, rows, ldn, transposed, ld, out, ld);
    } else {
      const auto product = gradient.is_zero ? gemm<Epilogue::set, Layout::row_major>
                                            : gemm<Epilogue::add, Layout::row_major>;
      product(num_rows, num_tokens, ld, rows, ldn, transposed, ld, out, ld);
    }
  }
};

inline void backward(const Model& model, Workspace& workspace, const Gradient& gradient,
                     const Dropout* dropout) {
  Backward(model, workspace, gradient, dropout).run();
}

}  // namespace
