#include "proto/store/v1/mask_trace.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace tidegate {
namespace {

constexpr uint32_t kVersion = 1;
constexpr size_t kBufferBytes = 1 << 20;

size_t MaskBytes(uint32_t units) { return (size_t{units} + 7) / 8; }

std::string Text(const MaskTraceShape& shape) {
  return absl::StrCat(shape.layer_count, " layers of ", shape.unit_count[0], " input and ",
                      shape.unit_count[1], " hidden units");
}

void CountMask(const uint8_t* mask, std::vector<uint32_t>& uses) {
  for (size_t unit = 0; unit < uses.size(); ++unit) uses[unit] += mask[unit / 8] >> unit % 8 & 1;
}

// The number of tokens in an open trace, after all that its header can be wrong about.
absl::StatusOr<uint64_t> TokensIn(int fd, const MaskTraceShape& shape) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, "cannot be examined");
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(
        "is not a regular file; name the file that `tidegate eval --record` wrote");
  const auto file_bytes = static_cast<uint64_t>(info.st_size);
  MaskTraceHeader header = {};
  if (file_bytes >= sizeof(header)) RETURN_IF_ERROR(ReadAt(fd, 0, &header, sizeof(header)));
  if (header.magic != kMaskTraceMagic) {
    return absl::InvalidArgumentError("is not a trace; make one with `tidegate eval --record`");
  }
  if (header.version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("is a trace of version ", header.version,
                                                   "; this program reads version ", kVersion,
                                                   ": record it again"));
  }
  if (header.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat("is a trace of ", Text(header.shape),
                                                   "; the model has ", Text(shape),
                                                   ": record one with this model"));
  }
  const uint64_t bytes = file_bytes - sizeof(header);
  if (bytes == 0 || bytes % shape.TokenBytes() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("is cut off or empty: ", bytes,
                                                   " bytes of masks, ", shape.TokenBytes(),
                                                   " for each token: record it again"));
  }
  return bytes / shape.TokenBytes();
}

}  // namespace

uint64_t MaskTraceShape::TokenBytes() const {
  return layer_count * (MaskBytes(unit_count[0]) + MaskBytes(unit_count[1]));
}

MaskTraceShape ShapeOf(const PackGeometry& geometry) {
  return {geometry.layer_count, {geometry.kinds[0].unit_count, geometry.kinds[1].unit_count}};
}

MaskTraceWriter::MaskTraceWriter(int fd, const MaskTraceShape& shape) : fd_(fd), shape_(shape) {
  const MaskTraceHeader header = {kMaskTraceMagic, kVersion, shape};
  buffer_.resize(sizeof(header));
  std::memcpy(buffer_.data(), &header, sizeof(header));
}

void MaskTraceWriter::Add(UnitKind kind, std::span<const uint32_t> units) {
  const uint32_t count = shape_.unit_count[static_cast<uint32_t>(kind)];
  const size_t at = buffer_.size();
  buffer_.resize(at + MaskBytes(count), 0);
  for (const uint32_t unit : units) {
    DCHECK(unit < count);
    buffer_[at + unit / 8] |= static_cast<uint8_t>(1u << unit % 8);
  }
  if (buffer_.size() >= kBufferBytes) Flush();
}

void MaskTraceWriter::Flush() {
  if (status_.ok()) status_ = WriteAt(fd_, offset_, buffer_.data(), buffer_.size());
  offset_ += buffer_.size();
  buffer_.clear();
}

absl::Status MaskTraceWriter::Finish() {
  Flush();
  return status_;
}

absl::StatusOr<UnitUses> CountUnitUses(const std::string& path, const MaskTraceShape& shape) {
  // A named pipe that nobody writes must not hold us up: it is refused below.
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::Open(path, O_RDONLY | O_NONBLOCK));
  const absl::StatusOr<uint64_t> tokens = TokensIn(fd.get(), shape);
  if (!tokens.ok()) {
    return absl::Status(tokens.status().code(), absl::StrCat(path, " ", tokens.status().message()));
  }
  UnitUses result;
  result.tokens = *tokens;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    result.uses[k].assign(shape.layer_count, std::vector<uint32_t>(shape.unit_count[k], 0));
  }
  std::vector<uint8_t> token(shape.TokenBytes());
  for (uint64_t t = 0; t < *tokens; ++t) {
    const absl::Status read =
        ReadAt(fd.get(), sizeof(MaskTraceHeader) + t * token.size(), token.data(), token.size());
    if (!read.ok()) return Annotate(read, path);
    const uint8_t* mask = token.data();
    for (uint32_t layer = 0; layer < shape.layer_count; ++layer) {
      for (uint32_t k = 0; k < kUnitKinds; ++k) {
        CountMask(mask, result.uses[k][layer]);
        mask += MaskBytes(shape.unit_count[k]);
      }
    }
  }
  return result;
}

}  // namespace tidegate
