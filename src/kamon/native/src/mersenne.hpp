// Python's random.Random, bit for bit: shuffle and gauss of Lib/random.py with the generator
// MT19937 (Matsumoto and Nishimura 1998, doi:10.1145/272991.272995). Python seeds it and passes
// the state.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

namespace {

class Mersenne {
 public:
  // words: the 624 words of the state and the index of the next one, as in `getstate`. This class
  // updates them.
  explicit Mersenne(uint32_t* words) : state(words), place(words[SIZE]) {}

  uint32_t bits32() {
    if (place >= SIZE) refill();
    uint32_t y = state[place++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
  }
  double random() {  // of 53 bits
    const uint32_t high = bits32() >> 5, low = bits32() >> 6;
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
  }
  uint32_t below(uint32_t n) {
    int unused = 0;
    while (!(n >> (31 - unused))) unused++;
    uint32_t r;
    do r = bits32() >> unused;
    while (r >= n);
    return r;
  }

 private:
  static constexpr uint32_t SIZE = 624, MIDDLE = 397;
  uint32_t* state;
  uint32_t& place;

  void refill() {
    const auto twist = [this](uint32_t i, uint32_t next, uint32_t far) {
      const uint32_t y = (state[i] & 0x80000000u) | (state[next] & 0x7FFFFFFFu);
      state[i] = state[far] ^ (y >> 1) ^ (y & 1 ? 0x9908B0DFu : 0);
    };
    uint32_t i = 0;
    for (; i < SIZE - MIDDLE; i++) twist(i, i + 1, i + MIDDLE);
    for (; i < SIZE - 1; i++) twist(i, i + 1, i + MIDDLE - SIZE);
    twist(SIZE - 1, 0, MIDDLE - 1);
    place = 0;
  }
};

template <class Item>
void shuffle(Mersenne& rng, uint32_t n, Item* items) {
  for (uint32_t i = n; i-- > 1;) std::swap(items[i], items[rng.below(i + 1)]);
}

// spare: the second number of a pair if it is still unused, otherwise NaN.
inline void gauss(Mersenne& rng, double std, int64_t n, double* out, double& spare) {
  // As in Python, one call for each, because the last bit of a compiler's sincos may differ.
  double (*volatile cosine)(double) = std::cos;
  double (*volatile sine)(double) = std::sin;
  for (int64_t i = 0; i < n; i++) {
    double z = spare;
    spare = NAN;
    if (std::isnan(z)) {
      const double angle = rng.random() * 6.283185307179586;
      const double radius = std::sqrt(-2.0 * std::log(1.0 - rng.random()));
      z = cosine(angle) * radius;
      spare = sine(angle) * radius;
    }
    out[i] = 0.0 + z * std;
  }
}

}  // namespace
