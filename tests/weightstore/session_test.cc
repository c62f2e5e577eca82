#include "weightstore/session.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace tidegate::session_test {

std::unique_ptr<Session> MakeSession() {
  auto session = Session::Create(1, 7, StagingPool(64 << 10, 4096));
  EXPECT_TRUE(session.ok()) << session.status();
  return *std::move(session);
}

TEST(SessionTest, DescribesItself) {
  const auto session = MakeSession();
  EXPECT_TRUE(ValidateSessionHeader(session->header(), session->memory_bytes()).ok());
  EXPECT_EQ(session->header().session_index, 1u);
  EXPECT_EQ(session->header().max_blocks, 7u);
  EXPECT_EQ(session->memory_bytes(), SessionBytes(7));
}

TEST(SessionTest, TheEngineCannotTakeTheMemoryAway) {
  const auto session = MakeSession();
  EXPECT_EQ(::ftruncate(session->memory_fd(), 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(::ftruncate(session->memory_fd(), 1 << 20), -1);
}

TEST(SessionTest, PartsOfLeasesDoNotOverlap) {
  const auto session = MakeSession();
  const auto* base = reinterpret_cast<const std::byte*>(&session->header());
  const std::byte* last = base + sizeof(SessionHeader);
  for (uint32_t lease = 0; lease < kLeasesPerSession; ++lease) {
    const auto* header = reinterpret_cast<const std::byte*>(&session->lease_header(lease));
    const auto* wanted = reinterpret_cast<const std::byte*>(session->wanted(lease));
    const auto* locations = reinterpret_cast<const std::byte*>(session->locations(lease));
    EXPECT_GE(header, last);
    EXPECT_GE(wanted, header + sizeof(LeaseHeader));
    EXPECT_GE(locations, wanted + 7 * sizeof(WantedBlock));
    last = locations + 7 * sizeof(uint64_t);
  }
  EXPECT_LE(last, base + session->memory_bytes());
}

TEST(SessionTest, TakesRequestsInOrderAroundTheRing) {
  const auto session = MakeSession();
  RingEntry entry;
  EXPECT_FALSE(session->TakeRequest(entry));
  for (uint64_t serial = 0; serial < 100; ++serial) {
    session->header().ring[serial % kRingEntries].serial = serial;
    session->header().submitted = static_cast<uint32_t>(serial + 1);
    ASSERT_TRUE(session->TakeRequest(entry));
    EXPECT_EQ(entry.serial, serial);
    EXPECT_EQ(session->header().taken, serial + 1);
    EXPECT_FALSE(session->TakeRequest(entry));
  }
  session->header().submitted = 100 + kRingEntries;
  for (uint32_t n = 0; n < kRingEntries; ++n) EXPECT_TRUE(session->TakeRequest(entry));
  EXPECT_FALSE(session->ring_broken());
}

TEST(SessionTest, NoticesARingThatCannotBe) {
  for (const uint32_t submitted : {kRingEntries + 1, 1000u, ~0u}) {
    const auto session = MakeSession();
    session->header().submitted = submitted;
    RingEntry entry;
    EXPECT_FALSE(session->TakeRequest(entry));
    EXPECT_TRUE(session->ring_broken()) << submitted;
  }
}

TEST(SessionTest, WhatTheEngineWritesToTakenIsIgnored) {
  const auto session = MakeSession();
  session->header().taken = 12345;
  session->header().submitted = 1;
  RingEntry entry;
  EXPECT_TRUE(session->TakeRequest(entry));
  EXPECT_FALSE(session->TakeRequest(entry));
  EXPECT_EQ(session->header().taken, 1u);
}

TEST(SessionTest, PublishesLocationsAndProgress) {
  const auto session = MakeSession();
  session->leases[2].wanted.resize(7);
  session->leases[2].published.assign(7, false);
  session->Publish(2, 3, 4096);
  session->Publish(2, 0, kLocationFailed);
  EXPECT_EQ(session->locations(2)[3], 4096 | kLocationReady);
  EXPECT_EQ(session->locations(2)[0], kLocationFailed | kLocationReady);
  EXPECT_EQ(session->lease_header(2).arrived, 2u);
  EXPECT_EQ(session->arrivals(2)[0], 3u);
  EXPECT_EQ(session->arrivals(2)[1], 0u);
  EXPECT_TRUE(session->leases[2].published[3] && session->leases[2].dirty);
  EXPECT_EQ(session->lease_header(2).progress, 0u);
  session->Notify(2);
  EXPECT_EQ(session->lease_header(2).progress, 1u);
  EXPECT_FALSE(session->leases[2].dirty);
}

TEST(SessionTest, KeepsTheFirstErrorAndEndsItsText) {
  const auto session = MakeSession();
  session->SetError(0, absl::DataLossError(std::string(1000, 'x')));
  session->SetError(0, absl::UnavailableError("later"));
  const LeaseHeader& header = session->lease_header(0);
  EXPECT_EQ(header.error_code, static_cast<uint32_t>(absl::StatusCode::kDataLoss));
  EXPECT_EQ(std::string(header.error), std::string(sizeof(header.error) - 1, 'x'));
}

}  // namespace tidegate::session_test
