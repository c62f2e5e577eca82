#include "weightstore/client/pack_rows.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

// Copies a range of a file that lies in the page cache, all of it or nothing.
bool ReadCached(int fd, uint64_t offset, std::byte* out, size_t bytes) {
  iovec data = {out, bytes};
  return ::preadv2(fd, &data, 1, static_cast<off_t>(offset), RWF_NOWAIT) ==
         static_cast<ssize_t>(bytes);
}

// Ranges of one size. The thread that reads them may outlive who asked.
struct Ranges {
  std::shared_ptr<const UniqueFd> file;
  std::vector<uint64_t> offsets;
  size_t bytes = 0;  // of each
  std::vector<std::byte> data;
  size_t failed = 0;  // index of the one that could not be read
  absl::Status status;

  std::byte* at(size_t i) { return &data[i * bytes]; }

  bool Cached() {
    for (size_t i = 0; i < offsets.size(); ++i) {
      if (!ReadCached(file->get(), offsets[i], at(i), bytes)) return false;
    }
    return true;
  }

  void Read() {
    // All are on their way before the first is waited for.
    for (size_t i = 0; i < offsets.size() && offsets.size() > 1; ++i) {
      ::posix_fadvise(file->get(), static_cast<off_t>(offsets[i]), static_cast<off_t>(bytes),
                      POSIX_FADV_WILLNEED);
    }
    for (failed = 0; failed < offsets.size(); ++failed) {
      status = ReadAt(file->get(), offsets[failed], at(failed), bytes);
      if (!status.ok()) return;
    }
  }
};

absl::Status ReadError(const Ranges& ranges, const std::string& what) {
  const char* const remedy = absl::IsOutOfRange(ranges.status)
                                 ? "the pack has been cut off; pack the model again"
                                 : "check the drive of the pack";
  return absl::DataLossError(
      absl::StrCat("cannot read ", what, ": ", ranges.status.message(), "; ", remedy));
}

}  // namespace

absl::Status PackRows::Open(UniqueFd pack, const PackUuid& uuid, Patience& patience) {
  pack_ = std::make_shared<const UniqueFd>(std::move(pack));
  const auto head = std::make_shared<Ranges>();
  head->file = pack_;
  head->offsets = {0};
  head->bytes = sizeof(PackHeader);
  head->data.resize(head->bytes);
  if (!head->Cached()) RETURN_IF_ERROR(thread_.Run([head] { head->Read(); }, patience));
  PackHeader header;
  std::copy(head->data.begin(), head->data.end(), reinterpret_cast<std::byte*>(&header));
  // Its own size, not the file's: a pack that has been cut off serves what is left of it.
  if (!head->status.ok() || header.uuid != uuid ||
      !ValidatePackHeader(header, header.file_bytes).ok()) {
    return absl::DataLossError("the store's pack has been overwritten; restart the store");
  }
  static_offset_ = header.static_offset;
  static_bytes_ = header.static_bytes;
  return absl::OkStatus();
}

absl::Status PackRows::Read(const store::v1::StaticTensor& tensor, std::span<const uint64_t> rows,
                            std::byte* out, Patience& patience) {
  const auto ranges = std::make_shared<Ranges>();
  ranges->file = pack_;
  ranges->bytes = tensor.bytes() / tensor.rows();
  for (const uint64_t row : rows) {
    ranges->offsets.push_back(static_offset_ + tensor.offset() + row * ranges->bytes);
  }
  ranges->data.resize(rows.size() * ranges->bytes);
  const auto name = [&](size_t i) { return absl::StrCat("row ", rows[i], " of ", tensor.name()); };
  if (!ranges->Cached()) {
    RETURN_IF_ERROR(thread_.Run([ranges] { ranges->Read(); }, patience));
    if (!ranges->status.ok()) return ReadError(*ranges, name(ranges->failed));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    if (Checksum(ranges->at(i), ranges->bytes) == tensor.row_xxh3(static_cast<int>(rows[i]))) {
      continue;
    }
    return absl::DataLossError(
        absl::StrCat(name(i),
                     ": checksum differs; restart the store if the pack was overwritten, else pack "
                     "the model again"));
  }
  std::copy(ranges->data.begin(), ranges->data.end(), out);
  return absl::OkStatus();
}

}  // namespace tidegate
