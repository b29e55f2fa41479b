// Many continuations of one text. They share the keys and values of the tokens that they share.
#pragma once

#include "engine.hpp"

namespace {

// Turns logits into probabilities, as Python does.
inline void softmax_row(int size, double* row) {
  const double largest = *std::max_element(row, row + size);
  double total = 0;
  for (int o = 0; o < size; o++) total += row[o] = std::exp(row[o] - largest);
  const double scale = 1 / total;
  for (int o = 0; o < size; o++) row[o] *= scale;
}

// A tree of tokens. Each node has read its token and those of its ancestors, from a root on. It has
// its own copy of the parameters, which training does not change.
struct Branches {
  std::mutex mutex;
  const Shape shape;
  const ParamLayout layout;
  const Buffer params;
  Workspace workspace;
  Sampler sampler;

  explicit Branches(const Engine& engine)
      : shape(engine.shape),
        layout(engine.layout),
        params(engine.params.data, engine.layout.size),
        sampler({shape, layout, params.data}, workspace),
        held(size_t(shape.block_size) * NUM_LANES, -1) {}

  // Adds n nodes, and writes the probability of each token after each node. Parents are nodes of
  // earlier calls, or −1 for a root.
  int push(int n, const int32_t* new_parents, const int32_t* tokens, double* rows) {
    const int first = int(parents.size());
    for (int i = 0; i < n; i++) {
      if (new_parents[i] < -1 || new_parents[i] >= first) return Error::index;
      if (tokens[i] < 0 || tokens[i] >= shape.vocab_size) return Error::token;
      if (place_after(new_parents[i]) >= shape.block_size) return Error::length;
    }
    states.resize(states.size() + size_t(n) * sampler.state_size());
    std::vector<int> order(static_cast<size_t>(n));
    for (int i = 0; i < n; i++) {
      places.push_back(place_after(new_parents[i]));
      parents.push_back(new_parents[i]);
      order[size_t(i)] = i;
    }
    const auto place_of = [&](int i) { return places[size_t(first + i)]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return place_of(a) < place_of(b); });
    for (int begin = 0, end; begin < n; begin = end) {
      const int place = place_of(order[size_t(begin)]);
      for (end = begin; end < std::min(n, begin + NUM_LANES); end++)
        if (place_of(order[size_t(end)]) != place) break;
      read(place, first, tokens, &order[size_t(begin)], end - begin, rows);
    }
    return Error::none;
  }

 private:
  std::vector<int> parents, places;
  std::vector<Real> states;  // keys and values of each node
  std::vector<int> held;     // the node whose state is in [place][lane] of the sampler, or −1

  int place_after(int node) const { return node < 0 ? 0 : places[size_t(node)] + 1; }

  // Reads the tokens of up to NUM_LANES nodes at one place, a node in each lane.
  void read(int place, int first, const int32_t* tokens, const int* which, int count,
            double* rows) {
    std::fill_n(sampler.input, NUM_LANES, 0);
    for (int lane = 0; lane < count; lane++) {
      restore(lane, parents[size_t(first + which[lane])]);
      sampler.input[lane] = tokens[which[lane]];
    }
    sampler.push_at(place);
    for (int lane = 0; lane < NUM_LANES; lane++) {
      const int node = lane < count ? first + which[lane] : -1;
      held[size_t(place) * NUM_LANES + size_t(lane)] = node;
      if (node < 0) continue;
      sampler.save(place, lane, state(node));
      double* row = rows + ptrdiff_t(which[lane]) * shape.vocab_size;
      for (int o = 0; o < shape.vocab_size; o++) row[o] = double(sampler.logit(o, lane));
      softmax_row(shape.vocab_size, row);
    }
  }

  // Gives a lane the keys and values of a node and its ancestors, except those that it still has.
  void restore(int lane, int node) {
    for (; node >= 0; node = parents[size_t(node)]) {
      const int place = places[size_t(node)];
      int& has = held[size_t(place) * NUM_LANES + size_t(lane)];
      if (has != node) sampler.restore(place, lane, state(node));
      has = node;
    }
  }

  Real* state(int node) { return states.data() + size_t(node) * sampler.state_size(); }
};

}  // namespace
