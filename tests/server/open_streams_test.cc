#include "server/open_streams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/test_support.h"

namespace tidegate::open_streams_test {

using std::chrono::milliseconds;

class CountingStream final : public OpenStreams::Stream {
 public:
  void EndUnread() override { ++ended; }
  void KeepAlive() override { ++kept_alive; }
  std::atomic<int> ended = 0, kept_alive = 0;
};

TEST(OpenStreams, CountsAndSaysWhenThereAreTooMany) {
  OpenStreams streams(1, std::chrono::minutes(1));
  CountingStream first, second;
  EXPECT_TRUE(streams.Add(&first));
  EXPECT_FALSE(streams.Add(&second));
  EXPECT_EQ(streams.count(), 2) << "until gRPC has let go of it";
  streams.Remove(&second);
  streams.Remove(&first);
  EXPECT_EQ(streams.count(), 0);
}

TEST(OpenStreams, AWriteThatIsOutForTooLongEndsItsStreamOnce) {
  OpenStreams streams(10, milliseconds(4));
  CountingStream stuck, reading, quiet;
  for (CountingStream* stream : {&stuck, &reading, &quiet}) streams.Add(stream);
  reading.WriteBegun();
  reading.WriteDone();
  stuck.WriteBegun();
  EXPECT_TRUE(WaitUntil([&] { return stuck.ended > 0; }, std::chrono::seconds(20)));
  CountingStream later;  // by the time that it ends, the others were looked at again
  streams.Add(&later);
  later.WriteBegun();
  EXPECT_TRUE(WaitUntil([&] { return later.ended > 0; }, std::chrono::seconds(20)));
  EXPECT_EQ(stuck.ended, 1);
  EXPECT_EQ(reading.ended, 0);
  EXPECT_EQ(quiet.ended, 0);
  for (CountingStream* stream : {&stuck, &reading, &quiet, &later}) streams.Remove(stream);
}

TEST(OpenStreams, KeepsAliveThoseWhoAskWhileNothingIsOut) {
  OpenStreams streams(10, std::chrono::minutes(1));
  CountingStream silent, writing, indifferent;
  for (CountingStream* stream : {&silent, &writing, &indifferent}) streams.Add(stream);
  writing.WriteBegun();
  streams.Name(&writing, "w", 1, milliseconds(1));
  streams.Name(&indifferent, "i", 2);
  streams.Name(&silent, "s", 3, milliseconds(1));
  EXPECT_TRUE(WaitUntil([&] { return silent.kept_alive > 2; }, std::chrono::seconds(20)));
  EXPECT_EQ(writing.kept_alive, 0);
  EXPECT_EQ(indifferent.kept_alive, 0);
  writing.WriteDone();
  EXPECT_TRUE(WaitUntil([&] { return writing.kept_alive > 0; }, std::chrono::seconds(20)));
  for (CountingStream* stream : {&silent, &writing, &indifferent}) streams.Remove(stream);
}

TEST(OpenStreams, FindsAnOwnersStreamsAlone) {
  OpenStreams streams(10, std::chrono::minutes(1));
  CountingStream mine, yours;
  for (CountingStream* stream : {&mine, &yours}) streams.Add(stream);
  streams.Name(&mine, "r", 1, milliseconds(0), "key:a");
  streams.Name(&yours, "r", 2, milliseconds(0), "key:b");
  EXPECT_THAT(streams.Cancel("r", "key:c"), testing::IsEmpty());
  EXPECT_THAT(streams.Cancel("r", "key:b"), testing::ElementsAre(2));
  EXPECT_FALSE(mine.cancelled());
  EXPECT_THAT(streams.Cancel("r"), testing::UnorderedElementsAre(1, 2));
  for (CountingStream* stream : {&mine, &yours}) streams.Remove(stream);
}

TEST(OpenStreams, FindsTheStreamsOfARequestId) {
  OpenStreams streams(10, std::chrono::minutes(1));
  CountingStream first, same, other, nameless;
  for (CountingStream* stream : {&first, &same, &other, &nameless}) streams.Add(stream);
  streams.Name(&first, "r", 1);
  streams.Name(&same, "r", 2);
  streams.Name(&other, "r2", 3);
  EXPECT_THAT(streams.Cancel("r"), testing::UnorderedElementsAre(1, 2));
  EXPECT_TRUE(first.cancelled());
  EXPECT_TRUE(same.cancelled());
  EXPECT_FALSE(other.cancelled());
  EXPECT_THAT(streams.Cancel(""), testing::IsEmpty()) << "no name is no id";
  first.Settled();
  EXPECT_THAT(streams.Cancel("r"), testing::ElementsAre(2));
  streams.Remove(&same);
  EXPECT_THAT(streams.Cancel("r"), testing::IsEmpty());
  for (CountingStream* stream : {&first, &other, &nameless}) streams.Remove(stream);
}

}  // namespace tidegate::open_streams_test
