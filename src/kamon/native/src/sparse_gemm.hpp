// The product of gemm.hpp if many numbers of A are 0, as after a ReLU. It leaves them out. Two
// thirds of all multiply-adds come after the ReLU.
//
// Four in five hidden units of a trained model are 0 for a token. The sums have the same order as
// in gemm.hpp, and adding 0 · b does not change a sum. So the result is the same to the last bit.
#pragma once

#include "gemm.hpp"

namespace {

// One bit for each number of a matrix, row by row: whether it is above 0.
struct Bits {
  static constexpr int WORD = 64;
  std::vector<uint64_t> words;
  int num_words = 0;  // of a row
  void resize(int num_rows, int num_columns) {
    num_words = (num_columns + WORD - 1) / WORD;
    const size_t size = size_t(round_up(num_rows, WORD)) * num_words;
    if (words.size() < size) words.resize(size);
  }
  uint64_t& word(int r, int w) { return words[size_t(r) * num_words + w]; }
  uint64_t word(int r, int w) const { return words[size_t(r) * num_words + w]; }
};

// Moves bit b of word w to bit w of word b. It exchanges the blocks off the diagonal, with smaller
// blocks in each round.
inline void transpose_bits(uint64_t (&words)[64]) {
  uint64_t low = 0x00000000FFFFFFFF;
  for (int size = 32; size; size /= 2, low ^= low << size)
    for (int w = 0; w < 64; w = (w + size + 1) & ~size) {
      const uint64_t other = (words[w] >> size ^ words[w + size]) & low;
      words[w] ^= other << size;
      words[w + size] ^= other;
    }
}

constexpr int WIDTH = 8;  // vectors of a row of C that are computed together

// The cost of a row of C in multiply-adds of whole vectors, with the zeros and without. Without
// them, each remaining number costs about four more, and each word 32.
inline int64_t dense_cost(int64_t num_k, int width) { return num_k * width; }
inline int64_t sparse_cost(int64_t num_k, int64_t num_words, int width) {
  return num_k * (width + 4) + num_words * 32;
}

// Finds the numbers of a matrix that are above 0, by its rows and by its columns. Returns whether
// they are so few that sparse_gemm saves time for num_j lanes. If not, the bits may be incomplete.
inline bool find_positive(const Real* a, int num_rows, int num_columns, ptrdiff_t lda, int num_j,
                          Bits& by_row, Bits& by_column) {
  by_row.resize(num_rows, num_columns);
  by_column.resize(num_columns, num_rows);
  const int width = std::min(WIDTH, num_j / L);
  const int64_t num_words = int64_t(num_rows) * by_row.num_words;
  const int64_t dense = dense_cost(int64_t(num_rows) * num_columns, width);
  if (width == 1 || sparse_cost(0, num_words, width) >= dense) return false;
  int64_t count = 0;
  for (int r0 = 0; r0 < num_rows; r0 += Bits::WORD)
    for (int c0 = 0; c0 < num_columns; c0 += Bits::WORD) {
      const int rows = std::min(Bits::WORD, num_rows - r0);
      const int columns = std::min(Bits::WORD, num_columns - c0);
      uint64_t block[Bits::WORD] = {};
      for (int r = 0; r < rows; r++) {
        const Real* from = a + (r0 + r) * lda + c0;
        for (int c = 0; c < columns; c += L) block[r] |= positive(load(from + c)) << c;
        // After the last column there are numbers of an earlier chunk.
        if (columns < Bits::WORD) block[r] &= (uint64_t(1) << columns) - 1;
        by_row.word(r0 + r, c0 / Bits::WORD) = block[r];
        count += __builtin_popcountll(block[r]);
      }
      transpose_bits(block);
      for (int c = 0; c < columns; c++) by_column.word(c0 + c, r0 / Bits::WORD) = block[c];
    }
  return sparse_cost(count, num_words, width) < dense;
}

// C[r] = Σ_k A(r, k) · B[k], or C[r] += … to add, for num_r rows from `first` on, over the k of
// word w, in JB vectors.
template <Epilogue epilogue, Layout layout, int JB>
void sparse_rows(int first, int num_r, const Bits& bits, int w, const Real* a, ptrdiff_t lda,
                 const Real* b, ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  a += offset<layout>(first, w * Bits::WORD, lda);
  b += w * Bits::WORD * ldb;
  for (int r = 0; r < num_r; r++) {
    Vec sum[JB];
    for (int j = 0; j < JB; j++)
      sum[j] = epilogue == Epilogue::add ? load(c + r * ldc + j * L) : Vec{};
    for (uint64_t left = bits.word(first + r, w); left; left &= left - 1) {
      const int k = __builtin_ctzll(left);
      const Real x = a[offset<layout>(r, k, lda)];
      const Real* row = b + k * ldb;
      // Without this, the compiler keeps an address for each j and has too few registers.
      asm("" : "+r"(row));
      for (int j = 0; j < JB; j++) sum[j] += x * load(row + j * L);
    }
    for (int j = 0; j < JB; j++) store(c + r * ldc + j * L, sum[j]);
  }
}

template <Layout layout, int JB>
void sparse_words(int first, int num_r, const Bits& bits, const Real* a, ptrdiff_t lda,
                  const Real* b, ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  sparse_rows<Epilogue::set, layout, JB>(first, num_r, bits, 0, a, lda, b, ldb, c, ldc);
  for (int w = 1; w < bits.num_words; w++)
    sparse_rows<Epilogue::add, layout, JB>(first, num_r, bits, w, a, lda, b, ldb, c, ldc);
}

template <Epilogue epilogue, Layout layout, int JB>
void sparse_panel(int num_r, const Bits& bits, const Real* a, ptrdiff_t lda, const Real* b,
                  ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  if constexpr (epilogue == Epilogue::set) {
    sparse_words<layout, JB>(0, num_r, bits, a, lda, b, ldb, c, ldc);
  } else {  // the whole sum first, as in gemm.hpp
    constexpr int ROWS = 32, ld = JB * L;
    alignas(64) Real sums[ROWS * ld];
    for (int first = 0; first < num_r; first += ROWS) {
      const int rows = std::min(ROWS, num_r - first);
      sparse_words<layout, JB>(first, rows, bits, a, lda, b, ldb, sums, ld);
      for (int r = 0; r < rows; r++)
        for (int j = 0; j < ld; j += L) {
          Real* row = c + (first + r) * ldc + j;
          store(row, load(row) + load(sums + r * ld + j));
        }
    }
  }
}

// The same as gemm, for Epilogue::set and Epilogue::add. bits: which A(r, k) are not 0, row by row.
// num_j is a multiple of L.
template <Epilogue epilogue, Layout layout, int JB = WIDTH>
void sparse_gemm(int num_r, const Bits& bits, int num_j, const Real* a, ptrdiff_t lda,
                 const Real* b, ptrdiff_t ldb, Real* c, ptrdiff_t ldc) {
  int j = 0;
  for (; j + JB * L <= num_j; j += JB * L)
    sparse_panel<epilogue, layout, JB>(num_r, bits, a, lda, b + j, ldb, c + j, ldc);
  if constexpr (JB > 1)
    if (j < num_j)
      sparse_gemm<epilogue, layout, JB - 1>(num_r, bits, num_j - j, a, lda, b + j, ldb, c + j, ldc);
}

}  // namespace
