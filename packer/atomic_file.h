// A file that appears under its name complete or not at all. Until Commit() it has no name where
// the file system can do that (O_TMPFILE), so that even a killed process leaves nothing behind;
// elsewhere it is
// "<name>.tmp.<pid>-<random>" in the same folder, removed by the destructor, and when a signal ends
// the process (base/shutdown.h).
// Owned by one thread.
#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/shutdown.h"
#include "base/unique_fd.h"

namespace tidegate {

class AtomicFile {
 public:
  // `allow_unnamed` = false forces the named temporary file. Errors name the folder.
  static absl::StatusOr<AtomicFile> Create(const std::string& path, bool allow_unnamed = true);
  AtomicFile(AtomicFile&& other) noexcept = default;
  AtomicFile& operator=(AtomicFile&& other) = delete;
  ~AtomicFile();

  int fd() const { return fd_.get(); }

  // Flushes to the drive and gives the file its name, replacing what was there.
  absl::Status Commit();

 private:
  AtomicFile(std::string path, std::string temporary)
      : path_(path), temporary_(temporary), removed_at_end_(temporary) {}

  UniqueFd fd_;
  std::string path_;
  std::string temporary_;
  RemovedAtEnd removed_at_end_;  // `temporary_`
  bool named_ = false;           // it exists
};

// INVALID_ARGUMENT if `target` exists and is one of the files that it is made from; names that do
// not exist, or are empty, are fine.
absl::Status RefuseToReplace(std::span<const std::string> inputs, const std::string& target);

}  // namespace tidegate
