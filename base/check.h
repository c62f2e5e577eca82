// Assertions for programmer errors. Bad input is never a CHECK: it is a Status. Any thread.
#pragma once

#include <cstdio>
#include <cstdlib>

// CHECK(condition): always on; prints file, line and the condition, then aborts.
#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

// DCHECK(condition): the same in builds without NDEBUG; for hot loops.
#ifdef NDEBUG
#define DCHECK(condition)    \
  do {                       \
    (void)sizeof(condition); \
  } while (false)
#else
#define DCHECK(condition) CHECK(condition)
#endif
