// Byte pair encoding of many pieces of text, as Pieces.merge in kamon/tokenizers/bpe.py.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace {

constexpr int32_t NUM_BYTES = 256;  // merge i makes token 256 + i

struct Merges {
  const int32_t* pairs;
  std::unordered_map<uint64_t, int32_t> made;  // the token of each pair

  Merges(const int32_t* pairs_of, int64_t n) : pairs(pairs_of) {
    made.reserve(size_t(n));
    for (int64_t i = 0; i < n; i++)
      made.emplace(key(pairs[2 * i], pairs[2 * i + 1]), NUM_BYTES + int32_t(i));
  }

  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
  }

  // The first of the merges that a piece still needs, as its token, or INT_MAX.
  int32_t earliest(const std::vector<int32_t>& piece) const {
    int32_t found = INT_MAX;
    for (size_t i = 1; i < piece.size(); i++) {
      const auto at = made.find(key(piece[i - 1], piece[i]));
      if (at != made.end() && at->second < found) found = at->second;
    }
    return found;
  }

  void merge(std::vector<int32_t>& piece) const {
    for (int32_t token; (token = earliest(piece)) != INT_MAX;) {
      const int32_t* pair = pairs + 2 * int64_t(token - NUM_BYTES);
      size_t size = 0;
      for (size_t i = 0; i < piece.size(); i++) {
        const bool both = i + 1 < piece.size() && piece[i] == pair[0] && piece[i + 1] == pair[1];
        piece[size++] = both ? token : piece[i];
        i += both;
      }
      piece.resize(size);
    }
  }
};

// Writes the tokens of pieces, whose bytes are one after the other. `ends` has where each piece ends
// in the text, and then where it ends in the tokens.
inline void merge_pieces(const Merges& merges, const uint8_t* text, int64_t num_pieces,
                         int64_t* ends, int32_t* tokens) {
  std::vector<int32_t> piece;
  int64_t begin = 0, size = 0;
  for (int64_t p = 0; p < num_pieces; p++) {
    piece.assign(text + begin, text + ends[p]);
    begin = ends[p];
    merges.merge(piece);
    for (const int32_t token : piece) tokens[size++] = token;
    ends[p] = size;
  }
}

}  // namespace
