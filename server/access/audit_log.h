// The audit log: one line of JSON for each request that has ended, for those who have to say later
// who used the service. It has no prompt and no answer, and no key but its id.
//
// Write() never waits for the disk: lines go into memory of a bounded size, and a thread of its own
// appends them, whole lines at a time, so that several processes may share a file. What finds no
// room is dropped and counted. Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/log_burst.h"
#include "base/mutex.h"
#include "base/unique_fd.h"

namespace tidegate {

// Of a request that was a stream of text.
struct AuditStream {
  std::string request_id;
  std::string model;          // the served model's own name
  std::string finish_reason;  // FinishReasonName()
  uint64_t prompt_tokens = 0;
  uint64_t cached_prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  double queue_seconds = 0;
  double first_token_seconds = 0;
};

// What a request was; empty and unset fields are left out of its line.
struct AuditRecord {
  absl::Time time;     // of its end
  std::string method;  // such as "Generate"
  std::string key;     // the key's id
  std::string peer;    // whose connection: LiveListener::Accepted::peer
  std::string status;  // gRPC's name of the code
  std::string reason;  // of an error (base/error_reason.h)
  double seconds = 0;  // from its beginning to its end
  std::optional<AuditStream> stream;
};

// One line of JSON with its line feed. Texts that are no UTF-8 become UTF-8.
std::string FormatAuditLine(const AuditRecord& record);

class AuditLog {
 public:
  // Lines that wait to be written, in bytes.
  static constexpr size_t kMaxPendingBytes = 1 << 20;

  // Appends to the file, which is made with mode 0640 if it is not there; "-": standard error.
  // Errors name the file.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(const std::string& path);
  // Writes what waits.
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  void Write(const AuditRecord& record);

  // Goes on in a file of the same name, after the present one was moved away. On an error the
  // present one stays in use.
  absl::Status Reopen();

  // Lines that found no room, or that the file did not take.
  uint64_t dropped() const { return dropped_; }
  uint64_t written() const { return written_; }

 private:
  AuditLog(std::string path, UniqueFd file);
  void Run();
  void Append(int file, std::string lines, uint64_t count);

  const std::string path_;
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<UniqueFd> file_ ABSL_GUARDED_BY(mutex_);
  std::string pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t pending_lines_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<uint64_t> dropped_ = 0, written_ = 0;
  bool torn_ = false;  // of the thread: the last line was not written to its end
  LogBurst log_;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace tidegate
