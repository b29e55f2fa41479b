// Threads that wait for work between calls. Which thread does a task changes no result: every task
// writes to places of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace {

class Threads {
 public:
  explicit Threads(int num_threads) {
    for (int t = 1; t < num_threads; t++) pool.emplace_back([this, t] { work(t); });
  }
  ~Threads() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stopping = true;
      generation.fetch_add(1);
    }
    wake.notify_all();
    for (auto& thread : pool) thread.join();
  }
  int size() const { return int(pool.size()) + 1; }

  // task(i, thread) for each i < num_tasks; returns when all are done.
  void run(int num_tasks, const std::function<void(int, int)>& task) {
    if (pool.empty() || num_tasks < 2) {
      for (int i = 0; i < num_tasks; i++) task(i, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex);
      current = &task;
      total = num_tasks;
      next.store(0);
      busy.store(int(pool.size()));
      generation.fetch_add(1);
    }
    wake.notify_all();
    take(0);
    while (busy.load(std::memory_order_acquire)) pause();
  }

 private:
  std::vector<std::thread> pool;
  std::mutex mutex;
  std::condition_variable wake;
  const std::function<void(int, int)>* current = nullptr;
  int total = 0;
  std::atomic<int> next{0}, busy{0};
  std::atomic<unsigned> generation{0};
  bool stopping = false;

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  void take(int thread) {
    for (int i; (i = next.fetch_add(1)) < total;) (*current)(i, thread);
  }

  void work(int thread) {
    unsigned seen = 0;
    for (;;) {
      // The next step is usually a moment away: look a while before going to sleep.
      for (int spin = 0; spin < 20000 && generation.load() == seen; spin++) pause();
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

}  // namespace
