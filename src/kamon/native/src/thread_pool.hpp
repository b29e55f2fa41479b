// Threads that wait for work between calls. Which thread does a task changes no result: every task
// writes to places of its own.
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

// Whether a call shall leave off soon: another thread says so by a number other than 0. Null: never.
struct Stop {
  const int32_t* asked;
  bool operator()() const { return asked && __atomic_load_n(asked, __ATOMIC_RELAXED); }
};

// Another one after a fork, in the child.
inline int64_t this_process() {
#ifdef _WIN32
  return 0;
#else
  return int64_t(getpid());
#endif
}

class Threads {
 public:
  const int64_t process = this_process();

  // Throws if one of them cannot be started; none is left then.
  explicit Threads(int num_threads) {
    try {
      pool.reserve(size_t(num_threads));
      for (int t = 1; t < num_threads; t++) pool.emplace_back([this, t] { work(t); });
    } catch (...) {
      end();
      throw;
    }
  }
  ~Threads() { end(); }

  // task(i, thread) for each i < num_tasks; returns when all are done. Throws the first exception of
  // a task; those not yet begun are then left out.
  void run(int num_tasks, const std::function<void(int, int)>& task) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      current = &task;
      failure = nullptr;
      total = num_tasks;
      next.store(0);
      busy.store(int(pool.size()));
      generation.fetch_add(1);
    }
    wake.notify_all();
    take(0);
    for (int spin = 1; busy.load(std::memory_order_acquire); spin++) pause(spin);
    if (failure) std::rethrow_exception(failure);
  }

 private:
  std::vector<std::thread> pool;
  std::mutex mutex;
  std::condition_variable wake;
  const std::function<void(int, int)>* current = nullptr;
  std::exception_ptr failure;
  int total = 0;
  std::atomic<int> next{0}, busy{0};
  std::atomic<unsigned> generation{0};
  bool stopping = false;

  // From time to time the core goes to whoever waits for it: perhaps the thread that we wait for.
  static void pause(int spin) {
    if (spin % 256 == 0) return std::this_thread::yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  void end() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
      generation.fetch_add(1);
    }
    wake.notify_all();
    for (auto& thread : pool) thread.join();
  }

  void take(int thread) {
    try {
      for (int i; (i = next.fetch_add(1)) < total;) (*current)(i, thread);
    } catch (...) {
      next.store(total);
      std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void work(int thread) {
    unsigned seen = 0;
    for (;;) {
      // The next step is usually a moment away: look a while before going to sleep.
      for (int spin = 1; spin <= 20000 && generation.load() == seen; spin++) pause(spin);
      if (generation.load() == seen) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return generation.load() != seen; });
      }
      {
        std::lock_guard<std::mutex> lock(mutex);
        seen = generation.load();
        if (stopping) return;
      }
      take(thread);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }
};

// The threads of a process that forked are not in its child: there they can only be forgotten.
struct Forget {
  void operator()(Threads* threads) const {
    if (threads->process == this_process()) delete threads;
  }
};

}  // namespace
