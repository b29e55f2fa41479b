// The matrix product on which all layers are based:  C[r][j] = Σ_k A(r, k) · B[k][j]
//
// j runs along the lanes, and A(r, k) is broadcast. k runs in order, so every sum has the order of
// the scalar engine. The same kernel computes the forward pass (r output, k input, j token), the
// gradient of the input (r input, k output, j token) and the gradient of the weights (r output,
// k token, j input).
#pragma once

#include <algorithm>

#include "vec.hpp"

namespace {

enum class Epilogue { set, add, relu };         // C = Σ, C += Σ, or C = max(Σ, 0)
enum class Layout { row_major, column_major };  // A(r, k) is a[r · lda + k], or a[k · lda + r]

template <Layout layout>
constexpr ptrdiff_t offset(ptrdiff_t r, ptrdiff_t k, ptrdiff_t lda) {
  return layout == Layout::row_major ? r * lda + k : k * lda + r;
}

// C for RB rows of JB vectors V.
template <class V, Epilogue epilogue, Layout layout, int RB, int JB>
KAMON_INLINE void tile(int num_k, const Real* a, ptrdiff_t lda, const Real* b, ptrdiff_t ldb,
                       Real* c, ptrdiff_t ldc) {
  constexpr int lanes = sizeof(V) / sizeof(Real);
  V sum[RB][JB] = {};
  for (int k = 0; k < num_k; k++) {
    V row[JB];
    for (int j = 0; j < JB; j++) row[j] = *reinterpret_cast<const V*>(b + k * ldb + j * lanes);
    for (int r = 0; r < RB; r++) {
      const Real x = a[offset<layout>(r, k, lda)];
      for (int j = 0; j < JB; j++) sum[r][j] += x * row[j];
    }
  }
  for (int r = 0; r < RB; r++)
    for (int j = 0; j < JB; j++) {
      V& result = *reinterpret_cast<V*>(c + r * ldc + j * lanes);
      if constexpr (epilogue == Epilogue::set) result = sum[r][j];
      if constexpr (epilogue == Epilogue::add) result += sum[r][j];
      if constexpr (epilogue == Epilogue::relu) result = sum[r][j] > 0 ? sum[r][j] : V{};
    }
}

// The last rows, fewer than RB, in one tile.
template <class V, Epilogue epilogue, Layout layout, int RB, int JB>
KAMON_INLINE void last_rows(int num_r, int num_k, const Real* a, ptrdiff_t lda, const Real* b,
                            ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  if constexpr (RB > 1) {
    if (num_r == RB - 1)
      tile<V, epilogue, layout, RB - 1, JB>(num_k, a, lda, b, ldb, c, ldc);
    else
      last_rows<V, epilogue, layout, RB - 1, JB>(num_r, num_k, a, lda, b, ldb, c, ldc);
  }
}

template <class V, Epilogue epilogue, Layout layout, int RB, int JB>
void rows_of_tiles(int num_r, int num_k, const Real* a, ptrdiff_t lda, const Real* b, ptrdiff_t ldb,
                   Real* c, ptrdiff_t ldc) {
  int r = 0;
  for (; r + RB <= num_r; r += RB)
    tile<V, epilogue, layout, RB, JB>(num_k, a + offset<layout>(r, 0, lda), lda, b, ldb,
                                      c + r * ldc, ldc);
  last_rows<V, epilogue, layout, RB, JB>(num_r - r, num_k, a + offset<layout>(r, 0, lda), lda, b,
                                         ldb, c + r * ldc, ldc);
}

// The blocks keep 8 to 12 sums in registers. These are enough to hide the latency of a multiply-add
// and fit into 16 registers.
template <Epilogue epilogue, Layout layout>
void columns_of_tiles(int num_r, int num_k, int num_j, const Real* a, ptrdiff_t lda, const Real* b,
                      ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  int j = 0;
  int left = num_j / L;
  while (left > 4 || left == 3) {
    rows_of_tiles<LooseVec, epilogue, layout, 4, 3>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
    j += 3 * L;
    left -= 3;
  }
  for (; left >= 2; left -= 2) {
    rows_of_tiles<LooseVec, epilogue, layout, 4, 2>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
    j += 2 * L;
  }
  if (left) {
    rows_of_tiles<LooseVec, epilogue, layout, 8, 1>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
    j += L;
  }
  if (HALF < L && j < num_j)
    rows_of_tiles<LooseHalf, epilogue, layout, 8, 1>(num_r, num_k, a, lda, b + j, ldb, c + j, ldc);
}

// C for num_r rows and num_j lanes, a multiple of HALF.
//
// The product reads A again for every few lanes. So it divides a large A into blocks of rows that
// stay in the cache of a core.
template <Epilogue epilogue, Layout layout>
void gemm(int num_r, int num_k, int num_j, const Real* a, ptrdiff_t lda, const Real* b,
          ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  constexpr int CACHED = (128 << 10) / sizeof(Real);
  const int rows =
      ptrdiff_t(num_r) * num_k <= CACHED ? num_r : round_up(std::max(1, CACHED / num_k), 8);
  for (int r = 0; r < num_r; r += rows)
    columns_of_tiles<epilogue, layout>(std::min(rows, num_r - r), num_k, num_j,
                                       a + offset<layout>(r, 0, lda), lda, b, ldb, c + r * ldc,
                                       ldc);
}

}  // namespace
