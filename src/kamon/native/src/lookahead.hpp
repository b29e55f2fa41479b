// Conditions on samples: see kamon/generation/lookahead.py, which is the specification.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "blend.hpp"
#include "errors.hpp"
#include "model.hpp"

namespace {

// What the conditions and an n-gram say of a document after some tokens, which are its position: a
// node, which knows what the conditions still need, and a context, which has the last tokens.
struct GuideArrays {
  static constexpr uint8_t FULL = 2;  // the document ends without BOS
  int vocab_size, bos, room;
  int64_t num_nodes;
  const int32_t* positions;       // of each node, in ascending order
  const int32_t* next;            // [node][token]: a later node; −1 if no document continues so
  const uint8_t* ends;            // of each node: whether a document may end there; or FULL
  const int64_t* first_contexts;  // of each position up to room; the number of contexts comes last
  const int32_t* after;           // [context][token]: the context after a token
  const int64_t* begins;          // of each node: its first chance; their number comes last

  // The place of a chance, if `context` has the position of `node`.
  int64_t place(int64_t node, int64_t context) const {
    return begins[node] + context - first_contexts[positions[node]];
  }

  // Whether all numbers are in their ranges. num_chances: how many there are.
  bool is_sound(int64_t num_chances) const {
    if (vocab_size < 1 || bos < 0 || bos >= vocab_size || num_nodes < 1 || room < 1) return false;
    if (positions[0] != 0 || begins[0] != 0 || begins[num_nodes] != num_chances) return false;
    if (first_contexts[0] != 0 || first_contexts[1] != 1) return false;
    for (int t = 0; t <= room; t++)
      if (first_contexts[t] >= first_contexts[t + 1]) return false;
    for (int64_t node = 0; node < num_nodes; node++) {
      const int t = positions[node];
      if (t < 0 || t > room || (t == room) != (ends[node] == FULL)) return false;
      if (begins[node + 1] - begins[node] != first_contexts[t + 1] - first_contexts[t]) return false;
      for (int v = 0; v < vocab_size; v++) {
        const int64_t follower = next[node * vocab_size + v];
        if (follower < 0) continue;
        if (follower <= node || follower >= num_nodes || v == bos) return false;
        if (positions[follower] != t + 1) return false;
      }
    }
    for (int t = 0; t < room; t++)
      for (int64_t i = first_contexts[t] * vocab_size; i < first_contexts[t + 1] * vocab_size; i++)
        if (after[i] < first_contexts[t + 1] || after[i] >= first_contexts[t + 2]) return false;
    return true;
  }
};

// Turns sums of probabilities, [context][token], into probabilities, close to those of a prior for
// contexts that were rarely seen. Contexts of a position come first. Each of them adds to `shorter`,
// an earlier one, and then to `timeless`, the same one at all positions, which is its prior. The
// timeless ones come last. Their prior is `shorter`, an earlier timeless one. −1 if there is none.
inline bool smooth(int vocab_size, int64_t num_contexts, const int32_t* shorter,
                   const int32_t* timeless, double trust, double* sums, double* p) {
  int64_t first_timeless = 0;
  while (first_timeless < num_contexts && timeless[first_timeless] >= 0) first_timeless++;
  for (int64_t context = 0; context < num_contexts; context++) {
    const bool is_timeless = context >= first_timeless;
    const int64_t other = shorter[context], same = timeless[context];
    if (other != -1 && (other >= context || other < (is_timeless ? first_timeless : 0)))
      return false;
    if (is_timeless ? same != -1 : same < first_timeless || same >= num_contexts) return false;
  }
  for (int64_t context = first_timeless - 1; context >= 0; context--)
    for (const int64_t other : {int64_t(shorter[context]), int64_t(timeless[context])})
      for (int v = 0; v < vocab_size && other >= 0; v++)
        sums[other * vocab_size + v] += sums[context * vocab_size + v];
  const auto interpolate = [&](int64_t context, int64_t prior) {
    const double* own = sums + context * vocab_size;
    double total = trust;
    for (int v = 0; v < vocab_size; v++) total += own[v];
    const double scale = 1 / total;
    for (int v = 0; v < vocab_size; v++) {
      const double other = prior < 0 ? 1.0 / vocab_size : p[prior * vocab_size + v];
      p[context * vocab_size + v] = (own[v] + trust * other) * scale;
    }
  };
  for (int64_t context = first_timeless; context < num_contexts; context++)
    interpolate(context, shorter[context]);
  for (int64_t context = 0; context < first_timeless; context++)
    interpolate(context, timeless[context]);
  return true;
}

// The chance of each node and context that a document which is there fulfils the conditions.
// p: [context][token].
inline void look_ahead(const GuideArrays& guide, const double* p, double* chances) {
  const int vocab_size = guide.vocab_size;
  std::vector<int32_t> tokens, following;
  for (int64_t node = guide.num_nodes - 1; node >= 0; node--) {
    const int32_t* next = guide.next + node * vocab_size;
    tokens.clear(), following.clear();
    for (int v = 0; v < vocab_size; v++)
      if (next[v] >= 0) tokens.push_back(v), following.push_back(next[v]);
    const int64_t first = guide.first_contexts[guide.positions[node]];
    const int64_t end = guide.first_contexts[guide.positions[node] + 1];
    for (int64_t context = first; context < end; context++) {
      const double* row = p + context * vocab_size;
      const int32_t* after = guide.after + context * vocab_size;
      double sum = guide.ends[node] ? row[guide.bos] : 0;
      if (guide.ends[node] == GuideArrays::FULL) sum = 1;
      for (size_t i = 0; i < tokens.size(); i++)
        sum += row[tokens[i]] * chances[guide.place(following[i], after[tokens[i]])];
      chances[guide.place(node, context)] = sum;
    }
  }
}

// Leads the lanes of a sampler to documents that fulfil the conditions.
class Guide {
 public:
  double weight[NUM_LANES];  // p of the document so far over the p with which it was sampled

  // counts: [context][token], to which p of all tokens is added wherever one is sampled; may be
  // null. top_k: the most likely tokens to choose from, up to vocab_size. top_p: only so many of
  // these that they have this share of their probability, up to 1.
  Guide(const GuideArrays& arrays, const double* chances_, double* counts_, int top_k_,
        double top_p_)
      : guide(arrays),
        chances(chances_),
        counts(counts_),
        top_k(top_k_),
        top_p(top_p_),
        stays(size_t(arrays.vocab_size), 1),
        sums(size_t(NUM_LANES) * size_t(arrays.vocab_size)) {}

  void begin(int lane) {
    node[lane] = context[lane] = 0;
    weight[lane] = 1;
  }

  // Takes p of each token, [token][lane], up to a factor, and their total.
  void weigh(int lane, const Real* p, double total) {
    const int vocab_size = guide.vocab_size;
    const int32_t* next = guide.next + node[lane] * vocab_size;
    const int32_t* after = guide.after + context[lane] * vocab_size;
    const int64_t first = guide.first_contexts[guide.positions[node[lane]] + 1];
    const bool ends = guide.ends[node[lane]];
    double* sum = &sums[size_t(lane) * size_t(vocab_size)];
    const double factor = top_k < vocab_size || top_p < 1 ? truncate(lane, p) : 1;
    double running = 0;
    for (int v = 0; v < vocab_size; v++) {
      const double own = stays[size_t(v)] ? double(p[ptrdiff_t(v) * NUM_LANES + lane]) : 0;
      if (next[v] >= 0)
        running += own * chances[guide.begins[next[v]] + after[v] - first];
      else if (v == guide.bos && ends)
        running += own;
      sum[v] = running;
    }
    weight[lane] *= factor * running / total / chances[guide.place(node[lane], context[lane])];
    for (int v = 0; v < vocab_size && counts; v++)
      counts[context[lane] * vocab_size + v] += double(p[ptrdiff_t(v) * NUM_LANES + lane]) / total;
  }

  // After `weigh`: whether any token can follow.
  bool can_follow(int lane) const { return last_sum(lane) > 0; }

  // After `weigh`: the next token of a lane for a random draw.
  int choose(int lane, double u) const {
    const double* sum = &sums[size_t(lane) * size_t(guide.vocab_size)];
    const double* end = sum + guide.vocab_size;
    const double* found = std::upper_bound(sum, end, u * last_sum(lane));
    if (found == end) found = std::lower_bound(sum, end, last_sum(lane));
    return int(found - sum);
  }

  // Appends a token. Returns whether the document is full.
  bool read(int lane, int token) {
    const int64_t vocab_size = guide.vocab_size;
    node[lane] = guide.next[node[lane] * vocab_size + token];
    context[lane] = guide.after[context[lane] * vocab_size + token];
    return guide.ends[node[lane]] == GuideArrays::FULL;
  }

 private:
  const GuideArrays guide;
  const double* chances;
  double* counts;
  const int top_k;
  const double top_p;
  int64_t node[NUM_LANES] = {}, context[NUM_LANES] = {};
  std::vector<int> order;       // of `truncate`
  std::vector<uint8_t> stays;   // whether top_k and top_p leave a token, in the lane weighed last
  std::vector<double> sums;  // [lane][token]

  // Sets `stays`. The tokens that stay take over the probability of the others that fit: p of these
  // is larger by the factor returned, or 0.
  double truncate(int lane, const Real* p) {
    const auto own = [&](int v) { return double(p[ptrdiff_t(v) * NUM_LANES + lane]); };
    const int32_t* next = guide.next + node[lane] * guide.vocab_size;
    order.clear();
    for (int v = 0; v < guide.vocab_size; v++)
      if (next[v] >= 0 || (v == guide.bos && guide.ends[node[lane]])) order.push_back(v);
    const auto sum = [&](size_t size) {
      double total = 0;
      for (size_t i = 0; i < size; i++) total += own(order[i]);
      return total;
    };
    const double before = sum(order.size());
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return own(a) > own(b) || (own(a) == own(b) && a < b);
    });
    if (order.size() > size_t(top_k)) order.resize(size_t(top_k));
    if (top_p < 1) {
      const double wanted = top_p * sum(order.size());
      double running = 0;
      size_t size = 0;
      while (size < order.size() && (size == 0 || running < wanted)) running += own(order[size++]);
      order.resize(size);
    }
    std::fill(stays.begin(), stays.end(), 0);
    for (const int v : order) stays[size_t(v)] = 1;
    const double kept = sum(order.size());
    return kept > 0 ? before / kept : 0;
  }

  double last_sum(int lane) const {
    return sums[size_t(lane + 1) * size_t(guide.vocab_size) - 1];
  }
};

}  // namespace
