// What engines can do to a store, and to each other through it: nonsense, dying, sharing.
#include "weightstore/store_loop.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstring>

#include "tests/support/raw_engine.h"
#include "tests/support/store_fixture.h"

namespace tidegate::store_loop_test {

constexpr UnitKind kIn = UnitKind::kInput;
constexpr UnitKind kHid = UnitKind::kHidden;
constexpr uint64_t kInBytes = 8192, kHidBytes = 4096;
constexpr int kOk = 0;
constexpr int kInvalid = static_cast<int>(absl::StatusCode::kInvalidArgument);
constexpr int kInUse = static_cast<int>(absl::StatusCode::kFailedPrecondition);

RingEntry AcquireEntry(uint64_t serial, uint32_t blocks = 1, UnitKind kind = kIn,
                       uint32_t lease = 0) {
  return {.op = static_cast<uint32_t>(RingOp::kAcquire),
          .lease = lease,
          .layer = 0,
          .kind = static_cast<uint32_t>(kind),
          .mode = static_cast<uint32_t>(LeaseMode::kSelect),
          .block_count = blocks,
          .serial = serial};
}
RingEntry ReleaseEntry(uint64_t serial, uint32_t lease = 0) {
  return {.op = static_cast<uint32_t>(RingOp::kRelease),
          .lease = lease,
          .layer = 0,
          .kind = 0,
          .mode = 0,
          .block_count = 0,
          .serial = serial};
}

RingEntry CountEntry(uint64_t units, uint32_t mode) {
  return {.op = static_cast<uint32_t>(RingOp::kCount),
          .lease = 0,
          .layer = 0,
          .kind = 0,
          .mode = mode,
          .block_count = 0,
          .serial = units};
}

class HostileEngineTest : public StoreFixture {
 protected:
  void Begin() {
    StartStore();
    engine_ = std::make_unique<RawEngine>(options_.socket_path);
    ASSERT_EQ(engine_->Attach().code(), 0);
  }
  void TearDown() override {  // Whatever happened: an honest engine is served, and nothing is lost.
    if (store_ == nullptr || HasFatalFailure()) return;
    std::unique_ptr<WeightClient> honest;  // At once, or when an engine of the test is gone.
    ASSERT_TRUE(WaitUntil(
        [&] {
          auto client = WeightClient::Attach(options_.socket_path, "honest");
          if (client.ok()) honest = *std::move(client);
          return client.ok();
        },
        std::chrono::seconds(20)));
    for (const UnitKind kind : {kIn, kHid}) ExpectServes(*honest, 1, kind, Wanted(0, 64));
    engine_.reset();
    EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
    EXPECT_TRUE(Becomes(stats().engines_attached, 1));
    EXPECT_EQ(stats().corrupt_blocks, 0u);
  }
  void Want(uint32_t lease, std::vector<WantedBlock> wanted) const {
    std::memcpy(engine_->wanted(lease), wanted.data(), wanted.size() * sizeof(WantedBlock));
  }

  std::unique_ptr<RawEngine> engine_;
};

TEST_F(HostileEngineTest, RequestsOutsideTheModelAreRejected) {
  Begin();
  Want(0, {{0, 1}});
  uint64_t serial = 100;
  std::vector<RingEntry> bad(10, AcquireEntry(0));
  bad[0].layer = 2;
  bad[1].layer = ~0u;
  bad[2].kind = 2;
  bad[3].kind = ~0u;
  bad[4].mode = 0;
  bad[5].mode = 3;
  bad[6].block_count = 0;
  bad[7].block_count = 65;
  bad[8].block_count = ~0u;
  bad[9].mode = ~0u;
  for (RingEntry& entry : bad) {
    entry.serial = ++serial;
    EXPECT_EQ(engine_->Verdict(entry), kInvalid) << serial;
  }
  EXPECT_EQ(engine_->Verdict(AcquireEntry(++serial)), kOk) << "the lease itself is still good";
}

TEST_F(HostileEngineTest, BlockListsOutOfOrderOrRangeAreRejected) {
  Begin();
  uint64_t serial = 0;
  const std::vector<std::vector<WantedBlock>> lists = {
      {{5, 1}, {4, 1}},     {{5, 1}, {5, 1}},   {{63, 1}, {64, 1}},
      {{0, 1}, {~0u, 1}},   {{~0u, 1}, {0, 1}}, {{0, kRowsOfPass + 1}, {1, 1}},
      {{0, 1}, {1, 0xffff}}};
  for (const auto& list : lists) {
    Want(0, list);
    EXPECT_EQ(engine_->Verdict(AcquireEntry(++serial, 2)), kInvalid) << serial;
  }
  EXPECT_EQ(stats().pinned_bytes, 0u);
  EXPECT_EQ(stats().leases_granted[0], 0u);
}

TEST_F(HostileEngineTest, LeasesThatDoNotExistAndUnknownRequestsAreIgnored) {
  Begin();
  for (const uint32_t lease : {kLeasesPerSession, 1000u, ~0u}) {
    EXPECT_TRUE(engine_->PostAndWait(AcquireEntry(1, 1, kIn, lease)));
    EXPECT_TRUE(engine_->PostAndWait(ReleaseEntry(1, lease)));
  }
  RingEntry unknown = AcquireEntry(1);
  for (const uint32_t op : {0u, 4u, ~0u}) {
    unknown.op = op;
    EXPECT_TRUE(engine_->PostAndWait(unknown));
  }
  EXPECT_TRUE(engine_->PostAndWait(ReleaseEntry(0)));  // Of a lease that was never acquired.
  EXPECT_EQ(stats().leases_granted[0], 0u);
}

TEST_F(HostileEngineTest, ACountBeyondAPassEndsTheSessionAndCountsNothing) {
  constexpr auto kSelect = static_cast<uint32_t>(LeaseMode::kSelect);
  constexpr auto kStream = static_cast<uint32_t>(LeaseMode::kStream);
  Begin();
  const uint64_t most = UnitsOfPass(pack_.index.geometry);
  EXPECT_EQ(most, 2u * (64 + 1024) * kRowsOfPass);
  EXPECT_TRUE(engine_->PostAndWait(CountEntry(most, kSelect)));
  EXPECT_TRUE(engine_->PostAndWait(CountEntry(7, kStream)));
  EXPECT_TRUE(Becomes(stats().hit_units[0], most));
  EXPECT_TRUE(Becomes(stats().hit_units[1], 7));
  for (const RingEntry& entry :
       {CountEntry(most + 1, kSelect), CountEntry(uint64_t{1} << 63, kStream),
        CountEntry(~uint64_t{0}, kSelect), CountEntry(1, 0), CountEntry(1, ~0u)}) {
    engine_->Post(entry);
    EXPECT_TRUE(Becomes(stats().engines_attached, 0)) << entry.serial << " in " << entry.mode;
    engine_.reset();
    ASSERT_TRUE(WaitUntil(
        [&] {
          engine_ = std::make_unique<RawEngine>(options_.socket_path);
          return engine_->Attach().code() == 0;
        },
        std::chrono::seconds(20)));
    EXPECT_TRUE(Becomes(stats().engines_attached, 1));
  }
  EXPECT_EQ(stats().hit_units[0], most);
  EXPECT_EQ(stats().hit_units[1], 7u);
}

// As an engine counts: what gathered over passes that failed is more than one pass has.
TEST_F(HostileEngineTest, AnHonestClientNeverCountsTooMuchAtOnce) {
  Begin();
  const uint64_t most = UnitsOfPass(pack_.index.geometry);
  const auto honest = Attach("honest");
  ASSERT_NE(honest, nullptr);
  honest->CountUses(LeaseMode::kSelect, 2 * most + 5);
  honest->EndPass(/*complete=*/true);
  EXPECT_TRUE(Becomes(stats().hit_units[0], 2 * most + 5));
  EXPECT_EQ(stats().engines_attached, 2u);
}

TEST_F(HostileEngineTest, ALeaseInUseIsNotGivenTwiceNorReleasedTwice) {
  Begin();
  Want(0, {{3, 1}});
  EXPECT_EQ(engine_->Verdict(AcquireEntry(1)), kOk);
  EXPECT_EQ(engine_->Verdict(AcquireEntry(2)), kInUse);
  EXPECT_EQ(stats().pinned_bytes, kInBytes);
  EXPECT_TRUE(engine_->PostAndWait(ReleaseEntry(2)));  // Not the one that holds it.
  EXPECT_EQ(stats().pinned_bytes, kInBytes);
  for (int time = 0; time < 3; ++time) EXPECT_TRUE(engine_->PostAndWait(ReleaseEntry(1)));
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
}

TEST_F(HostileEngineTest, GarbageInEverySharedWord) {
  Begin();
  Want(0, {{3, 1}});
  EXPECT_EQ(engine_->Verdict(AcquireEntry(1)), kOk);
  const SessionHeader& header = engine_->header();
  for (uint32_t lease = 0; lease < kLeasesPerSession; ++lease) {
    std::memset(static_cast<void*>(&engine_->lease(lease)), 0xa5, header.lease_stride);
  }
  EXPECT_TRUE(engine_->PostAndWait(ReleaseEntry(1)));
  SessionHeader& all = engine_->header();
  std::memset(static_cast<void*>(all.ring), 0xa5, sizeof(all.ring));
  all.magic = all.session_bytes = all.leases_offset = ~uint64_t{0};
  all.max_blocks = all.session_index = ~0u;
  all.taken = 77;
  all.store_waiting = 0;
  engine_->Kick();
}

TEST_F(HostileEngineTest, ABrokenRingEndsTheSessionAndOnlyThat) {
  Begin();
  const auto honest = Attach("honest");
  ASSERT_NE(honest, nullptr);
  Want(0, {{3, 1}});
  EXPECT_EQ(engine_->Verdict(AcquireEntry(1)), kOk);
  engine_->header().submitted += 1000;
  engine_->Kick();
  EXPECT_TRUE(Becomes(stats().engines_attached, 1));
  EXPECT_TRUE(Becomes(stats().leases_dropped, 1));
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  ExpectServes(*honest, 0, kIn, Wanted(0, 10));
}

// The index of a session that broke its ring must not pass to another engine before its connection
// has ended: that end would take the other engine's session away.
TEST_F(HostileEngineTest, TheEndOfABrokenSessionHitsNoSuccessor) {
  Begin();
  engine_->header().submitted += 1000;
  engine_->Kick();
  EXPECT_TRUE(Becomes(stats().engines_attached, 0));
  auto successor = Attach("successor");
  ASSERT_NE(successor, nullptr);
  engine_.reset();
  // A third engine fits as soon as the store has seen that the first is gone.
  EXPECT_TRUE(WaitUntil([&] { return WeightClient::Attach(options_.socket_path, "third").ok(); },
                        std::chrono::seconds(20)));
  ExpectServes(*successor, 0, kIn, Wanted(0, 10));
  EXPECT_TRUE(successor->connected());
  successor.reset();
  EXPECT_TRUE(Becomes(stats().engines_attached, 0));
}

// A chunk of staging has another number of places for each kind: none must lead out of the
// session's staging.
TEST_F(HostileEngineTest, StreamedBlocksStayInTheirStaging) {
  options_.policy = "none";
  options_.cache_fraction = 0;
  options_.staging_bytes = 2 * kInBytes;
  Begin();
  Want(0, {{3, 1}});
  RegionHeader region;
  ASSERT_TRUE(ReadAt(engine_->region_fd().get(), 0, &region, sizeof(region)).ok());
  const uint64_t staging = StagingOffset(region, engine_->header().session_index, 0);
  for (uint64_t serial = 1; serial <= 40; ++serial) {
    const UnitKind kind = serial % 5 == 4 ? kIn : kHid;
    engine_->locations(0)[0] = 0;
    ASSERT_EQ(engine_->Verdict(AcquireEntry(serial, 1, kind)), kOk);
    ASSERT_TRUE(WaitUntil([&] { return engine_->locations(0)[0] != 0; }, std::chrono::seconds(20)));
    const uint64_t offset = engine_->locations(0)[0] & kLocationOffsetMask;
    const uint64_t bytes = kind == kIn ? kInBytes : kHidBytes;
    EXPECT_GE(offset, staging);
    EXPECT_LE(offset + bytes, staging + kLeasesPerSession * region.staging_bytes) << serial;
    std::string data(bytes, '\0');
    ASSERT_TRUE(ReadAt(engine_->region_fd().get(), offset, data.data(), bytes).ok());
    EXPECT_TRUE(data == pack_.Block(0, kind, 3));
    ASSERT_TRUE(engine_->PostAndWait(ReleaseEntry(serial)));
  }
}

// Reads of a lease that was released are still out when its place and its number are used again.
TEST_F(HostileEngineTest, ALateReadIsNotTakenForThatOfANewLeaseWithTheSameNumber) {
  options_.policy = "none";
  options_.cache_fraction = 0;
  options_.staging_bytes = 2 * kInBytes;
  options_.flash_model = FlashModel{.latency = std::chrono::milliseconds(20)};
  Begin();
  for (uint32_t round = 0; round < 5; ++round) {
    Want(0, Wanted(0, 40));
    ASSERT_TRUE(engine_->PostAndWait(AcquireEntry(7, 40)));
    ASSERT_TRUE(engine_->PostAndWait(ReleaseEntry(7)));
    engine_->lease(0).consumed = 0;
    engine_->locations(0)[0] = 0;
    Want(0, {{50, 1}});
    ASSERT_TRUE(engine_->PostAndWait(AcquireEntry(7, 1, kHid)));
    ASSERT_TRUE(WaitUntil([&] { return engine_->locations(0)[0] != 0; }, std::chrono::seconds(20)));
    const uint64_t offset = engine_->locations(0)[0] & kLocationOffsetMask;
    std::string data(kHidBytes, '\0');
    ASSERT_TRUE(ReadAt(engine_->region_fd().get(), offset, data.data(), data.size()).ok());
    EXPECT_TRUE(data == pack_.Block(0, kHid, 50));
    ASSERT_TRUE(engine_->PostAndWait(ReleaseEntry(7)));
  }
}

// The engine shares the eventfd's flags: made blocking and emptied by the engine, it must not hang
// the store's thread.
TEST_F(HostileEngineTest, AnEventDescriptorMadeBlockingHangsNobody) {
  Begin();
  const int fd = engine_->kick_fd().get();
  ASSERT_EQ(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK), 0);
  for (int time = 0; time < 2000; ++time) {
    engine_->Kick();
    // Readable for us only if the store does not read it; poll first, for this read must not hang.
    pollfd readable = {fd, POLLIN, 0};
    uint64_t count;
    if (::poll(&readable, 1, 0) == 1) {
      ASSERT_EQ(::read(fd, &count, sizeof(count)), 8);
    }
  }
}

TEST_F(HostileEngineTest, TheEngineCannotWriteTheRegion) {
  Begin();
  EXPECT_FALSE(
      Mapping::Map(engine_->region_fd().get(), kPageBytes, Mapping::Access::kReadWrite).ok());
  EXPECT_EQ(::pwrite(engine_->region_fd().get(), "x", 1, 0), -1);
}

TEST_F(HostileEngineTest, TalkingOutOfTurnEndsTheSession) {
  Begin();
  Want(0, {{3, 1}});
  EXPECT_EQ(engine_->Verdict(AcquireEntry(1)), kOk);
  engine_->Send("hello?");
  EXPECT_TRUE(engine_->Closed());
  EXPECT_TRUE(Becomes(stats().engines_attached, 0));
  EXPECT_TRUE(Becomes(stats().leases_dropped, 1));
}

TEST_F(HostileEngineTest, WrongVersionAndMalformedMessagesTakeNoSession) {
  Begin();
  for (int time = 0; time < 5; ++time) {
    RawEngine old(options_.socket_path);
    EXPECT_EQ(old.Attach(kControlVersion + 1).code(), kInUse);
    RawEngine confused(options_.socket_path);
    confused.Send("\xff\xff\xff");
    EXPECT_EQ(confused.Receive().code(), kInvalid);
  }
  EXPECT_EQ(stats().attaches_refused, 10u);
  EXPECT_TRUE(Becomes(stats().attaches_total, 1));
}

class StoreLoopTest : public StoreFixture {};

TEST_F(StoreLoopTest, AnEngineThatGoesWithLeasesHeldLeavesAWarmCache) {
  StartStore();
  for (uint64_t time = 1; time <= 3; ++time) {  // More often than there are sessions.
    auto engine = std::make_unique<RawEngine>(options_.socket_path);
    ASSERT_EQ(engine->Attach().code(), 0);
    for (uint32_t lease = 0; lease < 3; ++lease) {
      for (uint32_t i = 0; i < 8; ++i) engine->wanted(lease)[i] = {i, 1};
      ASSERT_EQ(engine->Verdict(AcquireEntry(lease + 1, 8, kIn, lease)), kOk);
    }
    EXPECT_EQ(stats().pinned_bytes, 8 * kInBytes);
    engine.reset();
    EXPECT_TRUE(Becomes(stats().leases_dropped, 3 * time));
    EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
    EXPECT_TRUE(Becomes(stats().engines_attached, 0));
  }
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  WeightLease lease = Acquire(*client, 0, kIn, Wanted(0, 8));
  ExpectPackBytes(lease, 0, kIn, Wanted(0, 8));
  EXPECT_EQ(lease.accounts()->hit_units, 8u);
  EXPECT_EQ(stats().flash_read_bytes[0], 8 * kInBytes) << "read once, for the first of them";
}

// The whole life of a child that takes leases and is killed. Never returns.
[[noreturn]] void LiveAndHold(const std::string& socket_path, int ready_fd) {
  absl::StatusOr<std::unique_ptr<WeightClient>> client = absl::UnavailableError("");
  while (!client.ok()) {
    client = WeightClient::Attach(socket_path, "child");
    ::usleep(2000);
  }
  std::vector<WeightLease> leases;
  for (const UnitKind kind : {kIn, kHid}) {
    auto lease = (*client)->Acquire(0, kind, Wanted(0, 16), LeaseMode::kSelect);
    if (!lease.ok() || !lease->Wait(15).ok()) ::_exit(1);
    leases.push_back(*std::move(lease));
  }
  if (::write(ready_fd, "x", 1) != 1) ::_exit(1);
  for (;;) ::pause();
}

TEST_F(StoreLoopTest, AnEngineThatIsKilled) {
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const UniqueFd reader(ready[0]), writer(ready[1]);
  const pid_t child = ::fork();  // Before the store has threads.
  ASSERT_GE(child, 0);
  if (child == 0) LiveAndHold(options_.socket_path, writer.get());
  StartStore();
  pollfd readable = {reader.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&readable, 1, 60000), 1);
  EXPECT_EQ(stats().pinned_bytes, 16 * (kInBytes + kHidBytes));
  EXPECT_EQ(::kill(child, SIGKILL), 0);
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(Becomes(stats().leases_dropped, 2));
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  EXPECT_TRUE(Becomes(stats().engines_attached, 0));
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  WeightLease lease = Acquire(*client, 0, kHid, Wanted(0, 16));
  ExpectPackBytes(lease, 0, kHid, Wanted(0, 16));
  EXPECT_EQ(lease.accounts()->hit_units, 16u);
}

TEST_F(StoreLoopTest, AnEngineThatGoesWhileItsReadsAreOut) {
  options_.policy = "none";
  options_.flash_model = FlashModel{.latency = std::chrono::milliseconds(20)};
  StartStore();
  for (int time = 0; time < 4; ++time) {
    RawEngine engine(options_.socket_path);
    ASSERT_TRUE(WaitUntil([&] { return stats().engines_attached == 0; }, std::chrono::seconds(20)));
    if (engine.Attach().code() != 0) continue;  // Both sessions still wait for their last reads.
    for (uint32_t i = 0; i < 16; ++i) engine.wanted(0)[i] = {i, 1};
    ASSERT_TRUE(engine.PostAndWait(AcquireEntry(1, 16)));
  }
  // Sessions become free when the reads into their staging have ended.
  EXPECT_TRUE(WaitUntil([&] { return WeightClient::Attach(options_.socket_path, "x").ok(); },
                        std::chrono::seconds(20)));
}

TEST_F(StoreLoopTest, TwoEnginesShareReads) {
  options_.flash_model = FlashModel{.latency = std::chrono::milliseconds(30)};
  StartStore();
  const auto first = Attach("first"), second = Attach("second");
  ASSERT_TRUE(first != nullptr && second != nullptr);
  const auto wanted = Wanted(10, 30);
  WeightLease one = Acquire(*first, 1, kIn, wanted);
  ASSERT_TRUE(one.accounts().ok());
  WeightLease two = Acquire(*second, 1, kIn, wanted);
  const auto accounts = two.accounts();
  ASSERT_TRUE(accounts.ok());
  EXPECT_EQ(accounts->hit_units, 20u) << "on their way already, or there";
  EXPECT_EQ(accounts->flash_bytes, 0u);
  one.Release();  // What the second waits for stays pinned by it.
  ExpectPackBytes(two, 1, kIn, wanted);
  EXPECT_EQ(stats().flash_read_bytes[0], 20 * kInBytes);
  EXPECT_EQ(stats().pinned_bytes, 20 * kInBytes);
}

TEST_F(StoreLoopTest, AJoinedReadThatFailsIsToldToBoth) {
  pack_.FlipByte(1, kIn, 12);
  options_.flash_model = FlashModel{.latency = std::chrono::milliseconds(30)};
  StartStore();
  const auto first = Attach("first"), second = Attach("second");
  ASSERT_TRUE(first != nullptr && second != nullptr);
  const auto wanted = Wanted(10, 14);
  WeightLease one = Acquire(*first, 1, kIn, wanted);
  ASSERT_TRUE(one.accounts().ok());
  WeightLease two = Acquire(*second, 1, kIn, wanted);
  for (WeightLease* lease : {&one, &two}) {
    EXPECT_EQ(lease->Wait(2).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(lease->Wait(3).ok());
  }
  one.Release();
  two.Release();
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  EXPECT_EQ(stats().used_bytes, 3 * kInBytes);
}

TEST_F(StoreLoopTest, AThirdEngineIsRefusedUntilAPlaceIsFree) {
  StartStore();
  auto first = Attach("first");
  const auto second = Attach("second");
  const auto third = WeightClient::Attach(options_.socket_path, "third");
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted) << third.status();
  EXPECT_EQ(stats().attaches_refused, 1u);
  first.reset();
  EXPECT_TRUE(WaitUntil([&] { return WeightClient::Attach(options_.socket_path, "again").ok(); },
                        std::chrono::seconds(20)));
  ExpectServes(*second, 0, kIn, Wanted(0, 4));
}

}  // namespace tidegate::store_loop_test
