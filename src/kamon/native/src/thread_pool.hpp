// Threads that wait for work between calls. Every task writes to its own memory, so the results do
// not depend on which thread does it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <unistd.h>
#endif

namespace {

// Whether a call should end early. Another thread sets the number to a value other than 0. Null
// means never.
struct StopFlag {
  const int32_t* number;
  bool operator()() const { return number && __atomic_load_n(number, __ATOMIC_RELAXED); }
};

// Identifies the process. After a fork, the child has another value.
inline int64_t this_process() {
#ifdef _WIN32
  return 0;
#else
  return int64_t(getpid());
#endif
}

class ThreadPool {
 public:
  const int64_t process = this_process();

  // If a thread cannot be started, ends the others and throws.
  explicit ThreadPool(int num_threads) {
    try {
      threads.reserve(size_t(num_threads));
      for (int t = 1; t < num_threads; t++) threads.emplace_back([this, t] { work(t); });
    } catch (...) {
      join();
      throw;
    }
  }
  ~ThreadPool() { join(); }

  // Calls task(i, thread) for each i < num_tasks and returns when all are done. If a task throws,
  // it starts no more tasks and throws the first exception.
  void run(int num_tasks, const std::function<void(int, int)>& task) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      current = &task;
      failure = nullptr;
      total = num_tasks;
      next.store(0);
      busy.store(int(threads.size()));
      generation.fetch_add(1);
    }
    wake.notify_all();
    do_tasks(0);
    for (int spin = 1; busy.load(std::memory_order_acquire); spin++) pause(spin);
    if (failure) std::rethrow_exception(failure);
  }

 private:
  std::vector<std::thread> threads;  // besides the one that calls `run`
  std::mutex mutex;
  std::condition_variable wake;
  const std::function<void(int, int)>* current = nullptr;
  std::exception_ptr failure;
  int total = 0;
  std::atomic<int> next{0};             // the first task that no thread has started
  std::atomic<int> busy{0};             // threads that may still be at work
  std::atomic<unsigned> generation{0};  // counts the calls of `run`
  bool stopping = false;

  // One turn of a loop that waits. Sometimes it yields the core to another thread, perhaps the one
  // that it waits for. Otherwise it informs the processor that it only waits.
  static void pause(int spin) {
    constexpr int SPINS_PER_YIELD = 256;
    if (spin % SPINS_PER_YIELD == 0) return std::this_thread::yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");  // waits about as long as x86's pause; "yield" does not wait
#endif
  }

  void join() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
      generation.fetch_add(1);
    }
    wake.notify_all();
    for (auto& thread : threads) thread.join();
  }

  void do_tasks(int thread) {
    try {
      for (int i; (i = next.fetch_add(1)) < total;) (*current)(i, thread);
    } catch (...) {
      next.store(total);
      std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void work(int thread) {
    constexpr int MAX_SPINS = 20000;  // because the next call usually comes soon
    unsigned seen = 0;
    for (;;) {
      for (int spin = 1; spin <= MAX_SPINS && generation.load() == seen; spin++) pause(spin);
      if (generation.load() == seen) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return generation.load() != seen; });
      }
      {
        std::lock_guard<std::mutex> lock(mutex);
        seen = generation.load();
        if (stopping) return;
      }
      do_tasks(thread);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }
};

// After a fork, the child does not have the pool's threads, so it must not touch the pool.
struct DeleteUnlessForked {
  void operator()(ThreadPool* pool) const {
    if (pool->process == this_process()) delete pool;
  }
};

}  // namespace
