// Every function of the native engine on random shapes, to be run under sanitizers: they find what
// no comparison of results does (a read behind a buffer, an overflow, a leak, a race).

#include "../../src/kamon/native/src/c_api.cpp"

#include <atomic>
#include <cstdio>
#include <random>

#define CALL(name) KAMON_JOIN(name, KAMON_SUFFIX)

// What a task throws reaches the caller, when no thread is at work any longer; the next call works.
bool tasks_may_throw() {
  ThreadPool threads(3);
  for (int thrower = 0; thrower < 8; thrower++) {
    std::atomic<int> done{0};
    bool thrown = false;
    try {
      threads.run(8, [&](int i, int) {
        if (i == thrower) throw std::bad_alloc();
        done++;
      });
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    if (!thrown || done > 7) return false;
    done = 0;
    threads.run(8, [&](int, int) { done++; });
    if (done != 8) return false;
  }
  return true;
}

int main() {
  if (!tasks_may_throw()) return std::printf("a task that throws\n"), 1;
  std::mt19937 rng(1);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(rng);
  };
  std::normal_distribution<double> normal(0, 0.2);
  for (int round = 0; round < 60; round++) {
    const int n_head = draw(1, 8), n_embd = n_head * draw(1, 5), n_layer = draw(1, 3);
    const int block_size = draw(1, 24), vocab_size = draw(1, 70), threads = draw(1, 3);
    const size_t num_params =
        size_t(2 * vocab_size + block_size) * n_embd + size_t(n_layer) * 12 * n_embd * n_embd;
    void* engine = nullptr;
    const auto create = [&](int heads, size_t size) {
      return CALL(kamon_create)(n_layer, n_embd, heads, block_size, vocab_size, 0.85, 0.99, 1e-8,
                                0.1, round % 3 ? 0.0 : 0.05, round % 2 ? 0.3 : 0.0, 5, threads,
                                int64_t(size), &engine);
    };
    if (create(0, num_params) != Error::sizes || create(n_head, num_params + 1) != Error::sizes ||
        create(n_head, num_params) != Error::none)
      return std::printf("round %d: sizes\n", round), 1;
    std::vector<double> params(num_params), m(num_params), v(num_params);
    for (double& p : params) p = normal(rng);
    if (round % 4 == 3)  // embeddings above 0 and matrices below it: few hidden units are above 0
      for (size_t i = 0; i < num_params; i++)
        params[i] += i < size_t(2 * vocab_size + block_size) * n_embd ? 0.3 : -0.1;
    CALL(kamon_load)(engine, params.data(), m.data(), v.data(), 0);

    std::vector<int32_t> tokens;
    std::vector<int64_t> offsets{0};
    const int num_docs = draw(1, round % 9 ? 6 : 150);
    for (int d = 0; d < num_docs; d++) {
      for (int n = draw(d ? 0 : 2, block_size + 1); n; n--)
        tokens.push_back(draw(0, vocab_size - 1));
      offsets.push_back(int64_t(tokens.size()));
    }
    std::vector<double> weights(tokens.size() + 1, 0.5), logprobs(tokens.size() + 1);
    const int64_t num_tokens = int64_t(tokens.size());
    const int error =
        CALL(kamon_batch)(engine, tokens.data(), num_tokens, offsets.data(), num_docs,
                          round % 3 ? weights.data() : nullptr, nullptr, logprobs.data(), nullptr);
    std::vector<double> totals(num_docs);
    std::vector<int64_t> places(num_docs);
    CALL(kamon_document_logprobs)(engine, tokens.data(), num_tokens, offsets.data(), num_docs,
                                  totals.data(), places.data(), nullptr);
    for (const int64_t wrong : {int64_t(-1), num_tokens + 1, int64_t(1) << 40}) {
      std::vector<int64_t> others(offsets);
      others[draw(0, num_docs)] = wrong;
      if (CALL(kamon_batch)(engine, tokens.data(), num_tokens, others.data(), num_docs,
                            weights.data(), nullptr, logprobs.data(), nullptr) != Error::offsets)
        return std::printf("round %d: offset %lld\n", round, static_cast<long long>(wrong)), 1;
    }
    CALL(kamon_step)(engine, 0.01);
    std::vector<int64_t> indices;
    const int batch_size = draw(1, 4);
    for (int i = 0; i < 3 * batch_size; i++) indices.push_back(i ? draw(0, num_docs - 1) : 0);
    std::vector<double> rates(3, 0.01), losses(3);
    CALL(kamon_train)(engine, tokens.data(), num_tokens, offsets.data(), num_docs, indices.data(),
                      batch_size, 3, 7, rates.data(), losses.data(), nullptr);
    indices[0] = num_docs;  // an index too far is refused
    const int64_t refused =
        CALL(kamon_train)(engine, tokens.data(), num_tokens, offsets.data(), num_docs,
                          indices.data(), batch_size, 3, 7, rates.data(), losses.data(), nullptr);
    CALL(kamon_gradients)(engine, params.data());
    CALL(kamon_state)(engine, params.data(), m.data(), v.data());
    const int n = draw(0, round % 7 ? 30 : 300);
    std::vector<int32_t> sampled(size_t(n) * block_size);
    std::vector<int64_t> sampled_offsets(n + 1);
    const double temperature = round % 4 ? 1.0 : round % 8 ? 0.0 : 1e-300;
    std::vector<int64_t> numbers(n + 1, 1000);
    for (int i = 0; i < n; i++) numbers[i] += i;
    const int num_parts = draw(1, 2), start_size = draw(1, std::min(3, block_size));
    const std::vector<int32_t> starts(size_t(num_parts) * size_t(start_size), vocab_size - 1);
    const auto sample = [&](const void* table, double heat, int32_t* found, int64_t* found_offsets,
                            const int32_t* stopped) {
      std::vector<double> weights;  // of each part: its share, that of the GPT, that of the n-gram
      for (int i = 0; i < num_parts; i++)
        weights.insert(weights.end(), {1.0 / num_parts, 0.5}), weights.resize(weights.size() + !!table, 0.5);
      const std::vector<const void*> tables(2, table);
      const std::vector<int32_t> num_tables(2, table ? 1 : 0);
      return CALL(kamon_sample)(engine, numbers.data(), n, heat, 7, vocab_size - 1, vocab_size,
                                num_parts, start_size, starts.data(), weights.data(),
                                num_tables.data(), tables.data(), found, found_offsets, stopped);
    };
    sample(nullptr, temperature, sampled.data(), sampled_offsets.data(), nullptr);
    std::atomic<int32_t> stop{0};
    std::thread other([&] { stop = 1; });  // before, within or after the call
    std::vector<int32_t> unused(sampled.size());
    std::vector<int64_t> unused_offsets(n + 1);
    sample(nullptr, 1.0, unused.data(), unused_offsets.data(),
           reinterpret_cast<const int32_t*>(&stop));
    other.join();
    std::vector<uint32_t> state(625, 12345);
    state[624] = 624;
    std::vector<char> text;  // of documents, each with a NUL behind it
    const int64_t num_texts = draw(1, round % 7 ? 100 : 2000);
    for (int64_t i = 0; i < num_texts; i++) {
      for (int c = draw(0, 12); c; c--) text.push_back(char('a' + draw(0, 2)));
      text.push_back(0);
    }
    std::vector<uint8_t> first(num_texts);
    const int64_t found = CALL(kamon_first_occurrences)(text.data(), int64_t(text.size()), nullptr,
                                                        0, num_texts, first.data());
    std::vector<uint32_t> some(found);
    CALL(kamon_find_starts)(text.data(), int64_t(text.size()), num_texts, first.data(), some.data(),
                            4);
    std::vector<uint64_t> all(num_texts);
    CALL(kamon_find_starts)(text.data(), int64_t(text.size()), num_texts, nullptr, all.data(), 8);
    std::vector<uint64_t> more(num_texts + 1);
    const int beyond = CALL(kamon_find_starts)(text.data(), int64_t(text.size()), num_texts + 1,
                                               nullptr, more.data(), 8);
    if (beyond != Error::offsets) return std::printf("a document too many\n"), 1;
    CALL(kamon_shuffle)(state.data(), uint32_t(some.size()), some.data(), 4);
    CALL(kamon_shuffle)(state.data(), uint32_t(all.size()), all.data(), 8);
    const int64_t again = CALL(kamon_first_occurrences)(text.data(), int64_t(text.size()),
                                                        all.data(), 8, num_texts, first.data());
    std::vector<char> gathered(size_t(draw(1, 400)));
    int64_t count = 0;
    CALL(kamon_gather)(text.data(), int64_t(text.size()), some.data(), 4, found, gathered.data(),
                       int64_t(gathered.size()), &count);
    if (again != found) return std::printf("repetitions\n"), 1;
    std::vector<double> gaussian(size_t(draw(0, 9)));
    double spare = NAN;
    CALL(kamon_gauss)(state.data(), 0.1, int64_t(gaussian.size()), gaussian.data(), &spare);
    const int longest =
        draw(1, 10);  // the n-gram learns all documents but the first, if there are more
    void* ngram = CALL(kamon_ngram_create)(vocab_size, longest);
    const int counted = CALL(kamon_ngram_add)(ngram, tokens.data(), num_tokens, offsets.data(),
                                              num_docs > 1, num_docs);
    std::vector<int64_t> num_grams(size_t(longest) * 2 * 5);
    CALL(kamon_ngram_tally)(ngram, num_grams.data());
    std::vector<double> discounts(size_t(longest) * 2 * 4, 0.5), of_orders(tokens.size() * longest);
    CALL(kamon_ngram_finish)(ngram, discounts.data());
    const int64_t num_logprobs =
        CALL(kamon_ngram_logprobs)(ngram, 1, longest, tokens.data(), num_tokens, offsets.data(), 0,
                                   num_docs, of_orders.data(), num_tokens);
    std::vector<double> p(vocab_size);
    CALL(kamon_ngram_probabilities)(ngram, draw(1, longest), tokens.data(),
                                    draw(0, int(offsets[1])), p.data());
    if (CALL(kamon_ngram_probabilities)(ngram, longest + 1, tokens.data(), 0, p.data()) !=
        Error::index)
      return std::printf("an order too high\n"), 1;
    if (counted || num_logprobs < 0) return std::printf("round %d: an n-gram\n", round), 1;
    int64_t sizes[2];
    const int order = draw(1, longest);
    CALL(kamon_ngram_sizes)(ngram, order, sizes);
    std::vector<double> kept(sizes[0]), shares(sizes[1]);
    std::vector<int32_t> shorter(sizes[0]), followers(sizes[1]), longer(sizes[1]);
    std::vector<int64_t> begins(sizes[0] + 1);
    const int tabulated =
        CALL(kamon_ngram_tabulate)(ngram, order, kept.data(), shorter.data(), begins.data(),
                                   followers.data(), shares.data(), longer.data());
    void* table = nullptr;
    const auto create_table = [&] {
      return CALL(kamon_table_create)(vocab_size, sizes[0], sizes[1], kept.data(), shorter.data(),
                                      begins.data(), followers.data(), shares.data(),
                                      longer.data(), &table);
    };
    if (tabulated || create_table())
      return std::printf("round %d: a table\n", round), 1;
    begins[0] = 1;
    if (create_table() != Error::offsets)
      return std::printf("round %d: a table that is none\n", round), 1;
    CALL(kamon_mix)(num_logprobs, 0.5, logprobs.data(), of_orders.data(), logprobs.data());
    if (CALL(kamon_sum_documents)(tokens.data(), num_tokens, offsets.data(), num_docs,
                                  logprobs.data(), num_logprobs, totals.data(), places.data()))
      return std::printf("round %d: sums\n", round), 1;
    void* decoder = CALL(kamon_decoder_create)(engine);
    std::vector<double> logits(vocab_size);
    for (int i = 0; i < block_size; i++)
      CALL(kamon_decoder_push)(decoder, draw(0, vocab_size - 1), logits.data());
    if (CALL(kamon_decoder_push)(decoder, 0, logits.data()) != Error::length ||
        CALL(kamon_decoder_push)(decoder, vocab_size, logits.data()) != Error::token)
      return std::printf("pushed too much\n"), 1;
    CALL(kamon_decoder_destroy)(decoder);
    const auto mix_logits = [&](int of_order, int64_t size) {
      return CALL(kamon_mix_logits)(ngram, of_order, tokens.data(), size, 0.5, logits.data());
    };
    const int64_t context_size = std::min(num_tokens, int64_t(draw(0, 12)));
    if (mix_logits(order, context_size) || mix_logits(longest + 1, 0) != Error::index)
      return std::printf("round %d: logits of a mixture\n", round), 1;
    std::vector<double> ratios(num_logprobs);
    double sums[2];
    CALL(kamon_ratios)(num_logprobs, logprobs.data(), of_orders.data(), 345, ratios.data());
    CALL(kamon_derivatives)(num_logprobs, ratios.data(), 0.5, sums);

    // Documents under conditions: one node and one context at each position.
    {
      const int room = draw(1, block_size), bos = vocab_size - 1;
      std::vector<int32_t> positions, next, after;
      std::vector<uint8_t> ends;
      std::vector<int64_t> first_contexts, begins;
      for (int t = 0; t <= room; t++) {
        positions.push_back(t), first_contexts.push_back(t), begins.push_back(t);
        ends.push_back(t == room ? 2 : uint8_t(draw(0, 1)));
        for (int v = 0; v < vocab_size; v++) {
          next.push_back(t == room || v == bos || !draw(0, 3) ? -1 : t + 1);
          after.push_back(t + 1);
        }
      }
      first_contexts.push_back(room + 1), begins.push_back(room + 1);
      const size_t num_rows = size_t(room + 1) * size_t(vocab_size);
      std::vector<double> p(num_rows, 1.0 / vocab_size), chances(room + 1), counts(num_rows);
      std::vector<double> of_docs(n + 1);
      const auto look_ahead = [&] {
        return CALL(kamon_look_ahead)(vocab_size, bos, room, room + 1, positions.data(),
                                      next.data(), ends.data(), first_contexts.data(),
                                      after.data(), begins.data(), room + 1, p.data(),
                                      chances.data());
      };
      const auto sample_guided = [&] {
        const double weights[] = {1.0, 0.5, 0.5};
        const int32_t num_tables = round % 2;
        const void* const tables[] = {table};
        return CALL(kamon_sample_guided)(
            engine, numbers.data(), n, temperature, 7, 1 + round % vocab_size,
            round % 4 ? 0.7 : 1.0, 1, 1, &bos, weights, &num_tables, tables, vocab_size, bos, room,
            room + 1, positions.data(), next.data(), ends.data(), first_contexts.data(),
            after.data(), begins.data(), room + 1, chances.data(), round % 3 ? counts.data() : nullptr,
            of_docs.data(), sampled.data(), unused_offsets.data(), nullptr);
      };
      if (look_ahead() || sample_guided()) return std::printf("round %d: conditions\n", round), 1;
      for (int32_t* const place : {&next[draw(0, int(num_rows) - 1)], &positions[draw(0, room)]}) {
        const int32_t before = std::exchange(*place, room + 2);
        if (look_ahead() != Error::index || sample_guided() != Error::index)
          return std::printf("round %d: wrong conditions\n", round), 1;
        *place = before;
      }
      const std::vector<int32_t> shorter{-1, 0, -1, 2}, timeless{2, 3, -1, -1};
      std::vector<double> of_contexts(size_t(4) * size_t(vocab_size), 1.0), smoothed(of_contexts);
      const int far[] = {CALL(kamon_smooth)(vocab_size, 4, shorter.data(), timeless.data(), 1,
                                            of_contexts.data(), smoothed.data()),
                         CALL(kamon_smooth)(vocab_size, 4, timeless.data(), shorter.data(), 1,
                                            of_contexts.data(), smoothed.data())};
      if (far[0] || far[1] != Error::index) return std::printf("round %d: contexts\n", round), 1;
    }

    // Several threads: at the engine one after the other, as native.py has it; at an n-gram and a
    // decoder all at once. Each finds what one alone finds, if no step is made.
    std::vector<double> expected(tokens.size() + 1);
    CALL(kamon_batch)(engine, tokens.data(), num_tokens, offsets.data(), num_docs, nullptr, nullptr,
                      expected.data(), nullptr);
    sample(table, 1.0, sampled.data(), unused_offsets.data(), nullptr);
    void* shared = CALL(kamon_decoder_create)(engine);
    std::mutex turn;
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; c++)
      callers.emplace_back([&] {
        std::vector<double> own(tokens.size() + 1), own_orders(of_orders.size()),
            own_logits(vocab_size);
        std::vector<int32_t> own_sampled(sampled.size());
        std::vector<int64_t> own_offsets(n + 1);
        void* own_decoder;
        {
          const std::lock_guard<std::mutex> lock(turn);
          CALL(kamon_batch)(engine, tokens.data(), num_tokens, offsets.data(), num_docs, nullptr,
                            nullptr, own.data(), nullptr);
        }
        {
          const std::lock_guard<std::mutex> lock(turn);
          sample(table, 1.0, own_sampled.data(), own_offsets.data(), nullptr);
          own_decoder = CALL(kamon_decoder_create)(engine);
        }
        CALL(kamon_ngram_logprobs)(ngram, 1, longest, tokens.data(), num_tokens, offsets.data(), 0,
                                   num_docs, own_orders.data(), num_tokens);
        for (int i = 0; i < block_size; i++) {
          CALL(kamon_decoder_push)(own_decoder, 0, own_logits.data());
          CALL(kamon_decoder_push)(shared, 0, own_logits.data());
        }
        CALL(kamon_decoder_destroy)(own_decoder);
        own_sampled.resize(size_t(own_offsets[n]));
        if (own != expected || own_orders != of_orders || own_offsets != unused_offsets ||
            !std::equal(own_sampled.begin(), own_sampled.end(), sampled.begin()))
          wrong++;
      });
    for (auto& caller : callers) caller.join();
    if (wrong)
      return std::printf("round %d: %d threads found something else\n", round, wrong.load()), 1;
    CALL(kamon_decoder_destroy)(shared);
    CALL(kamon_table_destroy)(table);
    CALL(kamon_ngram_destroy)(ngram);
    CALL(kamon_destroy)(engine);
    if (error || refused != -Error::index) return std::printf("round %d: an error\n", round), 1;
    for (int i = 0; i < n; i++) {
      const int64_t length = sampled_offsets[i + 1] - sampled_offsets[i];
      if (length < 0 || length > block_size) return std::printf("a length\n"), 1;
    }
  }
  std::printf("passed\n");
  return 0;
}
