#include "weightstore/client/weight_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

#include "tests/support/store_fixture.h"
#include "weightstore/attach_server.h"
#include "weightstore/client/attach.h"

namespace tidegate::weight_client_test {

using ::testing::HasSubstr;
constexpr UnitKind kIn = UnitKind::kInput;
constexpr UnitKind kHid = UnitKind::kHidden;

TEST(WeightClientAttach, SaysThatNobodyListens) {
  TempDir folder;
  const std::string path = folder.File("absent.sock");
  const auto client = WeightClient::Attach(path, "x");
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(client.status().message()), HasSubstr(path));
}

TEST(WeightClientAttach, ChecksThePath) {
  for (const std::string& path : {std::string(), std::string(108, 'x')}) {
    EXPECT_EQ(WeightClient::Attach(path, "x").status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(WeightClientAttach, NamesASocketOfAnotherKind) {
  TempDir folder;
  const std::string path = folder.File("stream.sock");
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const auto client = WeightClient::Attach(path, "x");
  EXPECT_EQ(client.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("not the attach socket"));
}

// A store that hands out zeroed memory of one size and announces another.
class StrangeStore final : public AttachDelegate {
 public:
  StrangeStore()
      : memory_(::memfd_create("strange", MFD_CLOEXEC)), event_(::eventfd(0, EFD_CLOEXEC)) {
    EXPECT_EQ(::ftruncate(memory_.get(), 8192), 0);
  }
  absl::StatusOr<AttachGrant> OnAttach(const store::v1::AttachRequest&) override {
    if (!refusal.ok()) return refusal;
    return AttachGrant{.session = 0,
                       .region_fd = memory_.get(),
                       .session_fd = memory_.get(),
                       .kick_fd = event_.get(),
                       .pack_fd = memory_.get(),
                       .region_bytes = announced,
                       .session_bytes = announced};
  }
  void OnDetach(uint32_t) override {}
  void OnRefused() override {}

  uint64_t announced = 8192;
  absl::Status refusal;

 private:
  const UniqueFd memory_, event_;
};

absl::Status AttachTo(StrangeStore& store) {
  TempDir folder;
  auto server = AttachServer::Create(folder.File("s"), {}, &store);
  EXPECT_TRUE(server.ok()) << server.status();
  (*server)->Start();
  return WeightClient::Attach(folder.File("s"), "x").status();
}

TEST(WeightClientAttach, DistrustsMemoryOfAnotherSizeThanAnnounced) {
  for (const uint64_t announced : {uint64_t{1}, uint64_t{4096}, uint64_t{12288}, ~uint64_t{0}}) {
    StrangeStore store;
    store.announced = announced;
    EXPECT_EQ(AttachTo(store).code(), absl::StatusCode::kDataLoss) << announced;
  }
}

TEST(WeightClientAttach, DistrustsMemoryThatIsNoRegion) {
  StrangeStore store;
  const absl::Status status = AttachTo(store);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("not finished"));
}

TEST(WeightClientAttach, PassesTheStoresAnswerOn) {
  StrangeStore store;
  store.refusal = absl::PermissionDeniedError("not you");
  EXPECT_EQ(AttachTo(store), store.refusal);
}

// INVALID_ARGUMENT is what a wrong --store-socket is: no answer of a store may look like it, nor
// like anything that only means something to the store.
TEST(WeightClientAttach, OtherAnswersMeanThatTheStoreIsNotToBeHad) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kInvalidArgument, absl::StatusCode::kOutOfRange,
        absl::StatusCode::kInternal, static_cast<absl::StatusCode>(4711)}) {
    StrangeStore store;
    store.refusal = absl::Status(code, "no\x1b[31m");
    TempDir folder;
    auto server = AttachServer::Create(folder.File("s"), {}, &store);
    ASSERT_TRUE(server.ok()) << server.status();
    (*server)->Start();
    Patience patience;
    const absl::Status status = RequestAttach(folder.File("s"), "x", patience).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("no\\u{1b}[31m")) << status;
  }
}

class WeightClientTest : public StoreFixture {
 protected:
  void SetUp() override {
    StartStore();
    client_ = Attach();
    ASSERT_NE(client_, nullptr);
  }
  std::unique_ptr<WeightClient> client_;
};

TEST_F(WeightClientTest, KnowsTheModel) {
  EXPECT_TRUE(client_->connected());
  EXPECT_EQ(client_->geometry().layer_count, 2u);
  EXPECT_EQ(client_->geometry().blocks_bytes(), pack_.index.geometry.blocks_bytes());
  EXPECT_EQ(client_->manifest().SerializeAsString(), pack_.index.manifest.SerializeAsString());
  EXPECT_EQ(client_->region().kinds[0].slots_per_layer, 32u);
  EXPECT_EQ(client_->Residency(1, kHid).size(), 64u);
}

TEST_F(WeightClientTest, LeasesInSequenceGoRoundTheRing) {
  for (uint32_t step = 0; step < 100; ++step) {
    const uint32_t first = step * 7 % 60;
    ExpectServes(*client_, step % 2, step % 3 == 0 ? kHid : kIn, Wanted(first, first + 4));
  }
  EXPECT_TRUE(Becomes(stats().leases_granted[0], 100));
}

TEST_F(WeightClientTest, AllLeasesAtOnce) {
  for (int round = 0; round < 10; ++round) {
    std::vector<WeightLease> leases;
    for (uint32_t l = 0; l < kLeasesPerSession; ++l) {
      leases.push_back(Acquire(*client_, l % 2, l < 2 ? kIn : kHid, Wanted(4 * l, 4 * l + 20)));
    }
    for (uint32_t l = kLeasesPerSession; l > 0; --l) {
      ExpectPackBytes(leases[l - 1], (l - 1) % 2, l - 1 < 2 ? kIn : kHid,
                      Wanted(4 * (l - 1), 4 * (l - 1) + 20));
    }
  }
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
}

TEST_F(WeightClientTest, ALeaseMovesAndReleasesOnce) {
  WeightLease lease = Acquire(*client_, 0, kIn, Wanted(0, 2));
  ASSERT_TRUE(lease.Wait(1).ok());
  WeightLease moved = std::move(lease);
  EXPECT_EQ(moved.size(), 2u);
  ExpectPackBytes(moved, 0, kIn, Wanted(0, 2));
  moved = Acquire(*client_, 0, kIn, Wanted(2, 3));  // Ends what it held.
  ExpectPackBytes(moved, 0, kIn, Wanted(2, 3));
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 8192));
  moved.Release();
  moved.Release();
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  EXPECT_EQ(stats().leases_dropped, 0u);
}

TEST_F(WeightClientTest, AReadThatWasNotAwaitedIsNoHarm) {
  for (uint32_t step = 0; step < 50; ++step) {
    const WeightLease unused = Acquire(*client_, 0, kHid, Wanted(step % 30, step % 30 + 30));
    ASSERT_EQ(unused.size(), 30u);
  }
  ExpectServes(*client_, 0, kHid, Wanted(0, 64));
}

TEST_F(WeightClientTest, ARejectedLeaseSaysWhyAndHasNoAccounts) {
  for (const std::vector<WantedBlock>& wanted :
       {std::vector<WantedBlock>{{2, 1}, {1, 1}}, {}, {{64, 1}}}) {
    WeightLease lease = Acquire(*client_, 0, kIn, wanted);
    EXPECT_EQ(lease.accounts().status().code(), absl::StatusCode::kInvalidArgument);
    if (wanted.empty()) continue;
    EXPECT_EQ(lease.Wait(0).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(lease.WaitArrival(0).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(lease.TryGet(0), nullptr);
  }
  ExpectServes(*client_, 0, kIn, Wanted(0, 4));
}

TEST_F(WeightClientTest, StallIsCountedOnlyWhereThereWasSomethingToWaitFor) {
  ExpectServes(*client_, 0, kIn, Wanted(0, 4));
  WeightLease lease = Acquire(*client_, 0, kIn, Wanted(0, 4));
  ASSERT_TRUE(lease.accounts().ok());
  const auto before = lease.stall();
  for (size_t i = 0; i < 4; ++i) ASSERT_TRUE(lease.Wait(i).ok());
  EXPECT_EQ(lease.stall(), before) << "all four are resident";
}

TEST_F(WeightClientTest, ALeaseOutlivesItsStore) {
  WeightLease lease = Acquire(*client_, 0, kIn, Wanted(0, 4));
  ASSERT_TRUE(lease.Wait(3).ok());
  store_.reset();
  EXPECT_FALSE(client_->connected());
  ExpectPackBytes(lease, 0, kIn, Wanted(0, 4));  // Our mapping keeps the memory.
  lease.Release();
  EXPECT_EQ(client_->Acquire(0, kIn, Wanted(0, 1), LeaseMode::kSelect).status().code(),
            absl::StatusCode::kUnavailable);
}

// Every wait is given up at its first look; what the store reads meanwhile meets no other lease.
TEST_F(StoreFixture, WaitsThatAreGivenUpLeaveNoStaleLease) {
  options_.flash_model = FlashModel{.latency = std::chrono::milliseconds(100)};
  options_.policy = "none";  // everything passes through staging
  StartStore();
  bool patient = true;
  auto attached = WeightClient::Attach(options_.socket_path, "test", [&](auto) {
    return patient ? absl::OkStatus() : absl::CancelledError("enough");
  });
  ASSERT_TRUE(attached.ok()) << attached.status();
  WeightClient& client = **attached;
  int given_up = 0;
  for (uint32_t round = 0; round < 8; ++round) {
    patient = false;
    {
      // Where the place of an earlier lease is not free yet, nothing begins.
      auto lease = client.Acquire(round % 2, kIn, Wanted(0, 20), LeaseMode::kStream);
      given_up += !lease.ok() || !lease->Wait(19).ok();
    }
    patient = true;
    ExpectServes(client, (round + 1) % 2, kIn, Wanted(30, 34));
  }
  EXPECT_GT(given_up, 0);
  EXPECT_TRUE(client.in_doubt());
  EXPECT_TRUE(WaitUntil(
      [&] {
        client.Probe();
        return !client.in_doubt();
      },
      std::chrono::seconds(20)));
  EXPECT_EQ(client.silent().count(), 0);
}

TEST_F(WeightClientTest, AnIdleStoreIsAskedAndOwesNothing) {
  for (int i = 0; i < 100; ++i) client_->Probe();
  EXPECT_TRUE(WaitUntil(
      [&] {
        client_->Probe();
        return client_->silent().count() == 0;
      },
      std::chrono::seconds(20)));
  ExpectServes(*client_, 0, kIn, Wanted(0, 4));
}

TEST_F(WeightClientTest, AStoreThatAcceptsNobodyIsNotWaitedFor) {
  const std::string path = folder_.File("full.sock");
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  ASSERT_EQ(::bind(listener.get(), generic, sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  UniqueFd first(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(first.get(), generic, sizeof(address)), 0);
  const auto client = WeightClient::Attach(path, "x");  // The queue is full.
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("accepts no connections"));
}

TEST_F(WeightClientTest, AnAttachThatIsNotAnsweredCanBeGivenUp) {
  const std::string path = folder_.File("silent.sock");
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  const auto client =
      WeightClient::Attach(path, "x", [](auto) { return absl::CancelledError("enough"); });
  EXPECT_EQ(client.status().code(), absl::StatusCode::kCancelled);
}

}  // namespace tidegate::weight_client_test
