// Counted n-grams with the same results as the reference in Python, to the last bit. The formulas
// and their source are in the Python module.
//
// All k-grams of one length are numbered. Hashing finds the number from the last token and the
// number of the context, which is the (k − 1)-gram before that token. So each token of a document
// needs one look-up for each k.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace {

// A k-gram has two counts. LONGEST, for order k: how often it occurs. SHORTER, for higher orders:
// how many different tokens occur before it, plus how often it opens a document.
enum CountKind { LONGEST = 0, SHORTER = 1 };

constexpr uint32_t NO_GRAM = UINT32_MAX;

struct Gram {
  uint32_t context, token;
  uint32_t counts[2];
};

struct Followers {  // of a context, with one kind of count
  uint32_t total = 0;
  uint32_t num[3] = {0, 0, 0};  // how many are counted once, twice, and three times or more
};

// All k-grams of one k.
struct Level {
  std::vector<Gram> grams;
  std::vector<Followers> followers[2];  // by the number of the context
  double discounts[2][4];               // by the count, 3 for all larger ones
  std::vector<uint32_t> begins, members;  // the k-grams of each context, after `sort`

  uint32_t find(uint32_t context, uint32_t token) const {
    return slots.empty() ? NO_GRAM : slots[slot(context, token)];
  }

  // The number of a k-gram. It adds the k-gram if it is new.
  uint32_t add(uint32_t context, uint32_t token) {
    if (3 * grams.size() >= 2 * slots.size()) grow();
    uint32_t& number = slots[slot(context, token)];
    if (number == NO_GRAM) {
      grams.push_back(Gram{context, token, {0, 0}});
      number = uint32_t(grams.size() - 1);
    }
    return number;
  }

  // The probability that a context leaves to the shorter one.
  double kept(CountKind kind, uint32_t context) const {
    const Followers& after = followers[kind][context];
    const double* discount = discounts[kind];
    const double taken =
        after.num[0] * discount[1] + after.num[1] * discount[2] + after.num[2] * discount[3];
    return taken / after.total;
  }

  // The share of the last token of `gram`, which may be NO_GRAM.
  double share(CountKind kind, uint32_t context, uint32_t gram) const {
    const uint32_t count = gram == NO_GRAM ? 0 : grams[gram].counts[kind];
    if (!count) return 0;
    return (count - discounts[kind][std::min(count, 3u)]) / followers[kind][context].total;
  }

  // p of the last token of `gram`, which may be NO_GRAM, from its p after the shorter context.
  double interpolate(CountKind kind, uint32_t context, uint32_t gram, double p) const {
    return kept(kind, context) * p + share(kind, context, gram);
  }

  // Fills `begins` and `members`.
  void sort(uint32_t num_contexts) {
    members = by_context_and_token(num_contexts);
    std::vector<uint32_t> ends(size_t(num_contexts) + 1);
    for (const Gram& gram : grams) ends[gram.context + 1]++;
    for (size_t i = 1; i < ends.size(); i++) ends[i] += ends[i - 1];
    begins = std::move(ends);
  }

  // The numbers of all k-grams in this order.
  std::vector<uint32_t> by_context_and_token(uint32_t num_contexts) const {
    std::vector<uint32_t> ends(num_contexts), sorted(grams.size());
    for (const Gram& gram : grams) ends[gram.context]++;
    uint32_t begin = 0;
    for (uint32_t& end : ends) begin += std::exchange(end, begin);
    for (uint32_t i = 0; i < grams.size(); i++) sorted[ends[grams[i].context]++] = i;
    begin = 0;
    for (const uint32_t end : ends) {
      std::sort(sorted.begin() + begin, sorted.begin() + end,
                [this](uint32_t a, uint32_t b) { return grams[a].token < grams[b].token; });
      begin = end;
    }
    return sorted;
  }

 private:
  // A hash table of numbers with open addressing. It has 2ⁿ slots, of which a third are empty.
  std::vector<uint32_t> slots;

  // The slot with the number of a k-gram, or the empty slot for it.
  size_t slot(uint32_t context, uint32_t token) const {
    uint64_t hash = uint64_t(context) << 32 | token;  // mixed as in MurmurHash3's finaliser
    hash = (hash ^ hash >> 33) * 0xFF51AFD7ED558CCDu;
    hash = (hash ^ hash >> 33) * 0xC4CEB9FE1A85EC53u;
    size_t index = size_t(hash ^ hash >> 33) & (slots.size() - 1);
    while (slots[index] != NO_GRAM &&
           (grams[slots[index]].context != context || grams[slots[index]].token != token))
      index = (index + 1) & (slots.size() - 1);
    return index;
  }

  void grow() {
    slots.assign(std::max(size_t(64), 2 * slots.size()), NO_GRAM);
    for (size_t i = 0; i < grams.size(); i++)
      slots[slot(grams[i].context, grams[i].token)] = uint32_t(i);
  }
};

// The n-gram of one order as arrays. Context 0 is the empty one. Those of one token come next, then
// those of two, and so on. A follower is a token that was counted after a context. The followers of
// a context are in ascending order of tokens. A context without followers leaves the probability 1
// to the shorter one.
struct NgramArrays {
  // Of each context:
  double* kept;      // probability that it leaves to the shorter one
  int32_t* shorter;  // the context without the first token
  int64_t* begins;   // its first follower, and at the end the number of all followers
  // Of each follower:
  int32_t* tokens;
  double* shares;   // of the token after this context
  int32_t* longer;  // the context that ends with it, or −1 after the longest contexts
};

// Counts for the n-grams of every order from 1 to `order`.
class Ngram {
 public:
  const int vocab_size;
  int64_t longest = 0;    // tokens of the longest document
  bool finished = false;  // whether the counting has ended

  Ngram(int vocab, int order) : vocab_size(vocab), levels(size_t(order)) {}

  // Whether all tokens of a document are in the vocabulary.
  bool knows(const int32_t* document, int64_t length) const {
    return std::all_of(document, document + length,
                       [this](int32_t token) { return token >= 0 && token < vocab_size; });
  }

  // Whether it can look up these orders.
  bool has(int low, int high) const {
    return finished && low >= 1 && low <= high && high <= order();
  }

  void add(const int32_t* document, int64_t length) {
    num_tokens += length;
    if (num_tokens >= NO_GRAM) throw std::bad_alloc();  // too many for the numbers and counts
    longest = std::max(longest, length);
    std::vector<uint32_t> before(order() + 1, 0), now(order() + 1, 0);  // k-grams that end there
    for (int64_t position = 0; position < length; position++) {
      for (int k = 1; k <= order() && k <= position + 1; k++) {
        Level& level = levels[k - 1];
        const size_t known = level.grams.size();
        now[k] = level.add(before[k - 1], uint32_t(document[position]));
        Gram& gram = level.grams[now[k]];
        if (position > 0) gram.counts[LONGEST]++;  // its last token is a target
        if (k > 1 && k == position + 1) gram.counts[SHORTER]++;
        if (k > 1 && level.grams.size() > known) levels[k - 2].grams[now[k - 1]].counts[SHORTER]++;
      }
      before.swap(now);
    }
  }

  // num_grams[k − 1][kind][j]: how many k-grams are counted j times, j from 1 to 4.
  void tally(int64_t* num_grams) const {
    for (const Level& level : levels)
      for (const CountKind kind : {LONGEST, SHORTER}) {
        std::fill(num_grams, num_grams + 5, 0);
        for (const Gram& gram : level.grams)
          if (gram.counts[kind] <= 4) num_grams[gram.counts[kind]]++;
        num_grams += 5;
      }
  }

  // Ends the counting. discounts[k − 1][kind][j]: the discount of a k-gram counted j times.
  void finish(const double* discounts) {
    size_t num_contexts = 1;  // the empty one
    for (Level& level : levels) {
      for (const CountKind kind : {LONGEST, SHORTER}) {
        std::copy(discounts, discounts + 4, level.discounts[kind]);
        discounts += 4;
        if (kind == SHORTER && &level == &levels.back()) continue;  // it has the highest order
        level.followers[kind].resize(num_contexts);
        for (const Gram& gram : level.grams)
          if (const uint32_t count = gram.counts[kind]) {
            Followers& after = level.followers[kind][gram.context];
            after.total += count;
            after.num[std::min(count, 3u) - 1]++;
          }
      }
      level.grams.shrink_to_fit();
      num_contexts = level.grams.size();
    }
    finished = true;
  }

  // log p of each target for the orders first … last. The numbers of each order come `stride` after
  // those of the order before.
  void logprobs(int first, int last, const int32_t* document, int64_t length, double* out,
                size_t stride) const {
    std::vector<uint32_t> before(last + 1, NO_GRAM), now(last + 1, NO_GRAM);
    before[0] = now[0] = 0;
    for (int64_t position = 0; position < length; position++) {
      double p = 1.0 / vocab_size;
      for (int k = 1; k <= last; k++) {
        const Level& level = levels[k - 1];
        const uint32_t context = before[k - 1];
        const bool seen = context != NO_GRAM && level.followers[LONGEST][context].total > 0;
        now[k] = seen ? level.find(context, uint32_t(document[position])) : NO_GRAM;
        if (position > 0 && k >= first)
          out[(k - first) * stride] =
              std::log(seen ? level.interpolate(LONGEST, context, now[k], p) : p);
        if (seen && k < last) p = level.interpolate(SHORTER, context, now[k], p);
      }
      if (position > 0) out++;
      before.swap(now);
    }
  }

  // p of each token after a context. Only its last order − 1 tokens count.
  void probabilities(int order, const int32_t* context, int64_t size, double* out) const {
    std::fill(out, out + vocab_size, 1.0 / vocab_size);
    for (int k = 1; k <= order && k - 1 <= size; k++) {
      const Level& level = levels[k - 1];
      uint32_t seen = 0;  // the last k − 1 tokens
      for (int j = 1; j < k && seen != NO_GRAM; j++)
        seen = levels[j - 1].find(seen, uint32_t(context[size - k + j]));
      if (seen == NO_GRAM || !level.followers[LONGEST][seen].total) return;
      const CountKind counted = k == order ? LONGEST : SHORTER;
      if (!is_sorted) {
        for (int token = 0; token < vocab_size; token++)
          out[token] =
              level.interpolate(counted, seen, level.find(seen, uint32_t(token)), out[token]);
        continue;
      }
      const double kept = level.kept(counted, seen);
      for (int token = 0; token < vocab_size; token++) out[token] *= kept;
      for (uint32_t i = level.begins[seen]; i < level.begins[seen + 1]; i++) {
        const uint32_t gram = level.members[i];
        out[level.grams[gram].token] += level.share(counted, seen, gram);
      }
    }
  }

  // Makes `probabilities` faster, but needs as long as some hundred calls of it.
  void sort() {
    std::call_once(once, [&] {
      for (size_t k = 0; k < levels.size(); k++) {
        const uint32_t num_contexts = k ? uint32_t(levels[k - 1].grams.size()) : 1;
        levels[k].sort(num_contexts);
      }
      is_sorted = true;
    });
  }

  int64_t num_grams(int order) const {
    int64_t total = 0;
    for (int k = 1; k <= order; k++) total += int64_t(levels[k - 1].grams.size());
    return total;
  }
  int64_t num_contexts(int order) const { return 1 + num_grams(order - 1); }

  // Fills the arrays, which have room for num_contexts and num_grams of this order.
  void tabulate(int order, const NgramArrays& out) const {
    if (num_contexts(order) > INT32_MAX) throw std::bad_alloc();
    int64_t shorter = 0, context = 0, follower = 0;  // the first one of k − 2, k − 1 and k tokens
    out.shorter[0] = 0;
    for (int k = 1; k <= order; k++) {
      const Level& level = levels[k - 1];
      const CountKind kind = k == order ? LONGEST : SHORTER;
      const uint32_t num_contexts = k == 1 ? 1 : uint32_t(levels[k - 2].grams.size());
      const int64_t longer = context + num_contexts;
      const std::vector<uint32_t> sorted = level.by_context_and_token(num_contexts);
      size_t i = 0;
      for (uint32_t c = 0; c < num_contexts; c++) {
        out.begins[context + c] = follower + int64_t(i);
        out.kept[context + c] = level.followers[kind][c].total ? level.kept(kind, c) : 1;
        for (; i < sorted.size() && level.grams[sorted[i]].context == c; i++) {
          const uint32_t number = sorted[i], token = level.grams[number].token;
          out.tokens[follower + int64_t(i)] = int32_t(token);
          out.shares[follower + int64_t(i)] = level.share(kind, c, number);
          out.longer[follower + int64_t(i)] = k < order ? int32_t(longer + number) : -1;
          if (k == order) continue;
          const uint32_t parent = uint32_t(out.shorter[context + c] - shorter);
          out.shorter[longer + number] =
              k == 1 ? 0 : int32_t(context + levels[k - 2].find(parent, token));
        }
      }
      shorter = context, context = longer, follower += int64_t(sorted.size());
    }
    out.begins[context] = follower;
  }

 private:
  std::once_flag once;
  std::atomic<bool> is_sorted{false};
  std::vector<Level> levels;
  int64_t num_tokens = 0;
  int order() const { return int(levels.size()); }
};

}  // namespace
