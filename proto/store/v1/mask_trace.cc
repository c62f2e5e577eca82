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
constexpr uint32_t kMaxTraceLayers = 1 << 16;

size_t MaskBytes(uint32_t units) { return (size_t{units} + 7) / 8; }

void CountMask(const uint8_t* mask, std::vector<uint32_t>& uses) {
  for (size_t unit = 0; unit < uses.size(); ++unit) uses[unit] += mask[unit / 8] >> unit % 8 & 1;
}

struct OpenTrace {
  MaskTraceShape shape;
  uint64_t tokens = 0;
};

// After all that the header of an open file can be wrong about.
absl::StatusOr<OpenTrace> ReadHeader(int fd) {
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
  const MaskTraceShape& shape = header.shape;
  if (shape.layer_count == 0 || shape.layer_count > kMaxTraceLayers || shape.unit_count[0] == 0 ||
      shape.unit_count[1] == 0) {
    return absl::InvalidArgumentError(absl::StrCat("is damaged: ", shape.Text()));
  }
  const uint64_t bytes = file_bytes - sizeof(header);
  if (bytes == 0 || bytes % shape.TokenBytes() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("is cut off or empty: ", bytes,
                                                   " bytes of masks, ", shape.TokenBytes(),
                                                   " for each token: record it again"));
  }
  return OpenTrace{shape, bytes / shape.TokenBytes()};
}

// A named pipe that nobody writes must not hold us up: it is refused afterwards.
absl::StatusOr<UniqueFd> Open(const std::string& path) {
  return UniqueFd::Open(path, O_RDONLY | O_NONBLOCK);
}

absl::Status Named(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, " ", status.message()));
}

absl::Status SameShape(const std::string& path, const MaskTraceShape& trace,
                       const MaskTraceShape& model) {
  if (trace == model) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, " is a trace of ", trace.Text(),
                                                 "; the model has ", model.Text(),
                                                 ": record one with this model"));
}

}  // namespace

uint64_t MaskTraceShape::TokenBytes() const {
  return layer_count * (MaskBytes(unit_count[0]) + MaskBytes(unit_count[1]));
}

std::string MaskTraceShape::Text() const {
  return absl::StrCat(layer_count, " layers of ", unit_count[0], " input and ", unit_count[1],
                      " hidden units");
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

absl::Status MaskTrace::CheckShape(const MaskTraceShape& model) const {
  return SameShape(path_, shape_, model);
}

absl::StatusOr<MaskTrace> MaskTrace::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd fd, Open(path));
  const absl::StatusOr<OpenTrace> open = ReadHeader(fd.get());
  if (!open.ok()) return Named(path, open.status());
  MaskTrace trace;
  trace.path_ = path;
  trace.shape_ = open->shape;
  trace.tokens_ = open->tokens;
  trace.masks_.resize(open->tokens * open->shape.TokenBytes());
  const absl::Status read =
      ReadAt(fd.get(), sizeof(MaskTraceHeader), trace.masks_.data(), trace.masks_.size());
  if (!read.ok()) return Annotate(read, path);
  return trace;
}

void MaskTrace::Units(uint64_t token, uint32_t layer, UnitKind kind,
                      std::vector<uint32_t>& units) const {
  DCHECK(token < tokens_ && layer < shape_.layer_count);
  const size_t input_bytes = MaskBytes(shape_.unit_count[0]);
  const size_t layer_bytes = input_bytes + MaskBytes(shape_.unit_count[1]);
  const uint8_t* mask = masks_.data() + token * shape_.TokenBytes() + layer * layer_bytes +
                        (kind == UnitKind::kInput ? 0 : input_bytes);
  const uint32_t count = shape_.unit_count[static_cast<uint32_t>(kind)];
  units.clear();
  for (uint32_t unit = 0; unit < count; ++unit) {
    if (mask[unit / 8] >> unit % 8 & 1) units.push_back(unit);
  }
}

absl::StatusOr<UnitUses> CountUnitUses(const std::string& path, const MaskTraceShape& shape) {
  ASSIGN_OR_RETURN(const UniqueFd fd, Open(path));
  const absl::StatusOr<OpenTrace> open = ReadHeader(fd.get());
  if (!open.ok()) return Named(path, open.status());
  RETURN_IF_ERROR(SameShape(path, open->shape, shape));
  UnitUses result;
  result.tokens = open->tokens;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    result.uses[k].assign(shape.layer_count, std::vector<uint32_t>(shape.unit_count[k], 0));
  }
  std::vector<uint8_t> token(shape.TokenBytes());
  for (uint64_t t = 0; t < open->tokens; ++t) {
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
