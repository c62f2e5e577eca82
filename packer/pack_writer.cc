#include "packer/pack_writer.h"

#include <fcntl.h>
#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "packer/atomic_file.h"
#include "packer/layer_writer.h"
#include "packer/merged_source.h"
#include "packer/pack_plan.h"
#include "packer/pack_run.h"
#include "packer/parallel_for.h"
#include "packer/static_writer.h"
#include "packer/unit_placement.h"

namespace tidegate {
namespace {

absl::StatusOr<PackUuid> RandomUuid() {
  PackUuid uuid;
  if (::getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
    return absl::ErrnoToStatus(errno, "getrandom");
  }
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);  // RFC 4122: version 4, random
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

absl::Status CheckMoments(std::span<const LayerMoments> moments, const PackGeometry& geometry) {
  if (moments.empty()) return absl::OkStatus();
  bool fits = moments.size() == geometry.layer_count;
  for (const LayerMoments& layer : moments) {
    fits = fits && layer.input.inputs() == geometry.kind(UnitKind::kInput).unit_count &&
           layer.hidden.inputs() == geometry.kind(UnitKind::kHidden).unit_count;
  }
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError("the moments of the calibration are of another model's shape");
}

// Where the sections lie; what the contents decide (checksums, the manifest's size) comes later.
PackHeader HeaderFor(const PackPlan& plan) {
  PackHeader header = {};
  header.magic = kPackMagic;
  header.version = kPackVersion;
  header.header_bytes = kPageBytes;
  header.static_offset = kPageBytes;
  header.static_bytes = plan.static_bytes;
  header.blocks_offset = RoundUp(kPageBytes + plan.static_bytes, kPageBytes);
  header.blocks_bytes = plan.geometry.blocks_bytes();
  header.checksums_offset = header.blocks_offset + header.blocks_bytes;
  header.checksum_count = uint64_t{plan.geometry.layer_blocks()} * plan.geometry.layer_count;
  header.manifest_offset = header.checksums_offset + header.checksum_count * sizeof(uint64_t);
  return header;
}

// One run: the file being written and what its tables will say.
class Writer {
 public:
  Writer(const SourceModel& source, const LoraSet& adapters, const PackOptions& options,
         const PackProgress& progress, int fd, PackPlan& plan)
      : source_(source, adapters),
        plan_(plan),
        fd_(fd),
        header_(HeaderFor(plan)),
        run_(plan.static_bytes + header_.blocks_bytes, progress),
        layers_(source_, header_.blocks_offset, fd, options, plan, run_) {}

  absl::StatusOr<PackReport> Run() {
    ASSIGN_OR_RETURN(header_.uuid, RandomUuid());
    RETURN_IF_ERROR(ReserveSpace());
    // Layers keep the cores busy, static tensors the drive: side by side neither waits. Each half
    // fills a part of the manifest of its own. When one fails, the other stops at its next piece;
    // that it did is not what went wrong.
    std::array<absl::Status, 2> halves;
    RETURN_IF_ERROR(ParallelFor(2, 2, [&](uint64_t i) {
      halves[i] = i == 0 ? layers_.WriteAll()
                         : WriteStatics(source_, header_.static_offset, fd_, plan_, run_);
      if (!halves[i].ok()) run_.Fail();
      return absl::OkStatus();
    }));
    RETURN_IF_ERROR(absl::IsCancelled(halves[0]) ? halves[1] : halves[0]);
    RETURN_IF_ERROR(halves[1]);
    RETURN_IF_ERROR(WriteTables());
    return Report();
  }

 private:
  // Fails at once, not after an hour, when the drive is too full.
  absl::Status ReserveSpace() {
    const uint64_t bytes = header_.manifest_offset;
    if (::fallocate(fd_, 0, 0, static_cast<off_t>(bytes)) == 0) return absl::OkStatus();
    const int error = errno;
    if (error != ENOSPC && error != EDQUOT && error != EFBIG) {
      return absl::OkStatus();  // Not offered here.
    }
    return absl::ResourceExhaustedError(absl::StrCat("no space for the pack, which needs ",
                                                     FormatBytes(bytes), ": ", strerror(error)));
  }

  // Checksum table, manifest and, last, the header.
  absl::Status WriteTables() {
    const std::span<const uint64_t> checksums = layers_.checksums();
    const uint64_t table_bytes = checksums.size() * sizeof(uint64_t);
    RETURN_IF_ERROR(WriteAt(fd_, header_.checksums_offset, checksums.data(), table_bytes));
    header_.checksums_xxh3 = Checksum(checksums.data(), table_bytes);

    const uint64_t manifest_bytes = plan_.manifest.ByteSizeLong();
    if (manifest_bytes > kMaxManifestBytes) {
      return absl::InvalidArgumentError(absl::StrCat("the model's tables take ",
                                                     FormatBytes(manifest_bytes), ", at most ",
                                                     FormatBytes(kMaxManifestBytes), " fit"));
    }
    const std::string manifest = plan_.manifest.SerializeAsString();
    RETURN_IF_ERROR(WriteAt(fd_, header_.manifest_offset, manifest.data(), manifest.size()));
    header_.manifest_bytes = manifest.size();
    header_.manifest_xxh3 = Checksum(manifest.data(), manifest.size());

    header_.file_bytes = header_.manifest_offset + header_.manifest_bytes;
    header_.header_xxh3 = Checksum(&header_, offsetof(PackHeader, header_xxh3));
    std::array<uint8_t, kPageBytes> page = {};
    std::memcpy(page.data(), &header_, sizeof(header_));
    return WriteAt(fd_, 0, page.data(), page.size());
  }

  PackReport Report() const {
    PackReport report;
    report.uuid = header_.uuid;
    report.file_bytes = header_.file_bytes;
    report.static_bytes = header_.static_bytes;
    report.block_bytes = header_.blocks_bytes;
    for (size_t i = 0; i < layers_.sums().size(); ++i) {
      report.relative_rms_error[i] = layers_.sums()[i].RelativeRms();
    }
    report.requantised = plan_.requantised;
    return report;
  }

  const MergedSource source_;
  PackPlan& plan_;
  const int fd_;
  PackHeader header_;
  PackRun run_;
  LayerWriter layers_;
};

}  // namespace

absl::StatusOr<PackReport> WritePack(const SourceModel& source, const std::string& out_path,
                                     const PackOptions& options, const PackProgress& progress) {
  ASSIGN_OR_RETURN(const LoraSet adapters, LoraSet::Open(source, options.adapters));
  auto plan = PlanPack(source, options, &adapters);
  if (!plan.ok()) return Annotate(plan.status(), source.path());
  RETURN_IF_ERROR(CheckMoments(options.moments, plan->geometry));
  RETURN_IF_ERROR(PlaceUnits(options.trace_path, *plan));
  std::vector<std::string> inputs = {source.path(), options.trace_path};
  for (const LoraSource& adapter : options.adapters) inputs.push_back(adapter.path);
  RETURN_IF_ERROR(RefuseToReplace(inputs, out_path));
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(out_path));
  auto report = Writer(source, adapters, options, progress, file.fd(), *plan).Run();
  if (!report.ok()) return Annotate(report.status(), absl::StrCat("packing into ", out_path));
  // What a reader would refuse is not worth a name.
  RETURN_IF_ERROR(ReadPackIndex(file.fd(), out_path).status());
  RETURN_IF_ERROR(file.Commit());
  return report;
}

}  // namespace tidegate
