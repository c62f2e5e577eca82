// Collects what is wrong with a request, so that a client learns all of it at once. Owned by one
// thread.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tidegate {

class Violations {
 public:
  // Beyond a limit that keeps the error inside a client's metadata limit (8 KiB), violations are
  // only counted. The description is made one printable line.
  void Add(std::string field, const std::string& description);
  bool empty() const { return count_ == 0; }
  // INVALID_ARGUMENT with BadRequest. REQUIRES: !empty().
  absl::Status ToStatus() const;

 private:
  struct Violation {
    std::string field, description;
  };
  std::vector<Violation> violations_;
  size_t count_ = 0;
};

}  // namespace tidegate
