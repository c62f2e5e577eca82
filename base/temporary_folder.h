// A folder with a name of its own, removed with all that is in it by the destructor, and when a
// signal ends the process (base/shutdown.h): then only those files go that were named to File().
// Owned by one thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/shutdown.h"

namespace tidegate {

class TemporaryFolder {
 public:
  // "PARENT/tidegate-XXXXXX", mode 0700. The error names the parent.
  static absl::StatusOr<TemporaryFolder> Create(const std::string& parent);
  TemporaryFolder(TemporaryFolder&& other) noexcept;
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder();

  const std::string& path() const { return path_; }
  // The path of a file of this folder, which need not exist (yet).
  std::string File(const std::string& name);

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)), removed_at_end_(path_) {}

  std::string path_;  // empty: moved from
  RemovedAtEnd removed_at_end_;
  std::vector<RemovedAtEnd> files_;
};

// $TMPDIR, else /tmp.
std::string TemporaryParent();

}  // namespace tidegate
