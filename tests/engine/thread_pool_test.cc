#include "engine/thread_pool.h"

#include <gtest/gtest.h>

namespace tidegate::thread_pool_test {

TEST(ThreadPoolTest, CoversEveryIndexOnceForAnyCountAndGranule) {
  for (const uint32_t threads : {1u, 2u, 5u}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.thread_count(), threads);
    for (const size_t count : {1u, 7u, 64u, 65u, 1000u}) {
      for (const size_t granule : {1u, 64u}) {
        std::vector<int> touched(count,
                                 0);  // Ranges are disjoint: no two threads share an element.
        pool.For(count, granule, size_t{1} << 30, [&](size_t begin, size_t end) {
          EXPECT_EQ(begin % granule, 0u);
          for (size_t i = begin; i < end; ++i) ++touched[i];
        });
        for (size_t i = 0; i < count; ++i) ASSERT_EQ(touched[i], 1) << threads << " " << count;
      }
    }
  }
}

TEST(ThreadPoolTest, ResultsOfOneLoopAreVisibleToTheNext) {
  ThreadPool pool(3);
  std::vector<uint64_t> values(999, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.For(values.size(), 1, size_t{1} << 30, [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) ++values[i];
    });
  }
  for (const uint64_t value : values) ASSERT_EQ(value, 2000u);
}

TEST(ThreadPoolTest, SmallWorkStaysOnTheCaller) {
  ThreadPool pool(4);
  const std::thread::id caller = std::this_thread::get_id();
  int calls = 0;
  pool.For(1000, 1, 100, [&](size_t begin, size_t end) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_EQ(end - begin, 1000u);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPoolTest, PiecesCoverEverythingOnceAndNeverMore) {
  for (const uint32_t threads : {1u, 2u, 4u}) {
    ThreadPool pool(threads);
    for (const size_t count : {size_t{1}, size_t{64}, size_t{65}, size_t{1000}, size_t{4096}}) {
      std::vector<std::atomic<int>> seen(count);
      for (int round = 0; round < 50; ++round) {
        pool.ForPieces(count, 64, 1 << 20, [&](size_t begin, size_t end) {
          EXPECT_EQ(begin % 64, 0u);
          for (size_t i = begin; i < end; ++i) seen[i].fetch_add(1);
        });
      }
      for (const auto& times : seen) ASSERT_EQ(times, 50);
    }
  }
}

}  // namespace tidegate::thread_pool_test
