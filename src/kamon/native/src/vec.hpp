// A vector of numbers as wide as the machine's registers, and functions on it.
//
// The build sets Real (float or double) and the width KAMON_BYTES. Everything here has internal
// linkage, because setup.py compiles the same source for several instruction sets. The linker must
// never exchange their code.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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
constexpr int L = KAMON_BYTES / sizeof(Real);  // lanes of a vector

typedef Real Vec __attribute__((vector_size(KAMON_BYTES)));
typedef Int IntVec __attribute__((vector_size(KAMON_BYTES)));
typedef Real LooseVec __attribute__((vector_size(KAMON_BYTES), aligned(sizeof(Real))));
// Half a vector. It is faster if the processor takes twice as long for a whole one.
constexpr int HALF = L > 2 ? L / 2 : L;
typedef Real Half __attribute__((vector_size(HALF * sizeof(Real))));
typedef Real LooseHalf __attribute__((vector_size(HALF * sizeof(Real)), aligned(sizeof(Real))));

#define KAMON_INLINE inline __attribute__((always_inline))

KAMON_INLINE Vec load(const Real* p) { return *reinterpret_cast<const LooseVec*>(p); }
KAMON_INLINE void store(Real* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
KAMON_INLINE Vec splat(Real x) { return x - Vec{}; }
KAMON_INLINE Vec vmax(Vec a, Vec b) { return a > b ? a : b; }

template <class To, class From>
KAMON_INLINE To bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "");
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// a / b for b neither 0 nor denormal. Division is slow. If the processor has an estimate of 1/b,
// this refines the estimate instead. The last step rounds like a division.
KAMON_INLINE Vec quotient(Vec a, Vec b) {
#if defined(__AVX512F__)
  if constexpr (is_float) {
    const auto y = bits<__m512>(b);
    __m512 r = _mm512_maskz_rcp14_ps(0xffff, y);  // to 14 bits
    r = _mm512_fmadd_ps(_mm512_fnmadd_ps(y, r, _mm512_set1_ps(1)), r, r);
    const __m512 q = _mm512_mul_ps(bits<__m512>(a), r);
    return bits<Vec>(_mm512_fmadd_ps(_mm512_fnmadd_ps(q, y, bits<__m512>(a)), r, q));
  } else {
    const auto y = bits<__m512d>(b);
    __m512d r = _mm512_maskz_rcp14_pd(0xff, y);
    const __m512d error = _mm512_fnmadd_pd(y, r, _mm512_set1_pd(1));
    r = _mm512_fmadd_pd(r, _mm512_fmadd_pd(error, error, error), r);  // r (1 + e + e²): to 42 bits
    const __m512d q = _mm512_mul_pd(bits<__m512d>(a), r);
    return bits<Vec>(_mm512_fmadd_pd(_mm512_fnmadd_pd(q, y, bits<__m512d>(a)), r, q));
  }
#else
  return a / b;
#endif
}

KAMON_INLINE Vec vsqrt(Vec v) {
  for (int l = 0; l < L; l++) v[l] = std::sqrt(v[l]);
  return v;
}

// Bit l: whether v[l] is above 0.
KAMON_INLINE uint64_t positive(Vec v) {
#if defined(__AVX512F__)
  if constexpr (is_float)
    return _mm512_cmp_ps_mask(bits<__m512>(v), _mm512_setzero_ps(), _CMP_GT_OQ);
  else
    return _mm512_cmp_pd_mask(bits<__m512d>(v), _mm512_setzero_pd(), _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (is_float)
    return uint64_t(_mm256_movemask_ps(bits<__m256>(v > Vec{})));
  else
    return uint64_t(_mm256_movemask_pd(bits<__m256d>(v > Vec{})));
#elif defined(__SSE2__)
  if constexpr (is_float)
    return uint64_t(_mm_movemask_ps(bits<__m128>(v > Vec{})));
  else
    return uint64_t(_mm_movemask_pd(bits<__m128d>(v > Vec{})));
#else
  uint64_t found = 0;
  for (int l = 0; l < L; l++) found |= uint64_t(v[l] > 0) << l;
  return found;
#endif
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

// eˣ for x ≤ 0 or small, within an ulp or two, or 0 if the result would be denormal. NaN stays NaN.
// x = n ln 2 + r with |r| ≤ ln 2 / 2. A Taylor polynomial gives eʳ, and n goes into the exponent.
KAMON_INLINE Vec vexp(Vec x) {
  constexpr Real lowest = is_float ? Real(-87.0) : Real(-708.0);
  constexpr Real magic =
      is_float ? Real(12582912.0) : Real(6755399441055744.0);  // 1.5 · 2^mantissa
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

// ln x for positive, finite, normal x, in floats: x = 2ⁿ · f with ½√2 ≤ f < √2, and
// ln f = 2 artanh((f − 1) / (f + 1)).
KAMON_INLINE Vec vlog(Vec x) {
  const IntVec root = bits<IntVec>(splat(Real(0.70710678)));
  const IntVec shifted = bits<IntVec>(x) - root;
  constexpr int mantissa = is_float ? 23 : 52;
  const IntVec n = shifted >> mantissa;
  const Vec f = bits<Vec>(bits<IntVec>(x) - (n << mantissa));
  const Vec s = (f - Real(1)) / (f + Real(1));
  const Vec s2 = s * s;
  Vec p = splat(Real(2.0 / 11));
  for (const Real factor : {Real(2.0 / 9), Real(2.0 / 7), Real(2.0 / 5), Real(2.0 / 3), Real(2)})
    p = p * s2 + factor;
  return __builtin_convertvector(n, Vec) * Real(0.69314718055994530942) + p * s;
}

// One stage of a transposition: exchanges the blocks of S lanes off the diagonal of two rows.
template <int S, bool Low, class V, int... I>
KAMON_INLINE V exchange(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int N = sizeof...(I);
  if constexpr (Low)
    return __builtin_shufflevector(a, b, ((I & S) ? N + I - S : I)...);
  else
    return __builtin_shufflevector(a, b, ((I & S) ? N + I : I + S)...);
}

template <int S, class V, int N>
KAMON_INLINE void transpose_stage(V (&rows)[N]) {
  if constexpr (S < N) {
    for (int i = 0; i < N; i++)
      if (!(i & S)) {
        const V a = rows[i], b = rows[i + S];
        rows[i] = exchange<S, true>(a, b, std::make_integer_sequence<int, N>());
        rows[i + S] = exchange<S, false>(a, b, std::make_integer_sequence<int, N>());
      }
    transpose_stage<S * 2>(rows);
  }
}

template <class V, class Row>
KAMON_INLINE void transpose_tile(int r, int c, int num_rows, int num_cols, const Row& row, Real* to,
                                 ptrdiff_t ld_to) {
  constexpr int N = sizeof(V) / sizeof(Real);
  V rows[N];
  for (int i = 0; i < N; i++) {
    rows[i] = V{};
    if (r + i < num_rows) std::memcpy(&rows[i], row(r + i) + c, sizeof(V));
  }
  transpose_stage<1>(rows);
  for (int i = 0; i < N; i++) {
    if (c + i >= num_cols) rows[i] = V{};
    std::memcpy(to + (c + i) * ld_to + r, &rows[i], sizeof(V));
  }
}

// to[c][r] = row(r)[c] for r < num_rows and c < num_cols, or 0 for all other r and c < L. If half a
// vector of columns is enough, the others do not change.
template <class Row>
KAMON_INLINE void transpose(int num_rows, int num_cols, const Row& row, Real* to, ptrdiff_t ld_to) {
  if (HALF >= 4 && (num_rows <= HALF || num_cols <= HALF)) {
    for (int c = 0; c < (num_cols <= HALF ? HALF : L); c += HALF)
      for (int r = 0; r < L; r += HALF)
        transpose_tile<Half>(r, c, num_rows, num_cols, row, to, ld_to);
  } else {
    transpose_tile<Vec>(0, 0, num_rows, num_cols, row, to, ld_to);
  }
}

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace
