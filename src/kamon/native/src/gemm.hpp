// The one product that everything is made of:  C[r][j] = Σ_k A(r, k) · B[k][j]
//
// j runs along the lanes, k in order (so every sum is added up as the scalar engine adds it), and
// A(r, k) is broadcast. With other operands the same kernel is the forward pass (r output, k input,
// j token), the gradient of the input (r input, k output, j token) and the gradient of the weights
// (r output, k token, j input).
#pragma once

#include <algorithm>

#include "vec.hpp"

namespace {

enum class Put { set, add, relu };  // what happens to the sum: C = Σ, C += Σ, C = max(Σ, 0)
enum class A { by_row, by_column };  // A(r, k) is a[r · lda + k], or a[k · lda + r]

template <A order>
constexpr ptrdiff_t at(ptrdiff_t r, ptrdiff_t k, ptrdiff_t lda) {
  return order == A::by_row ? r * lda + k : k * lda + r;
}

// RB rows of JB vectors, each a V.
template <class V, Put put, A order, int RB, int JB>
KAMON_INLINE void tile(int num_k, const Real* a, ptrdiff_t lda, const Real* b, ptrdiff_t ldb,
                       Real* c, ptrdiff_t ldc) {
  constexpr int lanes = sizeof(V) / sizeof(Real);
  V sum[RB][JB] = {};
  for (int k = 0; k < num_k; k++) {
    V row[JB];
    for (int j = 0; j < JB; j++) row[j] = *reinterpret_cast<const V*>(b + k * ldb + j * lanes);
    for (int r = 0; r < RB; r++) {
      const Real x = a[at<order>(r, k, lda)];
      for (int j = 0; j < JB; j++) sum[r][j] += x * row[j];
    }
  }
  for (int r = 0; r < RB; r++)
    for (int j = 0; j < JB; j++) {
      V& to = *reinterpret_cast<V*>(c + r * ldc + j * lanes);
      if constexpr (put == Put::set) to = sum[r][j];
      if constexpr (put == Put::add) to += sum[r][j];
      if constexpr (put == Put::relu) to = sum[r][j] > 0 ? sum[r][j] : V{};
    }
}

// The last rows, fewer than RB, in one tile.
template <class V, Put put, A order, int RB, int JB>
KAMON_INLINE void last_rows(int num_r, int num_k, const Real* a, ptrdiff_t lda, const Real* b,
                            ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  if constexpr (RB > 1) {
    if (num_r == RB - 1)
      tile<V, put, order, RB - 1, JB>(num_k, a, lda, b, ldb, c, ldc);
    else
      last_rows<V, put, order, RB - 1, JB>(num_r, num_k, a, lda, b, ldb, c, ldc);
  }
}

template <class V, Put put, A order, int RB, int JB>
void rows_of_tiles(int num_r, int num_k, const Real* a, ptrdiff_t lda, const Real* b, ptrdiff_t ldb,
                   Real* c, ptrdiff_t ldc) {
  int r = 0;
  for (; r + RB <= num_r; r += RB)
    tile<V, put, order, RB, JB>(num_k, a + at<order>(r, 0, lda), lda, b, ldb, c + r * ldc, ldc);
  last_rows<V, put, order, RB, JB>(num_r - r, num_k, a + at<order>(r, 0, lda), lda, b, ldb,
                                   c + r * ldc, ldc);
}

// The blocks keep 8 to 12 sums in registers: enough to hide the latency of a multiply-add, and few
// enough for 16 registers.
template <Put put, A order>
void columns_of_tiles(int num_r, int num_k, int num_j, const Real* a, ptrdiff_t lda, const Real* b,
          ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  int j = 0;
  int left = num_j / L;
  while (left > 4 || left == 3) {
    rows_of_tiles<LooseVec, put, order, 4, 3>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
    j += 3 * L;
    left -= 3;
  }
  for (; left >= 2; left -= 2) {
    rows_of_tiles<LooseVec, put, order, 4, 2>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
    j += 2 * L;
  }
  if (left) {
    rows_of_tiles<LooseVec, put, order, 8, 1>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
    j += L;
  }
  if (HALF < L && j < num_j)
    rows_of_tiles<LooseHalf, put, order, 8, 1>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
}

// num_j lanes, a multiple of HALF. A is read again for every few of them: of a large one, as many rows at
// a time as stay in a core's cache meanwhile.
template <Put put, A order>
void gemm(int num_r, int num_k, int num_j, const Real* a, ptrdiff_t lda, const Real* b,
          ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  constexpr int CACHED = (128 << 10) / sizeof(Real);
  const int rows = ptrdiff_t(num_r) * num_k <= CACHED ? num_r : round_up(std::max(1, CACHED / num_k), 8);
  for (int r = 0; r < num_r; r += rows)
    columns_of_tiles<put, order>(std::min(rows, num_r - r), num_k, num_j, a + at<order>(r, 0, lda), lda,
                                 b, ldb, c + r * ldc, ldc);
}

}  // namespace
