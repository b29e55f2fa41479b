// The one product that everything is made of:  C[r][j] = Σ_k A(r, k) · B[k][j]
//
// j runs along the lanes, k in order (so every sum is added up as the scalar engine adds it), and
// A(r, k) = a[r · a_r + k · a_k] is broadcast. With other strides the same kernel is the forward
// pass (r output, k input, j token), the gradient of the input (r input, k output, j token) and the
// gradient of the weights (r output, k token, j input).
#pragma once

#include "vec.hpp"

namespace {

enum class Put { set, add, relu };  // what happens to the sum: C = Σ, C += Σ, C = max(Σ, 0)

template <Put put, int RB, int JB>
KAMON_INLINE void tile(int num_k, const Real* a, ptrdiff_t a_r, ptrdiff_t a_k, const Real* b,
                       ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  Vec sum[RB][JB] = {};
  for (int k = 0; k < num_k; k++) {
    Vec row[JB];
    for (int j = 0; j < JB; j++) row[j] = load(b + k * ldb + j * L);
    for (int r = 0; r < RB; r++) {
      const Real x = a[r * a_r + k * a_k];
      for (int j = 0; j < JB; j++) sum[r][j] += x * row[j];
    }
  }
  for (int r = 0; r < RB; r++)
    for (int j = 0; j < JB; j++) {
      Real* to = c + r * ldc + j * L;
      if constexpr (put == Put::set) store(to, sum[r][j]);
      if constexpr (put == Put::add) store(to, load(to) + sum[r][j]);
      if constexpr (put == Put::relu) store(to, vmax(sum[r][j], Vec{}));
    }
}

// Rows in blocks of RB, what is left over one by one.
template <Put put, int RB, int JB>
void rows_of_tiles(int num_r, int num_k, const Real* a, ptrdiff_t a_r, ptrdiff_t a_k,
                                const Real* b, ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  int r = 0;
  for (; r + RB <= num_r; r += RB)
    tile<put, RB, JB>(num_k, a + r * a_r, a_r, a_k, b, ldb, c + r * ldc, ldc);
  if constexpr (RB > 2)
    for (; r + 2 <= num_r; r += 2)
      tile<put, 2, JB>(num_k, a + r * a_r, a_r, a_k, b, ldb, c + r * ldc, ldc);
  for (; r < num_r; r++)
    tile<put, 1, JB>(num_k, a + r * a_r, a_r, a_k, b, ldb, c + r * ldc, ldc);
}

// num_j lanes, a multiple of L.
// The blocks keep 8 to 12 sums in registers: enough to hide the latency of a multiply-add, and few
// enough for 16 registers.
template <Put put>
void gemm(int num_r, int num_k, int num_j, const Real* a, ptrdiff_t a_r, ptrdiff_t a_k,
                 const Real* b, ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  int j = 0;
  int left = num_j / L;
  while (left > 4 || left == 3) {
    rows_of_tiles<put, 4, 3>(num_r, num_k, a, a_r, a_k, b + j, ldb, c + j, ldc);
    j += 3 * L;
    left -= 3;
  }
  for (; left >= 2; left -= 2) {
    rows_of_tiles<put, 4, 2>(num_r, num_k, a, a_r, a_k, b + j, ldb, c + j, ldc);
    j += 2 * L;
  }
  if (left) rows_of_tiles<put, 8, 1>(num_r, num_k, a, a_r, a_k, b + j, ldb, c + j, ldc);
}

}  // namespace
