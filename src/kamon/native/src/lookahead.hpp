// Conditions on samples: see kamon/generation/lookahead.py, which is the specification.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blend.hpp"
#include "errors.hpp"
#include "model.hpp"

namespace {

// What may follow each node of a document. A node is a state of the conditions after some tokens.
struct Trellis {
  static constexpr uint8_t MAY_END = 1, FULL = 2;
  int vocab_size, bos;
  int64_t num_nodes;
  const int32_t* positions;  // of each node: the number of tokens before it
  const int32_t* next;  // [node][token]: always a later node; −1 if no document continues so
  const uint8_t* ends;  // of each node: MAY_END with BOS; FULL, so that it ends without BOS

  // Whether all numbers are in their ranges.
  bool is_sound(int num_positions) const {
    if (vocab_size < 1 || bos < 0 || bos >= vocab_size || num_nodes < 1) return false;
    for (int64_t node = 0; node < num_nodes; node++) {
      const int least = node ? 1 : 0, most = ends[node] == FULL ? num_positions : num_positions - 1;
      if (positions[node] < least || positions[node] > most) return false;
    }
    for (int64_t node = 0; node < num_nodes; node++)
      for (int v = 0; v < vocab_size; v++) {
        const int64_t after = next[node * vocab_size + v];
        if (after >= num_nodes || (after >= 0 && v == bos)) return false;
        if (after >= 0 && (after <= node || positions[after] != positions[node] + 1)) return false;
      }
    return true;
  }
};

// The last tokens of a document as one number, below `size`, a power of vocab_size.
struct ContextNumbers {
  int64_t size;
  int vocab_size;

  bool is_sound() const {
    int64_t power = 1;
    while (power < size) power *= vocab_size > 1 ? vocab_size : size;
    return size > 0 && power == size;
  }
  // The number after token v is first(context) + step() · v.
  int64_t first(int64_t context) const {
    return size > 1 ? context % (size / vocab_size) * vocab_size : 0;
  }
  int64_t step() const { return size > 1 ? 1 : 0; }
  int64_t start(int bos) const {  // as if only BOS had been read
    int64_t context = 0;
    for (int64_t power = 1; power < size; power *= vocab_size) context = context * vocab_size + bos;
    return context;
  }
};

// Turns sums of probabilities, [position][context][token], into probabilities: those of a context
// that was rarely seen are close to those of the shorter one, and those of a context at a position
// to those of the context at all positions.
inline void smooth(int vocab_size, int num_positions, int64_t num_contexts, double trust,
                   const double* sums, double* p) {
  const int64_t size = num_contexts * vocab_size;
  const auto interpolate = [&](const double* counts, const double* prior, double* out) {
    double total = trust;
    for (int v = 0; v < vocab_size; v++) total += counts[v];
    const double scale = 1 / total;
    for (int v = 0; v < vocab_size; v++) out[v] = (counts[v] + trust * prior[v]) * scale;
  };
  std::vector<double> level(sums, sums + size);
  for (int64_t i = size; i < size * num_positions; i++) level[size_t(i % size)] += sums[i];
  std::vector<std::vector<double>> levels{level};  // the longest contexts first
  for (int64_t contexts = num_contexts; contexts > 1;) {
    contexts = contexts == vocab_size ? 1 : contexts / vocab_size;
    const std::vector<double>& longer = levels.back();
    std::vector<double> shorter(size_t(contexts * vocab_size));
    for (size_t i = 0; i < longer.size(); i++) shorter[i % shorter.size()] += longer[i];
    levels.push_back(shorter);
  }
  std::vector<double> prior(size_t(vocab_size), 1.0 / vocab_size);
  for (size_t k = levels.size(); k-- > 0;) {
    std::vector<double> found(levels[k].size());
    for (size_t i = 0; i < found.size(); i += size_t(vocab_size))
      interpolate(&levels[k][i], &prior[i % prior.size()], &found[i]);
    prior = found;
  }
  for (int64_t i = 0; i < size * num_positions; i += vocab_size)
    interpolate(sums + i, &prior[size_t(i % size)], p + i);
}

// The chance of each node and context that a document which is there fulfils the conditions.
// p: [position][context][token] of the n-gram.
inline void look_ahead(const Trellis& trellis, const ContextNumbers& contexts, const double* p,
                       double* chances) {
  const int vocab_size = trellis.vocab_size;
  const int64_t size = contexts.size;
  std::vector<int32_t> tokens, after;
  for (int64_t node = trellis.num_nodes - 1; node >= 0; node--) {
    const int32_t* next = trellis.next + node * vocab_size;
    const uint8_t ends = trellis.ends[node];
    tokens.clear(), after.clear();
    for (int v = 0; v < vocab_size; v++)
      if (next[v] >= 0) tokens.push_back(v), after.push_back(next[v]);
    if (ends == Trellis::FULL) {
      std::fill_n(chances + node * size, size, 1.0);
      continue;
    }
    for (int64_t context = 0; context < size; context++) {
      const double* row = p + (trellis.positions[node] * size + context) * vocab_size;
      const double* ahead = chances + contexts.first(context);
      double sum = ends ? row[trellis.bos] : 0;
      for (size_t i = 0; i < tokens.size(); i++)
        sum += row[tokens[i]] * ahead[after[i] * size + contexts.step() * tokens[i]];
      chances[node * size + context] = sum;
    }
  }
}

// Leads the lanes of a sampler to documents that fulfil the conditions.
class Guide {
 public:
  Guide(const Trellis& trellis_, int64_t num_contexts, const double* chances_, double* counts_)
      : trellis(trellis_),
        contexts{num_contexts, trellis_.vocab_size},
        chances(chances_),
        counts(counts_),
        sums(size_t(NUM_LANES) * size_t(trellis_.vocab_size)) {}

  double weight[NUM_LANES];  // p of the document so far over the p with which it was sampled

  void begin(int lane) {
    node[lane] = 0;
    context[lane] = contexts.start(trellis.bos);
    weight[lane] = 1;
  }

  // Takes p of each token, [token][lane], up to a factor, and their total.
  void weigh(int lane, const Real* p, double total) {
    const int vocab_size = trellis.vocab_size;
    const int32_t* next = trellis.next + node[lane] * vocab_size;
    const double* ahead = chances + contexts.first(context[lane]);
    const int64_t size = contexts.size, step = contexts.step();
    const bool ends = trellis.ends[node[lane]];
    double* sum = &sums[size_t(lane) * size_t(vocab_size)];
    double running = 0;
    for (int v = 0; v < vocab_size; v++) {
      const double own = double(p[ptrdiff_t(v) * NUM_LANES + lane]);
      if (next[v] >= 0)
        running += own * ahead[next[v] * size + step * v];
      else if (v == trellis.bos && ends)
        running += own;
      sum[v] = running;
    }
    weight[lane] *= running / total / chances[node[lane] * size + context[lane]];
    if (!counts) return;
    double* count =
        counts + (trellis.positions[node[lane]] * size + context[lane]) * vocab_size;
    for (int v = 0; v < vocab_size; v++)
      count[v] += double(p[ptrdiff_t(v) * NUM_LANES + lane]) / total;
  }

  // After `weigh`: whether any token can follow.
  bool can_follow(int lane) const { return last_sum(lane) > 0; }

  // After `weigh`: the next token of a lane for a random draw.
  int choose(int lane, double u) const {
    const double* sum = &sums[size_t(lane) * size_t(trellis.vocab_size)];
    const double* end = sum + trellis.vocab_size;
    const double* found = std::upper_bound(sum, end, u * last_sum(lane));
    if (found == end) found = std::lower_bound(sum, end, last_sum(lane));
    return int(found - sum);
  }

  // Appends a token. Returns whether the document is full.
  bool read(int lane, int token) {
    node[lane] = trellis.next[node[lane] * trellis.vocab_size + token];
    context[lane] = contexts.first(context[lane]) + contexts.step() * token;
    return trellis.ends[node[lane]] == Trellis::FULL;
  }

 private:
  const Trellis trellis;
  const ContextNumbers contexts;
  const double* chances;
  double* counts;  // [position][context][token]; null if nothing is counted
  int64_t node[NUM_LANES] = {}, context[NUM_LANES] = {};
  std::vector<double> sums;  // [lane][token]

  double last_sum(int lane) const {
    return sums[size_t(lane + 1) * size_t(trellis.vocab_size) - 1];
  }
};

}  // namespace
