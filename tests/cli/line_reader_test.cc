#include "cli/line_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "base/unique_fd.h"

namespace tidegate::line_reader_test {

TEST(LineReader, GivesLinesAndTheUnfinishedLast) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd read_end(ends[0]);
  {
    const UniqueFd write_end(ends[1]);
    ASSERT_EQ(write(write_end.get(), "one\n\ntwo", 8), 8);
  }
  LineReader reader(read_end.get());
  std::string line;
  ASSERT_EQ(reader.Next(line), LineReader::Event::kLine);
  EXPECT_EQ(line, "one");
  ASSERT_EQ(reader.Next(line), LineReader::Event::kLine);
  EXPECT_EQ(line, "");
  ASSERT_EQ(reader.Next(line), LineReader::Event::kLine);
  EXPECT_EQ(line, "two");
  EXPECT_EQ(reader.Next(line), LineReader::Event::kEnd);
  EXPECT_EQ(reader.Next(line), LineReader::Event::kEnd);
}

TEST(LineReader, AnInterruptIsAnEventAndDropsTheLine) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  LineReader reader(read_end.get());
  ASSERT_EQ(write(write_end.get(), "half", 4), 4);
  // Signals until the reader has seen one: whenever the first comes, the reader waits.
  std::atomic<bool> seen = false;
  const pthread_t main_thread = pthread_self();
  std::thread interrupter([&] {
    while (!seen) {
      pthread_kill(main_thread, SIGINT);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  std::string line;
  EXPECT_EQ(reader.Next(line), LineReader::Event::kInterrupt);
  seen = true;
  interrupter.join();
  ASSERT_EQ(write(write_end.get(), "whole\n", 6), 6);
  LineReader::Event event;
  do event = reader.Next(line);
  while (event == LineReader::Event::kInterrupt);  // a signal that came late
  EXPECT_EQ(event, LineReader::Event::kLine);
  EXPECT_TRUE(line == "whole" || line == "halfwhole") << line;
}

}  // namespace tidegate::line_reader_test
