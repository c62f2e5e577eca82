#include "packer/pack_verify.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "packer/checksum_stream.h"

namespace tidegate {
namespace {

constexpr uint64_t kReadBytes = 4 << 20;

// One run: where it is and what it found.
struct Verifier {
  const int fd;
  const PackIndex& index;
  const PackProgress& progress;
  VerifyReport report;
  uint64_t done_bytes = 0;

  void Advance(uint64_t bytes) {
    done_bytes += bytes;
    if (progress) progress(done_bytes, index.header.static_bytes + index.header.blocks_bytes);
  }

  absl::Status CheckTensor(const store::v1::StaticTensor& tensor) {
    std::vector<uint8_t> buffer(std::min<uint64_t>(kReadBytes, tensor.bytes()));
    ChecksumStream checksum;
    for (uint64_t done = 0; done < tensor.bytes(); done += buffer.size()) {
      const uint64_t n = std::min<uint64_t>(buffer.size(), tensor.bytes() - done);
      const uint64_t offset = index.header.static_offset + tensor.offset() + done;
      RETURN_IF_ERROR(Annotate(ReadAt(fd, offset, buffer.data(), n), tensor.name()));
      checksum.Add(buffer.data(), n);
      Advance(n);
    }
    ++report.static_tensors;
    if (checksum.Value() != tensor.xxh3()) report.bad_tensors.push_back(tensor.name());
    return absl::OkStatus();
  }

  // All blocks of (layer, kind), several per read.
  absl::Status CheckBlocks(uint32_t layer, UnitKind kind) {
    const KindGeometry& geometry = index.geometry.kind(kind);
    const auto batch =
        static_cast<uint32_t>(std::max<uint64_t>(1, kReadBytes / geometry.block_bytes));
    std::vector<uint8_t> buffer(uint64_t{batch} * geometry.block_bytes);
    for (uint32_t first = 0; first < geometry.block_count; first += batch) {
      const uint32_t count = std::min(batch, geometry.block_count - first);
      const uint64_t offset =
          index.header.blocks_offset + index.geometry.BlockOffset(layer, kind, first);
      RETURN_IF_ERROR(
          Annotate(ReadAt(fd, offset, buffer.data(), uint64_t{count} * geometry.block_bytes),
                   absl::StrCat("layer ", layer, ", ", UnitKindName(kind), " units, blocks ", first,
                                " to ", first + count - 1)));
      for (uint32_t b = 0; b < count; ++b) {
        const uint64_t expected =
            index.block_checksums[index.geometry.BlockIndex(layer, kind, first + b)];
        const uint8_t* block = buffer.data() + uint64_t{b} * geometry.block_bytes;
        if (Checksum(block, geometry.block_bytes) == expected) continue;
        report.bad_blocks.push_back({layer, kind, first + b});
      }
      report.blocks += count;
      Advance(uint64_t{count} * geometry.block_bytes);
    }
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<VerifyReport> VerifyPack(int fd, const PackIndex& index,
                                        const PackProgress& progress) {
  Verifier verifier = {fd, index, progress, {}};
  for (const store::v1::StaticTensor& tensor : index.manifest.static_tensors()) {
    RETURN_IF_ERROR(verifier.CheckTensor(tensor));
  }
  for (uint32_t layer = 0; layer < index.geometry.layer_count; ++layer) {
    RETURN_IF_ERROR(verifier.CheckBlocks(layer, UnitKind::kInput));
    RETURN_IF_ERROR(verifier.CheckBlocks(layer, UnitKind::kHidden));
  }
  return std::move(verifier.report);
}

}  // namespace tidegate
