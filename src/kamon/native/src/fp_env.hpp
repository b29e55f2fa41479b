// The floating-point environment of a thread: Kamon's during a call, and the caller's after it.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

namespace {

// How the thread rounds and treats denormals.
#if defined(__x86_64__) || defined(__i386__)
using Environment = unsigned;
inline Environment get_environment() { return _mm_getcsr(); }
inline void set_environment(Environment e) { _mm_setcsr(e); }
constexpr Environment OURS = 0x1f80 | 0x8040;  // to nearest, denormals are zero
#elif defined(__aarch64__)
using Environment = uint64_t;
inline Environment get_environment() {
  Environment e;
  asm volatile("mrs %0, fpcr" : "=r"(e));
  return e;
}
inline void set_environment(Environment e) { asm volatile("msr fpcr, %0" ::"r"(e)); }
constexpr Environment OURS = 1 << 24;
#else
using Environment = int;
inline Environment get_environment() { return 0; }
inline void set_environment(Environment) {}
constexpr Environment OURS = 0;
#endif

// Treats denormals as 0, because they take ten times as long as normal numbers and make no
// difference. The destructor restores the caller's setting.
class FlushToZero {
 public:
  FlushToZero() : before(get_environment()) { set_environment(OURS); }
  ~FlushToZero() { set_environment(before); }
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

 private:
  Environment before;
};

}  // namespace
