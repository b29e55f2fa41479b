// Texts in memory, one after the other, each with a NUL at its end.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "errors.hpp"

namespace {

// The starts of documents in a text, numbers of 4 or 8 bytes.
class Starts {
 public:
  Starts(const void* numbers, int bytes) : numbers(numbers), bytes(bytes) {}
  uint64_t operator[](uint64_t i) const {
    return bytes == 4 ? static_cast<const uint32_t*>(numbers)[i]
                      : static_cast<const uint64_t*>(numbers)[i];
  }

 private:
  const void* numbers;
  const int bytes;
};

// Throws if the text does not end with a NUL. If it does, no document ends outside it.
inline void check_end(const char* text, uint64_t size, uint64_t n) {
  if (n && (!size || text[size - 1])) throw OutOfBounds();
}

inline size_t length_of(const char* document) { return std::strlen(document); }

// Finds the starts of n documents that follow one another. chosen: a byte for each, 0 to leave the
// document out, or null for all documents.
inline void find_starts(const char* text, uint64_t size, uint64_t n, const uint8_t* chosen,
                        void* starts, int bytes) {
  check_end(text, size, n);
  const char* document = text;
  uint64_t found = 0;
  for (uint64_t i = 0; i < n; i++, document += length_of(document) + 1) {
    if (uint64_t(document - text) >= size) throw OutOfBounds();
    if (chosen && !chosen[i]) continue;
    if (bytes == 4)
      static_cast<uint32_t*>(starts)[found++] = uint32_t(document - text);
    else
      static_cast<uint64_t*>(starts)[found++] = uint64_t(document - text);
  }
}

// Copies the first of n documents, as many as fit completely into `room` bytes. Returns the number
// of bytes written. If not even the first document fits, returns the number that it needs. count:
// the number of documents copied.
inline uint64_t gather(const char* text, uint64_t text_size, const Starts& starts, uint64_t n,
                       char* out, uint64_t room, int64_t* count) {
  check_end(text, text_size, n);
  uint64_t used = 0;
  *count = 0;
  for (uint64_t i = 0; i < n; i++) {
    if (starts[i] >= text_size) throw OutOfBounds();
    const char* document = text + starts[i];
    const uint64_t size = length_of(document) + 1;
    if (used + size > room) return i ? used : size;
    std::memcpy(out + used, document, size);
    used += size;
    ++*count;
  }
  return used;
}

inline uint64_t hash_of(const char* document, size_t size) {
  const auto mix = [](uint64_t h) {
    h *= 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
  };
  uint64_t h = size;
  for (; size >= 8; size -= 8, document += 8) {
    uint64_t word;
    std::memcpy(&word, document, 8);
    h = mix(h ^ word);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, document, size);
  return mix(mix(h ^ rest));
}

// Sets first[i] to 0 if document i equals an earlier one, otherwise to 1. Returns how many are 1.
//
// numbers: the starts of the documents, or null if they follow one another.
//
// It works in passes, each over the documents with some of the hashes. So the table is small for
// any number of documents, and a document needs only its byte in `first`.
inline int64_t first_occurrences(const char* text, uint64_t text_size, const void* numbers,
                                 int bytes, uint64_t n, uint8_t* first) {
  check_end(text, text_size, n);
  constexpr uint64_t PASS = 1 << 19;  // documents in a pass, roughly
  const uint64_t num_passes = n / PASS + 1;
  const Starts starts(numbers, bytes);
  std::vector<uint64_t> sizes(num_passes);
  const auto for_each_document = [&](const auto& task) {
    const char* next = text;
    for (uint64_t i = 0; i < n; i++) {
      const char* document = numbers ? text + starts[i] : next;
      if (uint64_t(document - text) >= text_size) throw OutOfBounds();
      const size_t size = length_of(document);
      next = document + size + 1;
      const uint64_t hash = hash_of(document, size);
      task(i, document, hash, (hash >> 32) % num_passes);
    }
  };
  for_each_document([&](uint64_t, const char*, uint64_t, uint64_t pass) { sizes[pass]++; });
  uint64_t largest = 0;
  for (const uint64_t size : sizes) largest = std::max(largest, size);
  uint64_t slots = 16;
  while (slots < 2 * largest) slots *= 2;
  std::vector<uint64_t> table(slots);  // 1 + the start of a document, or 0 for none
  int64_t found = 0;
  for (uint64_t pass = 0; pass < num_passes; pass++) {
    std::fill(table.begin(), table.end(), 0);
    for_each_document([&](uint64_t i, const char* document, uint64_t hash, uint64_t its_pass) {
      if (its_pass != pass) return;
      uint64_t slot = hash & (slots - 1);
      for (; table[slot]; slot = (slot + 1) & (slots - 1)) {
        if (!std::strcmp(text + table[slot] - 1, document)) {
          first[i] = 0;
          return;
        }
      }
      table[slot] = uint64_t(document - text) + 1;
      first[i] = 1;
      found++;
    });
  }
  return found;
}

}  // namespace
