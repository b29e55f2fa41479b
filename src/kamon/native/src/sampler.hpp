// Sampling: one document in each lane, each at its own position.
//
// When the document of a lane has ended, the lane takes the next one. All documents have the same
// start: BOS, or the tokens of given values. The first rounds read it once for all of them, and keep
// its keys and values. Those of the other rounds go into a ring. A lane attends only to the start and
// the rounds since its document began.
#pragma once

#include <memory>

#include "blend.hpp"
#include "lookahead.hpp"
#include "model.hpp"
#include "philox.hpp"
#include "thread_pool.hpp"

namespace {

class Sampler {
 public:
  int position[NUM_LANES];  // of the token that a lane reads next, or −1 in an idle lane
  int input[NUM_LANES];

  // start_size_: the tokens of the start.
  Sampler(const Model& model_, Workspace& workspace_, int start_size_ = 1)
      : model(model_), workspace(workspace_), start_size(start_size_) {
    std::fill_n(position, NUM_LANES, -1);
    std::fill_n(input, NUM_LANES, 0);
    workspace.fit(shape, NUM_LANES, 1);
    const size_t cache = size_t(shape.n_layer) * shape.block_size * shape.n_embd * NUM_LANES;
    keys.resize(cache);
    values.resize(cache);
    const size_t max_keys = size_t(round_up(shape.block_size, BLOCK));
    probs.resize(max_keys * L);
    age.assign(max_keys, -1);
    slot.assign(max_keys, 0);
  }

  // Every lane reads its input. Then `logit` has the logits of the token after it. The first calls
  // read the start.
  void push() { read(start_round()); }

  // Does the same for lanes that are all at this position, with the keys of positions before it in
  // the slots of these numbers. Calls of `push` and `push_at` must not be mixed.
  void push_at(int place) {
    std::fill_n(position, NUM_LANES, place);
    see_up_to(place);
    read(place);
  }

  // The number of keys and values of one position of a lane.
  size_t state_size() const { return 2 * size_t(shape.n_layer) * shape.n_embd; }
  void save(int place, int lane, Real* out) const {
    each_state(place, lane, [&](const Real& number) { *out++ = number; });
  }
  void restore(int place, int lane, const Real* from) {
    each_state(place, lane, [&](Real& number) { number = *from++; });
  }

  int block_size() const { return shape.block_size; }

  // The tokens after the first `num_choices` are never chosen.
  void limit(int num_choices_) { num_choices = num_choices_; }
  ptrdiff_t num_logits() const { return ptrdiff_t(num_choices) * NUM_LANES; }

  // After `push`: [token][lane].
  Real* logits() { return workspace.logits.data; }
  Real logit(int token, int lane) const {
    return workspace.logits.data[ptrdiff_t(token) * NUM_LANES + lane];
  }

  // Turns the logits into running sums of probabilities, which need not reach 1.
  void accumulate(double temperature) {
    each_probability(temperature, [](Real* row, Vec, Vec total) { store(row, total); });
  }

  // Turns the logits into probabilities up to a factor, whose totals are returned for each lane.
  void exponentiate(double temperature, Real* totals) {
    const Real* first = workspace.logits.data;
    each_probability(temperature, [&](Real* row, Vec p, Vec total) {
      store(row, p);
      store(totals + (row - first) % NUM_LANES, total);
    });
  }

  // After `accumulate`: the next token of each lane, the same as in Python's sampler. u: the random
  // draw of each lane.
  void choose(const Real* u, int* tokens) const {
    const Real* sums = workspace.logits.data;
    const Real* totals = sums + ptrdiff_t(num_choices - 1) * NUM_LANES;
    for (int j = 0; j < NUM_LANES; j += L) {
      const Vec mark = load(u + j) * load(totals + j);
      IntVec token = {};
      for (int o = 0; o < num_choices - 1; o++)  // count the sums up to the mark
        token += (load(sums + ptrdiff_t(o) * NUM_LANES + j) <= mark) ? IntVec{} + 1 : IntVec{};
      for (int l = 0; l < L; l++) tokens[j + l] = int(token[l]);
    }
  }

 private:
  const Model model;
  Workspace& workspace;
  const Shape& shape = model.shape;
  const ParamLayout& layout = model.layout;
  Buffer keys, values;  // [layer][slot][feature][lane]
  Buffer probs;
  const int start_size;
  int num_choices = shape.vocab_size;
  std::vector<int> age, slot;  // of each key: rounds since it was made (less than 0: the start), its slot
  int num_keys = 0;
  int num_started = 0;  // tokens of the start that were read
  int64_t round = 0;    // since the start

  // Reads the inputs. Their keys and values go into slot `now`.
  void read(int now) {
    const Columns columns{NUM_LANES, NUM_LANES};
    const int n_embd = shape.n_embd;
    const size_t row = size_t(n_embd) * NUM_LANES;
    Real* x = workspace.x.data;
    workspace.columns = columns;
    fill_chunk();
    embed(model, workspace.chunk, x, columns);
    rmsnorm(n_embd, x, workspace.normed0.data, workspace.scale0.data, columns);
    std::memcpy(x, workspace.normed0.data, sizeof(Real) * row);
    for (int i = 0; i < shape.n_layer; i++) {
      auto& layer = workspace.layers[i];
      Real *normed1 = layer.normed1.data, *normed2 = layer.normed2.data, *qkv = layer.qkv.data;
      Real *layer_heads = layer.heads.data, *hidden = layer.hidden.data;
      Real* layer_keys = keys.data + size_t(i) * shape.block_size * row;
      Real* layer_values = values.data + size_t(i) * shape.block_size * row;
      rmsnorm(n_embd, x, normed1, layer.scale1.data, columns);
      linear<Epilogue::set>(3 * n_embd, layout.wqkv(i), model, normed1, qkv, columns);
      std::memcpy(layer_keys + now * row, qkv + row, sizeof(Real) * row);
      std::memcpy(layer_values + now * row, qkv + 2 * row, sizeof(Real) * row);
      attend(qkv, layer_keys, layer_values, layer_heads);
      linear<Epilogue::add>(n_embd, layout.wo(i), model, layer_heads, x, columns);
      rmsnorm(n_embd, x, normed2, layer.scale2.data, columns);
      linear<Epilogue::relu>(shape.n_hidden, layout.fc1(i), model, normed2, hidden, columns);
      linear<Epilogue::add>(n_embd, layout.fc2(i), model, hidden, x, columns);
    }
    linear<Epilogue::set>(shape.vocab_size, layout.lm_head(), model, x, workspace.logits.data,
                          columns);
  }

  // Calls visit(number) for each key and value of one position of a lane.
  template <class Visit>
  void each_state(int place, int lane, const Visit& visit) const {
    for (int i = 0; i < shape.n_layer; i++)
      for (Real* cache : {keys.data, values.data}) {
        const size_t row = (size_t(i) * shape.block_size + place) * shape.n_embd;
        for (int f = 0; f < shape.n_embd; f++) visit(cache[(row + f) * NUM_LANES + lane]);
      }
  }

  // Calls visit(row, p, total) for each token and L lanes: p up to a factor, and the sum so far.
  template <class Visit>
  void each_probability(double temperature, const Visit& visit) {
    const double scale = 1 / temperature;
    const Real factor = Real(std::min(scale, double(std::numeric_limits<Real>::max())));
    for (int j = 0; j < NUM_LANES; j += L) {
      Real* logits = workspace.logits.data + j;
      Vec top = load(logits);
      for (int o = 1; o < num_choices; o++)
        top = vmax(load(logits + ptrdiff_t(o) * NUM_LANES), top);
      const bool greedy = scale > 1e6 && near_greedy(logits, scale);
      Vec total = {};
      for (int o = 0; o < num_choices; o++) {
        Real* row = logits + ptrdiff_t(o) * NUM_LANES;
        const Vec logit = load(row);
        Vec p;
        if (greedy)
          p = ((logit == top) & (total == Vec{})) ? splat(Real(1)) : Vec{};  // the first one
        else
          p = vexp((logit - top) * factor);
        total += p;
        visit(row, p, total);
      }
    }
  }

  void fill_chunk() {
    Chunk& chunk = workspace.chunk;
    chunk.clear();
    chunk.inputs.resize(std::max<size_t>(chunk.inputs.size(), NUM_LANES));
    chunk.positions.resize(std::max<size_t>(chunk.positions.size(), NUM_LANES));
    chunk.num_tokens = NUM_LANES;
    for (int lane = 0; lane < NUM_LANES; lane++) {
      chunk.inputs[lane] = input[lane];
      chunk.positions[lane] = std::max(0, position[lane]);
    }
  }

  // Finds the keys that a lane may attend to, the oldest first. After the start, some may be too
  // old for all lanes. Returns the slot of this round.
  int start_round() {
    if (num_started < start_size) {
      see_up_to(num_started);
      return num_started++;
    }
    const int depth = 1 + std::max(0, *std::max_element(position, position + NUM_LANES));
    const int ring = shape.block_size - start_size;
    num_keys = round_up(std::max(depth, start_size), BLOCK);
    const auto slot_of = [&](int64_t number) {
      return ring ? start_size + int(number % ring) : start_size - 1;
    };
    for (int n = start_size; n < num_keys; n++) {
      age[n] = num_keys - 1 - n;
      slot[n] = slot_of(round + (ring ? ring - age[n] % ring : 0));
    }
    return slot_of(round++);
  }

  // The keys of the positions up to this one are in the slots of these numbers.
  void see_up_to(int place) {
    num_keys = round_up(place + 1, BLOCK);
    for (int n = 0; n < num_keys; n++) {
      age[n] = n - start_size;
      slot[n] = std::min(n, shape.block_size - 1);
    }
  }

  // Whether the temperature is so near to 0 that only the largest logit counts, or the first of
  // equal ones.
  bool near_greedy(const Real* logits, double scale) const {
    double size = 0;
    for (int o = 0; o < num_choices; o++)
      for (int l = 0; l < L; l++)
        size = std::max(size, std::fabs(double(logits[ptrdiff_t(o) * NUM_LANES + l])));
    return !std::isfinite(scale * size);
  }

  // `attention` of model.hpp for one query in each lane. Each lane has its own keys.
  void attend(const Real* q, const Real* layer_keys, const Real* layer_values, Real* heads) {
    for (int j = 0; j < NUM_LANES; j += L)
      for (int h = 0; h < shape.n_head; h++) {
        const size_t head = size_t(h) * shape.head_dim * NUM_LANES + j;
        attention_probs(q + head, layer_keys + head, position + j);
        sum_values(layer_values + head, heads + head);
      }
  }

  // Sets `probs` to the attention weights of one head in L lanes with these positions.
  void attention_probs(const Real* q, const Real* head_keys, const int* positions) {
    const Real scale = Real(1) / std::sqrt(Real(shape.head_dim));
    const Vec masked = splat(-std::numeric_limits<Real>::infinity());
    const size_t row = size_t(shape.n_embd) * NUM_LANES;
    IntVec reach;  // a lane attends to keys with a lower age
    for (int l = 0; l < L; l++)
      reach[l] = Int(positions[l] < 0 ? 0 : positions[l] + 1 - start_size);
    Vec largest = masked;
    for (int key = 0; key < num_keys; key += BLOCK) {
      const Real* k[BLOCK];
      for (int n = 0; n < BLOCK; n++) k[n] = head_keys + slot[key + n] * row;
      Vec score[BLOCK] = {};
      for (int i = 0; i < shape.head_dim; i++) {
        const Vec query = load(q + i * NUM_LANES);
        for (int n = 0; n < BLOCK; n++) score[n] += query * load(k[n] + i * NUM_LANES);
      }
      for (int n = 0; n < BLOCK; n++) {
        score[n] = reach > Int(age[key + n]) ? score[n] * scale : masked;
        store(probs.data + (key + n) * L, score[n]);
        largest = vmax(score[n], largest);
      }
    }
    Vec total = {};
    for (int n = 0; n < num_keys; n++) {
      const Vec p = vexp(load(probs.data + n * L) - largest);
      store(probs.data + n * L, p);
      total += p;
    }
    const Vec inverse = Real(1) / total;
    for (int n = 0; n < num_keys; n++)
      store(probs.data + n * L, load(probs.data + n * L) * inverse);
  }

  // The values of one head, weighted by `probs`.
  void sum_values(const Real* head_values, Real* out) const {
    constexpr int FEATURES = 4;
    const size_t row = size_t(shape.n_embd) * NUM_LANES;
    for (int i = 0; i < shape.head_dim; i += FEATURES) {
      const int count = std::min(FEATURES, shape.head_dim - i);
      Vec sum[FEATURES] = {};
      for (int n = 0; n < num_keys; n++) {
        const Vec p = load(probs.data + n * L);
        const Real* v = head_values + slot[n] * row + i * NUM_LANES;
        if (count == FEATURES)
          for (int f = 0; f < FEATURES; f++) sum[f] += p * load(v + f * NUM_LANES);
        else
          for (int f = 0; f < count; f++) sum[f] += p * load(v + f * NUM_LANES);
      }
      for (int f = 0; f < count; f++) store(out + (i + f) * NUM_LANES, sum[f]);
    }
  }
};

// One model of a mixture: the GPT after the tokens of a start, blended with n-grams.
struct SamplePart {
  double share, weight;  // of the part, and of the GPT in the blend
  const int32_t* start;
  std::vector<WeightedTable> tables;
};

struct SampleParams {
  const int64_t* numbers;  // of each document: its number among the random draws
  double temperature;
  uint64_t seed;
  int bos;
  int num_choices;  // tokens after the first ones are never chosen
  int start_size;   // tokens of each start
  std::vector<SamplePart> parts;
};

// The models of a mixture, which read the same documents. Each token is sampled from the mean of
// their probabilities, weighted by their shares.
class Mixture {
 public:
  Mixture(const Model& model, Workspace& workspace, const SampleParams& params_)
      : params(params_), plain(is_plain(params_)) {
    for (const SamplePart& part : params.parts) {
      samplers.push_back(std::make_unique<Sampler>(model, workspace, params.start_size));
      samplers.back()->limit(params.num_choices);
      if (!plain)
        mixers.push_back(std::make_unique<Mixer>(model.shape.vocab_size, params.num_choices,
                                                 part.weight, part.tables));
    }
    if (samplers.size() > 1) mean.resize(size_t(lead().num_logits()));
  }

  // The one whose positions and inputs count, and which has the logits of the mixture.
  Sampler& lead() { return *samplers[0]; }
  int first_position() const { return params.start_size - 1; }

  // Reads the start, once for all documents.
  void read_start() {
    for (int lane = 0; lane < NUM_LANES; lane++) begin(lane);
    for (size_t i = 0; i < samplers.size(); i++) {
      Sampler& sampler = *samplers[i];
      for (int place = 0; place < params.start_size; place++) {
        std::fill_n(sampler.position, NUM_LANES, place);
        std::fill_n(sampler.input, NUM_LANES, params.parts[i].start[place]);
        sampler.push();
      }
      add(i);
    }
    finish();
  }

  void push() {
    for (size_t i = 0; i < samplers.size(); i++) {
      if (i) {
        std::copy_n(lead().position, NUM_LANES, samplers[i]->position);
        std::copy_n(lead().input, NUM_LANES, samplers[i]->input);
      }
      samplers[i]->push();
      add(i);
    }
    finish();
  }

  void begin(int lane) {
    for (const auto& mixer : mixers) mixer->begin(lane, params.bos);
  }
  void read(int lane, int token) {
    for (const auto& mixer : mixers) mixer->read(lane, token);
  }

 private:
  const SampleParams& params;
  const bool plain;  // only a GPT, whose logits are enough
  std::vector<std::unique_ptr<Sampler>> samplers;
  std::vector<std::unique_ptr<Mixer>> mixers;
  Buffer mean;

  static bool is_plain(const SampleParams& params) {
    return params.parts.size() == 1 && params.parts[0].tables.empty();
  }

  // Adds the probabilities of a part to their mean. The memory of the logits is that of all parts.
  void add(size_t i) {
    if (plain) return;
    Real* p = samplers[i]->logits();
    mixers[i]->mix(p);
    if (samplers.size() == 1) return;
    const Vec share = splat(Real(params.parts[i].share));
    for (ptrdiff_t n = 0; n < lead().num_logits(); n += L)
      store(mean.data + n, load(p + n) * share + (i ? load(mean.data + n) : Vec{}));
  }

  void finish() {
    if (plain) return;
    Real* p = lead().logits();
    if (samplers.size() > 1) std::copy_n(mean.data, lead().num_logits(), p);
    Mixer::take_logarithms(p, lead().num_logits());
  }
};

// Documents first … last − 1. Document i has block_size places in `tokens`, from i · block_size on.
// It uses lengths[i] of them.
struct SampleRows {
  int64_t first, last;
  int32_t* tokens;
  int64_t* lengths;
};

// Chooses the first token of each document from the sums after the start, the same in every lane.
inline std::vector<int> first_tokens(const Sampler& sampler, const SampleParams& params,
                                     const SampleRows& rows) {
  std::vector<int> tokens;
  const uint64_t positions[NUM_LANES] = {};
  for (int64_t doc = rows.first; doc < rows.last; doc += NUM_LANES) {
    uint64_t ids[NUM_LANES];
    Real u[NUM_LANES];
    int chosen[NUM_LANES];
    for (int lane = 0; lane < NUM_LANES; lane++)
      ids[lane] = uint64_t(params.numbers[std::min(doc + lane, rows.last - 1)]);
    uniforms<NUM_LANES>(params.seed, ids, positions, u);
    sampler.choose(u, chosen);
    tokens.insert(tokens.end(), chosen, chosen + std::min<int64_t>(NUM_LANES, rows.last - doc));
  }
  return tokens;
}

// Samples documents. Ends early if `stop` asks for it.
inline void sample_documents(Mixture& mixture, const SampleParams& params, const SampleRows& rows,
                             const StopFlag& stop) {
  Sampler& sampler = mixture.lead();
  int64_t docs[NUM_LANES];  // the document of each lane, or −1 in an idle lane
  uint64_t ids[NUM_LANES], positions[NUM_LANES];
  int chosen[NUM_LANES];
  Real u[NUM_LANES];
  const int block_size = sampler.block_size(), first = mixture.first_position();
  int64_t next = rows.first, num_running = NUM_LANES;
  const auto advance = [&] {
    mixture.push();
    sampler.accumulate(params.temperature);
  };
  const auto begin = [&](int lane) {
    docs[lane] = next < rows.last ? next++ : -1;
    sampler.position[lane] = docs[lane] < 0 ? -1 : first;
    num_running -= docs[lane] < 0;
    mixture.begin(lane);
  };
  mixture.read_start();
  sampler.accumulate(params.temperature);
  const std::vector<int> firsts = first_tokens(sampler, params, rows);
  // Gives a lane the next token of its document. If this document ends, the lane takes the next
  // ones until one of them continues.
  const auto append = [&](int lane, int token) {
    int& position = sampler.position[lane];
    while (docs[lane] >= 0) {
      const int64_t doc = docs[lane];
      if (position == first) token = firsts[size_t(doc - rows.first)];
      const bool ends = token == params.bos;
      if (!ends) rows.tokens[doc * block_size + position++ - first] = token;
      if (!ends && position < block_size) {
        sampler.input[lane] = token;
        mixture.read(lane, token);
        return;
      }
      rows.lengths[doc] = position - first;
      begin(lane);
    }
  };
  for (int lane = 0; lane < NUM_LANES; lane++) {
    begin(lane);
    append(lane, params.bos);
  }
  while (num_running && !stop()) {
    advance();
    for (int lane = 0; lane < NUM_LANES; lane++) {
      ids[lane] = docs[lane] < 0 ? 0 : uint64_t(params.numbers[docs[lane]]);
      positions[lane] = uint64_t(std::max(0, sampler.position[lane] - first));
    }
    uniforms<NUM_LANES>(params.seed, ids, positions, u);
    sampler.choose(u, chosen);
    for (int lane = 0; lane < NUM_LANES; lane++) append(lane, chosen[lane]);
  }
}

// Samples documents under conditions: see guided_document of the Python side. weights: of each
// document.
class GuidedSampling {
 public:
  GuidedSampling(Mixture& mixture_, Guide& guide_, const SampleParams& params_,
                 const SampleRows& rows_, double* weights_)
      : mixture(mixture_),
        sampler(mixture_.lead()),
        start(mixture_.first_position()),
        guide(guide_),
        params(params_),
        rows(rows_),
        weights(weights_),
        next(rows_.first) {}

  void run(const StopFlag& stop) {
    read_start();
    for (int lane = 0; lane < NUM_LANES; lane++) begin(lane);
    while (num_running && !stop()) {
      advance();
      for (int lane = 0; lane < NUM_LANES; lane++) {
        ids[lane] = docs[lane] < 0 ? 0 : uint64_t(params.numbers[docs[lane]]);
        positions[lane] = uint64_t(std::max(0, sampler.position[lane] - start));
      }
      uniforms<NUM_LANES>(params.seed, ids, positions, u);
      for (int lane = 0; lane < NUM_LANES; lane++) {
        if (docs[lane] < 0) continue;
        guide.weigh(lane, sampler.logits(), double(totals[lane]));
        if (!append(lane, u[lane])) begin(lane);
      }
    }
  }

 private:
  Mixture& mixture;
  Sampler& sampler;
  const int start;  // the position of its last token
  Guide& guide;
  const SampleParams& params;
  const SampleRows& rows;
  double* weights;
  int64_t next, num_running = NUM_LANES;
  int64_t docs[NUM_LANES];  // −1 in an idle lane
  uint64_t ids[NUM_LANES], positions[NUM_LANES];
  double u[NUM_LANES];
  Real totals[NUM_LANES];
  std::vector<Real> first;  // p of each first token, in all lanes
  Real first_total;

  void advance() {
    mixture.push();
    sampler.exponentiate(params.temperature, totals);
  }

  void read_start() {
    mixture.read_start();
    sampler.exponentiate(params.temperature, totals);
    first.assign(sampler.logits(), sampler.logits() + sampler.num_logits());
    first_total = totals[0];
  }

  // A lane takes the next documents, until one has a first token and does not end with it.
  void begin(int lane) {
    for (;;) {
      docs[lane] = next < rows.last ? next++ : -1;
      sampler.position[lane] = docs[lane] < 0 ? -1 : start;
      if (docs[lane] < 0) {
        num_running--;
        return;
      }
      mixture.begin(lane);
      guide.begin(lane);
      const uint64_t id = uint64_t(params.numbers[docs[lane]]), position = 0;
      double draw;
      uniforms<1>(params.seed, &id, &position, &draw);
      guide.weigh(lane, first.data(), double(first_total));
      if (append(lane, draw)) return;
    }
  }

  // Gives a lane the next token of its document. Returns whether the document continues.
  bool append(int lane, double draw) {
    const int64_t doc = docs[lane];
    int& position = sampler.position[lane];
    const bool stuck = !guide.can_follow(lane);
    const int token = stuck ? params.bos : guide.choose(lane, draw);
    if (token != params.bos) {
      rows.tokens[doc * sampler.block_size() + position++ - start] = token;
      if (!guide.read(lane, token) && position < sampler.block_size()) {
        sampler.input[lane] = token;
        mixture.read(lane, token);
        return true;
      }
    }
    rows.lengths[doc] = position - start;
    weights[doc] = stuck ? 0 : guide.weight[lane];
    return false;
  }
};

}  // namespace
