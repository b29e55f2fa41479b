// Counter-based random numbers. They are those of Python for each (seed, index, position).
#pragma once

#include <cstdint>

namespace {

// Philox4x32-10 for N counters with one key. Compilers vectorise loops over a constant number of
// lanes. c0 … c3 hold 32 bits each.
template <int N>
void philox4x32(uint64_t (&c0)[N], uint64_t (&c1)[N], uint64_t (&c2)[N], uint64_t (&c3)[N],
                uint64_t k0, uint64_t k1) {
  constexpr uint64_t low = 0xFFFFFFFF;
  for (int round = 0; round < 10; round++) {
    for (int l = 0; l < N; l++) {
      const uint64_t p0 = 0xD2511F53u * c0[l], p1 = 0xCD9E8D57u * c2[l];
      c0[l] = (p1 >> 32) ^ c1[l] ^ k0;
      c1[l] = p1 & low;
      c2[l] = (p0 >> 32) ^ c3[l] ^ k1;
      c3[l] = p0 & low;
    }
    k0 = (k0 + 0x9E3779B9u) & low;
    k1 = (k1 + 0xBB67AE85u) & low;
  }
}

// N random numbers from 0 to 1, as `uniform` in Python.
template <int N, class Float>
void uniforms(uint64_t seed, const uint64_t* index, const uint64_t* position, Float* u) {
  uint64_t c0[N], c1[N], c2[N], c3[N];
  constexpr uint64_t low = 0xFFFFFFFF;
  for (int l = 0; l < N; l++) {
    c0[l] = position[l] & low, c1[l] = position[l] >> 32;
    c2[l] = index[l] & low, c3[l] = index[l] >> 32;
  }
  philox4x32<N>(c0, c1, c2, c3, seed & low, seed >> 32);
  for (int l = 0; l < N; l++)
    u[l] = Float(double(int64_t((c0[l] << 21) | (c1[l] >> 11))) * 0x1p-53);
}

}  // namespace
