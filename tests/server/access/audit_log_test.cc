#include "server/access/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "tests/support/test_support.h"

namespace tidegate::audit_log_test {

AuditRecord Record(const std::string& id = "r-1") {
  AuditRecord record;
  record.time = absl::FromUnixMillis(1700000000123);
  record.method = "Generate";
  record.key = "team-a";
  record.peer = "192.0.2.1";
  record.status = "OK";
  record.seconds = 1.25;
  record.stream.emplace();
  record.stream->request_id = id;
  record.stream->model = "demo";
  record.stream->finish_reason = "max_tokens";
  record.stream->prompt_tokens = 5;
  record.stream->generated_tokens = 7;
  return record;
}

std::vector<std::string> LinesOf(const std::string& path) {
  return absl::StrSplit(ReadFileOrDie(path), '\n', absl::SkipEmpty());
}

TEST(AuditLogTest, ALineIsJson) {
  const std::string line = FormatAuditLine(Record());
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(nlohmann::json::parse(line), nlohmann::json::parse(R"({
    "time": "2023-11-14T22:13:20.123Z", "method": "Generate", "key": "team-a", "peer": "192.0.2.1",
    "status": "OK", "seconds": 1.25, "request_id": "r-1", "model": "demo",
    "finish_reason": "max_tokens", "prompt_tokens": 5, "cached_prompt_tokens": 0,
    "generated_tokens": 7, "queue_seconds": 0.0, "first_token_seconds": 0.0})"));
}

TEST(AuditLogTest, WhatIsEmptyIsLeftOutAndNoTextBreaksTheLine) {
  AuditRecord record;
  record.method = "Tokenize";
  record.status = "UNAUTHENTICATED";
  record.reason = "a\n\"\xff";
  const std::string line = FormatAuditLine(record);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["reason"], "a\n\"\xef\xbf\xbd");
  for (const char* field : {"key", "peer", "request_id", "prompt_tokens"}) {
    EXPECT_FALSE(json.contains(field)) << field;
  }
}

TEST(AuditLogTest, ManyThreadsWriteWholeLines) {
  const TempDir folder;
  const std::string path = folder.File("audit");
  {
    const auto log = AuditLog::Open(path);
    ASSERT_TRUE(log.ok()) << log.status();
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&log] {
        for (int i = 0; i < 100; ++i) (*log)->Write(Record());
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ((*log)->dropped(), 0u);
  }
  const std::vector<std::string> lines = LinesOf(path);
  EXPECT_EQ(lines.size(), 400u);
  for (const std::string& line : lines) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  struct stat facts = {};
  ASSERT_EQ(::stat(path.c_str(), &facts), 0);
  EXPECT_EQ(facts.st_mode & 07, 0u) << "not for others to read";
}

TEST(AuditLogTest, GoesOnInANewFileAndAppendsToAnOldOne) {
  const TempDir folder;
  const std::string path = folder.File("audit"), moved = folder.File("audit.1");
  WriteFileOrDie(path, "{}\n");
  {
    const auto log = AuditLog::Open(path);
    ASSERT_TRUE(log.ok()) << log.status();
    (*log)->Write(Record("before"));
    ASSERT_TRUE(WaitUntil([&] { return (*log)->written() == 1; }, std::chrono::seconds(20)));
    ASSERT_EQ(std::rename(path.c_str(), moved.c_str()), 0);
    ASSERT_TRUE((*log)->Reopen().ok());
    (*log)->Write(Record("after"));
  }
  EXPECT_EQ(LinesOf(moved).size(), 2u);
  ASSERT_EQ(LinesOf(path).size(), 1u);
  EXPECT_THAT(LinesOf(path)[0], testing::HasSubstr("after"));
}

TEST(AuditLogTest, WhatTheFileDoesNotTakeIsCounted) {
  const auto log = AuditLog::Open("/dev/full");
  ASSERT_TRUE(log.ok()) << log.status();
  (*log)->Write(Record());
  EXPECT_TRUE(WaitUntil([&] { return (*log)->dropped() == 1; }, std::chrono::seconds(20)));
  EXPECT_EQ((*log)->written(), 0u);
}

TEST(AuditLogTest, AFileThatCannotBeOpenedIsNamed) {
  const absl::Status status = AuditLog::Open("/no/such/folder/audit").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("/no/such/folder/audit"));
}

}  // namespace tidegate::audit_log_test
