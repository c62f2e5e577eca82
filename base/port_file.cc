#include "base/port_file.h"

#include <cerrno>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace tidegate {

absl::Status WritePortFile(const std::string& path, int port) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = absl::StrCat(path, ".tmp");
  ASSIGN_OR_RETURN(const UniqueFd file,
                   UniqueFd::Open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  const std::string text = absl::StrCat(port, "\n");
  absl::Status status = WriteAt(file.get(), 0, text.data(), text.size());
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("rename to ", path));
  }
  if (status.ok()) return status;
  std::remove(temporary.c_str());
  return Annotate(status, absl::StrCat("port file ", path));
}

}  // namespace tidegate
