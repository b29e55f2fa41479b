// Sampling: documents side by side, one a lane, each at its own place.
//
// A lane whose document has ended takes the next one. Keys and values go into a ring of the last
// block_size rounds, of which a lane looks at those since its document began.
#pragma once

#include "model.hpp"
#include "philox.hpp"
#include "thread_pool.hpp"

namespace {

constexpr int SIDE = 2 * L;

class Sampler {
 public:
  int position[SIDE];  // of the token that a lane reads next; −1 in an idle lane
  int input[SIDE];

  Sampler(const Shape& shape, const Layout& parameter_layout, const Real* parameters, Workspace& workspace)
      : s(shape), layout(parameter_layout), params(parameters), w(workspace) {
    std::fill_n(position, SIDE, -1);
    std::fill_n(input, SIDE, 0);
    w.fit(s, SIDE, 1);
    const size_t cache = size_t(s.n_layer) * s.block_size * s.n_embd * SIDE;
    keys.resize(cache);
    values.resize(cache);
    const size_t most = size_t(round_up(s.block_size, BLOCK));
    probs.resize(most * L);
    age.resize(most);
    slot.resize(most);
  }

  // Every lane reads its input; the logits of what follows it are then in `logits`.
  void push() {
    w.columns = {SIDE, SIDE};
    Chunk& chunk = w.chunk;
    chunk.clear();
    chunk.inputs.resize(std::max<size_t>(chunk.inputs.size(), SIDE));
    chunk.positions.resize(std::max<size_t>(chunk.positions.size(), SIDE));
    chunk.num_tokens = SIDE;
    int depth = 1;
    for (int lane = 0; lane < SIDE; lane++) {
      chunk.inputs[lane] = input[lane];
      chunk.positions[lane] = std::max(0, position[lane]);
      depth = std::max(depth, position[lane] + 1);
    }
    // From the oldest round that a lane may look at to this one; the first few may be too old for all.
    num_keys = round_up(depth, BLOCK);
    const int now = round++ % s.block_size;
    for (int n = 0; n < num_keys; n++) {
      age[n] = num_keys - 1 - n;
      slot[n] = (now + 4 * s.block_size - age[n] % s.block_size) % s.block_size;
    }
    embed(layout, params, chunk, w.x.data, s.n_embd, w.columns);
    rmsnorm(s.n_embd, w.x.data, w.normed0.data, w.scale0.data, w.columns);
    std::memcpy(w.x.data, w.normed0.data, sizeof(Real) * s.n_embd * SIDE);
    const size_t row = size_t(s.n_embd) * SIDE;
    for (int i = 0; i < s.n_layer; i++) {
      auto& b = w.layers[i];
      Real* layer_keys = keys.data + size_t(i) * s.block_size * row;
      Real* layer_values = values.data + size_t(i) * s.block_size * row;
      rmsnorm(s.n_embd, w.x.data, b.normed1.data, b.scale1.data, w.columns);
      linear<Put::set>(3 * s.n_embd, layout.wqkv(i), params, b.normed1.data, b.qkv.data, w.columns);
      std::memcpy(layer_keys + now * row, b.qkv.data + row, sizeof(Real) * row);
      std::memcpy(layer_values + now * row, b.qkv.data + 2 * row, sizeof(Real) * row);
      attend(b.qkv.data, layer_keys, layer_values, b.heads.data);
      linear<Put::add>(s.n_embd, layout.wo(i), params, b.heads.data, w.x.data, w.columns);
      rmsnorm(s.n_embd, w.x.data, b.normed2.data, b.scale2.data, w.columns);
      linear<Put::relu>(s.n_hidden, layout.fc1(i), params, b.normed2.data, b.hidden.data, w.columns);
      linear<Put::add>(s.n_embd, layout.fc2(i), params, b.hidden.data, w.x.data, w.columns);
    }
    linear<Put::set>(s.vocab_size, layout.lm_head(), params, w.x.data, w.logits.data, w.columns);
  }

  Real logit(int token, int lane) const { return w.logits.data[ptrdiff_t(token) * SIDE + lane]; }

  // The next token of each lane, as `choose` in kamon/sampler.py: u is the draw of each lane.
  // Consumes the logits.
  void choose(double temperature, const Real* u, int* tokens) {
    const double scale = 1 / temperature;
    const Real by = Real(std::min(scale, double(std::numeric_limits<Real>::max())));
    for (int j = 0; j < SIDE; j += L) {
      Real* logits = w.logits.data + j;
      Vec top = load(logits);
      for (int o = 1; o < s.vocab_size; o++) top = vmax(load(logits + ptrdiff_t(o) * SIDE), top);
      if (scale > 1e6 && cold(logits, top, scale, tokens + j)) continue;
      Vec total = {};
      for (int o = 0; o < s.vocab_size; o++) {
        Real* at = logits + ptrdiff_t(o) * SIDE;
        const Vec below = load(at) - top;
        total += vexp(below * by);
        store(at, total);
      }
      const Vec mark = load(u + j) * total;
      IntVec token = {};
      for (int o = 0; o < s.vocab_size - 1; o++)  // those whose running sum does not pass the mark
        token += (load(logits + ptrdiff_t(o) * SIDE) <= mark) ? IntVec{} + 1 : IntVec{};
      for (int l = 0; l < L; l++) tokens[j + l] = int(token[l]);
    }
  }

 private:
  const Shape& s;
  const Layout& layout;
  const Real* params;
  Workspace& w;
  Buffer keys, values;  // [layer][slot][feature][lane]
  Buffer probs;
  std::vector<int> age, slot;  // of each key that is looked at
  int num_keys = 0;
  int64_t round = 0;

  // So near to temperature 0 that only the largest logit is left, the first one among equals.
  bool cold(const Real* logits, Vec top, double scale, int* tokens) const {
    double size = 0;
    for (int o = 0; o < s.vocab_size; o++)
      for (int l = 0; l < L; l++)
        size = std::max(size, std::fabs(double(logits[ptrdiff_t(o) * SIDE + l])));
    if (std::isfinite(scale * size)) return false;
    for (int l = 0; l < L; l++) {
      tokens[l] = 0;
      while (tokens[l] < s.vocab_size - 1 && logits[ptrdiff_t(tokens[l]) * SIDE + l] != top[l])
        tokens[l]++;
    }
    return true;
  }

  // `attention` of model.hpp for one query a lane, with keys of its own in every lane.
  void attend(const Real* q, const Real* layer_keys, const Real* layer_values, Real* heads) {
    const Real scale = Real(1) / std::sqrt(Real(s.head_dim));
    const Vec unseen = splat(-std::numeric_limits<Real>::infinity());
    const size_t row = size_t(s.n_embd) * SIDE;
    for (int j = 0; j < SIDE; j += L) {
      IntVec place;
      for (int l = 0; l < L; l++) place[l] = Int(std::max(0, position[j + l]));
      for (int h = 0; h < s.n_head; h++) {
        const size_t head = size_t(h) * s.head_dim * SIDE + j;
        Vec largest = unseen;
        for (int key = 0; key < num_keys; key += BLOCK) {
          const Real* k[BLOCK];
          for (int n = 0; n < BLOCK; n++) k[n] = layer_keys + slot[key + n] * row + head;
          Vec score[BLOCK] = {};
          for (int i = 0; i < s.head_dim; i++) {
            const Vec query = load(q + head + i * SIDE);
            for (int n = 0; n < BLOCK; n++) score[n] += query * load(k[n] + i * SIDE);
          }
          for (int n = 0; n < BLOCK; n++) {
            score[n] = place >= Int(age[key + n]) ? score[n] * scale : unseen;
            store(probs.data + (key + n) * L, score[n]);
            largest = vmax(score[n], largest);
          }
        }
        Vec total = {};
        for (int key = 0; key < num_keys; key += BLOCK)
          for (int n = key; n < key + BLOCK; n++) {
            const Vec p = vexp(load(probs.data + n * L) - largest);
            store(probs.data + n * L, p);
            total += p;
          }
        const Vec inverse = Real(1) / total;
        for (int n = 0; n < num_keys; n++)
          store(probs.data + n * L, load(probs.data + n * L) * inverse);
        constexpr int FEATURES = 4;
        for (int i = 0; i < s.head_dim; i += FEATURES) {
          const int count = std::min(FEATURES, s.head_dim - i);
          Vec sum[FEATURES] = {};
          for (int n = 0; n < num_keys; n++) {
            const Vec p = load(probs.data + n * L);
            const Real* v = layer_values + slot[n] * row + head + i * SIDE;
            if (count == FEATURES)
              for (int f = 0; f < FEATURES; f++) sum[f] += p * load(v + f * SIDE);
            else
              for (int f = 0; f < count; f++) sum[f] += p * load(v + f * SIDE);
          }
          for (int f = 0; f < count; f++) store(heads + head + (i + f) * SIDE, sum[f]);
        }
      }
    }
  }
};

// Documents first … last − 1: row i of `tokens` has block_size places, of which lengths[i] are used.
// Its draws are those of document `number` + i. Leaves off when `stop` says so.
void sample_documents(Sampler& sampler, const Stop& stop, int block_size, int64_t number, int64_t first, int64_t last,
                      double temperature, uint64_t seed, int bos, int32_t* tokens, int64_t* lengths) {
  int64_t index[SIDE];  // of each lane's document; −1 in an idle lane
  uint64_t numbers[SIDE], positions[SIDE];
  int chosen[SIDE];
  Real u[SIDE];
  int64_t next = first, running = 0;
  const auto begin = [&](int lane) {
    index[lane] = next < last ? next++ : -1;
    sampler.position[lane] = index[lane] < 0 ? -1 : 0;
    sampler.input[lane] = bos;
    running += index[lane] >= 0;
  };
  for (int lane = 0; lane < SIDE; lane++) begin(lane);
  while (running && !stop()) {
    sampler.push();
    for (int lane = 0; lane < SIDE; lane++) {
      numbers[lane] = uint64_t(number + index[lane]);
      positions[lane] = uint64_t(sampler.position[lane]);
    }
    uniforms<SIDE>(seed, numbers, positions, u);
    sampler.choose(temperature, u, chosen);
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
        sampler.input[lane] = chosen[lane];
      }
    }
  }
}

}  // namespace
