// Futex on a 32-bit word that may lie in memory shared between processes. Any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace tidegate {

// Sleeps while `*word == expected`, at most `timeout`. Spurious returns are allowed: re-check.
void FutexWait(const std::atomic<uint32_t>* word, uint32_t expected,
               std::chrono::nanoseconds timeout);

// Wakes every waiter on `word`.
void FutexWakeAll(std::atomic<uint32_t>* word);

// One pause of a spin loop.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace tidegate
