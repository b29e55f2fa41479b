// A vector of numbers as wide as the machine's registers, and the few functions on it that we need.
//
// Real is float or double and KAMON_BYTES the width, both given by the build. Everything here has
// internal linkage: the same source is compiled for several instruction sets, and the linker must
// never take one's code for another's.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifndef KAMON_REAL
#define KAMON_REAL float
#endif
#ifndef KAMON_BYTES
#define KAMON_BYTES 16
#endif

namespace {

using Real = KAMON_REAL;
constexpr bool is_float = std::is_same_v<Real, float>;
using Int = std::conditional_t<is_float, std::int32_t, std::int64_t>;
constexpr int L = KAMON_BYTES / sizeof(Real);  // lanes

typedef Real Vec __attribute__((vector_size(KAMON_BYTES)));
typedef Int IntVec __attribute__((vector_size(KAMON_BYTES)));
typedef Real LooseVec __attribute__((vector_size(KAMON_BYTES), aligned(sizeof(Real)), may_alias));

#define KAMON_INLINE inline __attribute__((always_inline))

KAMON_INLINE Vec load(const Real* p) { return *reinterpret_cast<const LooseVec*>(p); }
KAMON_INLINE void store(Real* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
KAMON_INLINE Vec splat(Real x) { return x - Vec{}; }
KAMON_INLINE Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
KAMON_INLINE Vec vmin(Vec a, Vec b) { return a < b ? a : b; }

template <class To, class From>
KAMON_INLINE To bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "");
  std::memcpy(&to, &from, sizeof to);
  return to;
}

KAMON_INLINE Vec vsqrt(Vec v) {
  for (int l = 0; l < L; l++) v[l] = std::sqrt(v[l]);
  return v;
}

// 0, 1, 2, … L − 1
template <int... I>
KAMON_INLINE IntVec make_iota(std::integer_sequence<int, I...>) {
  return IntVec{I...};
}
KAMON_INLINE IntVec iota() { return make_iota(std::make_integer_sequence<int, L>()); }

constexpr Real poly_exp[] = {
    Real(1.0 / 6227020800.0), Real(1.0 / 479001600.0), Real(1.0 / 39916800.0),
    Real(1.0 / 3628800.0),    Real(1.0 / 362880.0),    Real(1.0 / 40320.0),
    Real(1.0 / 5040.0),       Real(1.0 / 720.0),       Real(1.0 / 120.0),
    Real(1.0 / 24.0),         Real(1.0 / 6.0),         Real(0.5)};

// eˣ for x ≤ 0 or small, within an ulp or two; 0 where the result would be denormal. NaN stays NaN.
// x = n ln 2 + r with |r| ≤ ln 2 / 2; a Taylor polynomial for eʳ; n goes into the exponent.
KAMON_INLINE Vec vexp(Vec x) {
  constexpr Real lowest = is_float ? Real(-87.0) : Real(-708.0);
  constexpr Real magic = is_float ? Real(12582912.0) : Real(6755399441055744.0);  // 1.5 · 2^mantissa
  constexpr Real ln2_hi = is_float ? Real(0.693359375) : Real(6.93147180369123816490e-01);
  constexpr Real ln2_lo = is_float ? Real(-2.12194440e-4) : Real(1.90821492927058770002e-10);
  const Vec clamped = vmax(x, splat(lowest));
  const Vec shifted = clamped * Real(1.44269504088896340736) + magic;
  const Vec n = shifted - magic;
  const Vec r = (clamped - n * ln2_hi) - n * ln2_lo;
  constexpr int first = is_float ? 6 : 0;
  Vec p = splat(poly_exp[first]);
  for (int i = first + 1; i < 12; i++) p = p * r + poly_exp[i];
  p = (p * r) * r + r + Real(1);
  constexpr int mantissa = is_float ? 23 : 52;
  constexpr Int bias = is_float ? 127 : 1023;
  const Vec power = bits<Vec>((bits<IntVec>(shifted) + bias) << mantissa);
  const Vec result = p * power;
  return x < lowest ? Vec{} : (x == x ? result : x);
}

// One stage of a transposition: of two rows, exchange the blocks of S lanes off the diagonal.
template <int S, bool Low, int... I>
KAMON_INLINE Vec exchange(Vec a, Vec b, std::integer_sequence<int, I...>) {
  if constexpr (Low)
    return __builtin_shufflevector(a, b, ((I & S) ? L + I - S : I)...);
  else
    return __builtin_shufflevector(a, b, ((I & S) ? L + I : I + S)...);
}

template <int S>
KAMON_INLINE void transpose_stage(Vec (&rows)[L]) {
  if constexpr (S < L) {
    for (int i = 0; i < L; i++)
      if (!(i & S)) {
        const Vec a = rows[i], b = rows[i + S];
        rows[i] = exchange<S, true>(a, b, std::make_integer_sequence<int, L>());
        rows[i + S] = exchange<S, false>(a, b, std::make_integer_sequence<int, L>());
      }
    transpose_stage<S * 2>(rows);
  }
}

KAMON_INLINE void transpose(Vec (&rows)[L]) { transpose_stage<1>(rows); }

// to[c][r] = from[r][c] for r < num_rows and c < num_cols, and zeros in to[c] up to a whole vector.
// Columns are rounded up to whole vectors: both matrices must have the room.
template <class R>
KAMON_INLINE void transpose(const Real* from, ptrdiff_t ld_from, Real* to, ptrdiff_t ld_to,
                            R num_rows, int num_cols) {
  for (int r = 0; r < num_rows; r += L)
    for (int c = 0; c < num_cols; c += L) {
      Vec rows[L];
      for (int i = 0; i < L; i++)
        rows[i] = r + i < num_rows ? load(from + (r + i) * ld_from + c) : Vec{};
      transpose(rows);
      for (int i = 0; i < L; i++) store(to + (c + i) * ld_to + r, rows[i]);
    }
}

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace
