#include "packer/pack_writer.h"

#include <fcntl.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "packer/atomic_file.h"
#include "packer/checksum_stream.h"
#include "packer/layer_packer.h"
#include "packer/pack_plan.h"
#include "packer/parallel_for.h"
#include "packer/read_ahead.h"
#include "packer/weight_check.h"
#include "packer/write_behind.h"
#include "proto/store/v1/mask_trace.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

constexpr uint64_t kCopyBytes = 8 << 20;  // of a static tensor at a time
constexpr uint64_t kPieceRows = 256;      // handed to a thread at a time

absl::StatusOr<PackUuid> RandomUuid() {
  PackUuid uuid;
  if (::getrandom(uuid.data(), uuid.size(), 0) != static_cast<ssize_t>(uuid.size())) {
    return absl::ErrnoToStatus(errno, "getrandom");
  }
  uuid[6] = static_cast<uint8_t>((uuid[6] & 0x0f) | 0x40);  // RFC 4122: version 4, random
  uuid[8] = static_cast<uint8_t>((uuid[8] & 0x3f) | 0x80);
  return uuid;
}

// Gives every unit its position: the one most often selected first. Experts stay apart.
absl::Status PlaceUnits(const std::string& trace_path, PackPlan& plan) {
  if (trace_path.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const UnitUses trace, CountUnitUses(trace_path, ShapeOf(plan.geometry)));
  for (uint32_t layer = 0; layer < plan.geometry.layer_count; ++layer) {
    store::v1::LayerUnits& units = *plan.manifest.mutable_layers(static_cast<int>(layer));
    const auto place = [&](UnitKind kind, store::v1::KindUnits& placed) {
      const std::vector<uint32_t>& uses = trace.uses[static_cast<uint32_t>(kind)][layer];
      std::vector<uint32_t> unit_at(uses.size());
      std::iota(unit_at.begin(), unit_at.end(), 0u);
      const size_t part = unit_at.size() / ExpertSlots(plan.manifest.hyper_parameters());
      for (auto first = unit_at.begin(); first != unit_at.end();
           first += static_cast<ptrdiff_t>(part)) {
        std::stable_sort(first, first + static_cast<ptrdiff_t>(part),
                         [&](uint32_t a, uint32_t b) { return uses[a] > uses[b]; });
      }
      placed.mutable_positions()->Resize(static_cast<int>(unit_at.size()), 0);
      for (uint32_t p = 0; p < unit_at.size(); ++p) {
        placed.set_positions(static_cast<int>(unit_at[p]), p);
      }
    };
    place(UnitKind::kInput, *units.mutable_input());
    place(UnitKind::kHidden, *units.mutable_hidden());
  }
  return absl::OkStatus();
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

// One run: the file being written and what has been learnt so far.
class Writer {
 public:
  Writer(const GgufFile& source, const LoraSet& adapters, PackPlan& plan,
         const PackOptions& options, int fd, const PackProgress& progress)
      : source_(source),
        adapters_(adapters),
        plan_(plan),
        options_(options),
        fd_(fd),
        progress_(progress),
        input_(source),
        output_(fd),
        packer_([this](const GgufTensor& matrix, uint64_t first,
                       uint64_t count) { return ReadRaw(matrix, first, count); },
                options.units, options.memory_bytes) {
    header_.magic = kPackMagic;
    header_.version = kPackVersion;
    header_.header_bytes = kPageBytes;
    header_.static_offset = kPageBytes;
    header_.static_bytes = plan.static_bytes;
    header_.blocks_offset = RoundUp(kPageBytes + plan.static_bytes, kPageBytes);
    header_.blocks_bytes = plan.geometry.blocks_bytes();
    header_.checksums_offset = header_.blocks_offset + header_.blocks_bytes;
    header_.checksum_count = uint64_t{plan.geometry.layer_blocks()} * plan.geometry.layer_count;
    header_.manifest_offset = header_.checksums_offset + header_.checksum_count * sizeof(uint64_t);
  }

  absl::StatusOr<PackReport> Run() {
    ASSIGN_OR_RETURN(header_.uuid, RandomUuid());
    RETURN_IF_ERROR(ReserveSpace());
    // Layers keep the cores busy, static tensors the drive: side by side neither waits.
    // When one fails, the other stops at its next piece; that it did is not what went wrong.
    std::array<absl::Status, 2> halves;
    RETURN_IF_ERROR(ParallelFor(2, 2, [&](uint64_t i) {
      halves[i] = i == 0 ? WriteLayers() : WriteStatics();
      if (!halves[i].ok()) failed_ = true;
      return absl::OkStatus();
    }));
    RETURN_IF_ERROR(absl::IsCancelled(halves[0]) ? halves[1] : halves[0]);
    RETURN_IF_ERROR(halves[1]);
    RETURN_IF_ERROR(WriteTables());
    return Report();
  }

 private:
  using Matrices = LayerPacker::Matrices;

  // Finished blocks of an expert's part of a layer go where they belong in the file.
  class PartSink final : public BlockSink {
   public:
    PartSink(Writer& writer, uint32_t layer, UnitKind kind, uint32_t first_block)
        : writer_(writer), layer_(layer), kind_(kind), first_block_(first_block) {}

    absl::StatusOr<std::span<uint8_t>> Room(uint32_t first, uint64_t bytes) override {
      bytes_ = bytes;
      return writer_.output_.Room(
          writer_.header_.blocks_offset +
              writer_.plan_.geometry.BlockOffset(layer_, kind_, first_block_ + first),
          bytes);
    }
    absl::Status Put(std::span<const uint64_t> checksums) override {
      writer_.output_.Write();
      writer_.checksums_.insert(writer_.checksums_.end(), checksums.begin(), checksums.end());
      writer_.Advance(bytes_);
      return absl::OkStatus();
    }

   private:
    Writer& writer_;
    const uint32_t layer_;
    const UnitKind kind_;
    const uint32_t first_block_;
    uint64_t bytes_ = 0;
  };

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

  // CANCELLED once the other half has failed.
  absl::Status MayGoOn() const {
    return failed_ ? absl::CancelledError("the other half of the pack failed") : absl::OkStatus();
  }

  void Advance(uint64_t bytes) {
    MutexLock lock(progress_mutex_);
    done_bytes_ += bytes;
    if (progress_) progress_(done_bytes_, plan_.static_bytes + header_.blocks_bytes);
  }

  // Whether the bytes of the source's rows say all; otherwise its floats are needed.
  bool IsPlain(const GgufTensor& tensor) const {
    return !tensor.translated() && !adapters_.Touches(tensor.name);
  }

  // Whether a static tensor keeps its values and its type.
  bool IsCopied(size_t i) {
    return IsPlain(*plan_.statics[i]) && plan_.statics[i]->type == StaticEntry(i).type();
  }

  // Tells the input everything of the layers that will be read, in order.
  void ExpectLayers() {
    const auto expect = [&](const GgufTensor& tensor, uint64_t first, uint64_t count) {
      if (IsPlain(tensor)) input_.Expect(tensor, first, count);
    };
    for (uint32_t layer = 0; layer < plan_.geometry.layer_count; ++layer) {
      for (const UnitKind kind : {UnitKind::kInput, UnitKind::kHidden}) {
        for (const Matrices& matrices : PartsOf(layer, kind)) {
          packer_.Announce(matrices, GeometryOf(kind, matrices), !options_.moments.empty(), expect);
        }
      }
    }
  }

  store::v1::StaticTensor& StaticEntry(size_t i) {
    return *plan_.manifest.mutable_static_tensors(static_cast<int>(i));
  }
  static uint64_t StoredRowBytes(const store::v1::StaticTensor& entry) {
    return StaticRowBytes(static_cast<GgmlType>(entry.type()), entry.columns());
  }
  // Rows that are read and written at a time.
  uint64_t StaticStep(size_t i) {
    return std::clamp<uint64_t>(kCopyBytes / StoredRowBytes(StaticEntry(i)), 1,
                                StaticEntry(i).rows());
  }

  absl::Status WriteStatics() {
    ReadAhead input(source_);
    WriteBehind output(fd_);
    for (size_t i = 0; i < plan_.statics.size(); ++i) {
      const uint64_t rows = StaticEntry(i).rows(), step = StaticStep(i);
      for (uint64_t row = 0; IsCopied(i) && row < rows; row += step) {
        input.Expect(*plan_.statics[i], row, std::min(step, rows - row));
      }
    }
    for (size_t i = 0; i < plan_.statics.size(); ++i) {
      RETURN_IF_ERROR(WriteStatic(i, input, output));
    }
    return output.Finish();
  }

  absl::Status WriteStatic(size_t i, ReadAhead& input, WriteBehind& output) {
    store::v1::StaticTensor& entry = StaticEntry(i);
    const GgufTensor& tensor = *plan_.statics[i];
    const uint64_t row_bytes = StoredRowBytes(entry), step = StaticStep(i);
    // The embedding comes last where it is not the head, see pack_plan.cc.
    const bool by_row = entry.name() == "token_embd.weight" && i + 1 == plan_.statics.size();
    ChecksumStream checksum;
    for (uint64_t row = 0; row < entry.rows(); row += step) {
      RETURN_IF_ERROR(MayGoOn());
      const uint64_t n = std::min(step, entry.rows() - row);
      const uint64_t offset = header_.static_offset + entry.offset() + row * row_bytes;
      ASSIGN_OR_RETURN(const std::span<uint8_t> room, output.Room(offset, n * row_bytes));
      if (IsCopied(i)) {
        ASSIGN_OR_RETURN(const std::span<const uint8_t> from, input.Take(tensor, row, n));
        RETURN_IF_ERROR(CopyRows(tensor, row, n, from, entry, room.data()));
      } else {
        RETURN_IF_ERROR(ReadMergedRows(tensor, row, n, reinterpret_cast<float*>(room.data())));
      }
      checksum.Add(room.data(), room.size());
      for (uint64_t r = 0; by_row && r < n; ++r) {
        entry.add_row_xxh3(Checksum(&room[r * row_bytes], row_bytes));
      }
      output.Write();
      Advance(room.size());
    }
    entry.set_xxh3(checksum.Value());
    return absl::OkStatus();
  }

  static absl::Status CopyRows(const GgufTensor& tensor, uint64_t first, uint64_t count,
                               std::span<const uint8_t> from, const store::v1::StaticTensor& entry,
                               uint8_t* out) {
    const auto type = static_cast<GgmlType>(entry.type());
    const uint64_t from_bytes = from.size() / count, to_bytes = StoredRowBytes(entry);
    return ParallelFor(Pieces(count), PackThreads(), [&](uint64_t piece) -> absl::Status {
      const uint64_t begin = piece * kPieceRows, end = std::min(count, begin + kPieceRows);
      RETURN_IF_ERROR(
          CheckRows(tensor, first + begin, end - begin, type, &from[begin * from_bytes]));
      for (uint64_t r = begin; r < end; ++r) {
        StoreStaticRow(type, &from[r * from_bytes], entry.columns(), out + r * to_bytes);
      }
      return absl::OkStatus();
    });
  }

  static uint64_t Pieces(uint64_t rows) { return (rows + kPieceRows - 1) / kPieceRows; }

  absl::Status ReadMergedRows(const GgufTensor& tensor, uint64_t first, uint64_t count,
                              float* out) const {
    return ParallelFor(Pieces(count), PackThreads(), [&](uint64_t piece) -> absl::Status {
      const uint64_t row = piece * kPieceRows, n = std::min(kPieceRows, count - row);
      float* const rows = out + row * tensor.columns();
      RETURN_IF_ERROR(source_.ReadRows(tensor, first + row, n, rows));
      RETURN_IF_ERROR(CheckRows(tensor, first + row, n, GgmlType::kF32, rows));
      if (!adapters_.Touches(tensor.name)) return absl::OkStatus();
      RETURN_IF_ERROR(adapters_.AddTo(tensor, first + row, n, rows));
      const absl::Status sum = CheckRows(tensor, first + row, n, GgmlType::kF32, rows);
      if (sum.ok()) return sum;
      return absl::InvalidArgumentError(
          absl::StrCat("an adapter is merged with too large a scale: ", sum.message()));
    });
  }

  absl::StatusOr<RawRows> ReadRaw(const GgufTensor& matrix, uint64_t first, uint64_t count) {
    RETURN_IF_ERROR(MayGoOn());
    if (IsPlain(matrix)) {
      ASSIGN_OR_RETURN(const GgmlType type, ToGgmlType(matrix.type));
      ASSIGN_OR_RETURN(const std::span<const uint8_t> rows, input_.Take(matrix, first, count));
      return RawRows{type, rows.data()};
    }
    floats_.resize(count * matrix.columns());
    RETURN_IF_ERROR(ReadMergedRows(matrix, first, count, floats_.data()));
    return RawRows{GgmlType::kF32, reinterpret_cast<const uint8_t*>(floats_.data())};
  }

  absl::Status WriteLayers() {
    ExpectLayers();
    for (uint32_t layer = 0; layer < plan_.geometry.layer_count; ++layer) {
      const LayerMoments* moments = options_.moments.empty() ? nullptr : &options_.moments[layer];
      store::v1::LayerUnits& units = *plan_.manifest.mutable_layers(static_cast<int>(layer));
      RETURN_IF_ERROR(PackKind(layer, UnitKind::kInput, *units.mutable_input(),
                               std::span(sums_).first(2),
                               moments != nullptr ? &moments->input : nullptr));
      RETURN_IF_ERROR(PackKind(layer, UnitKind::kHidden, *units.mutable_hidden(),
                               std::span(sums_).last(1),
                               moments != nullptr ? &moments->hidden : nullptr));
    }
    return output_.Finish();
  }

  // For each expert the matrices of this kind, whose columns are its units.
  std::vector<Matrices> PartsOf(uint32_t layer, UnitKind kind) const {
    const size_t slots = plan_.layers.size() / plan_.geometry.layer_count;
    std::vector<Matrices> parts;
    for (const LayerMatrices& from : std::span(plan_.layers).subspan(layer * slots, slots)) {
      if (kind == UnitKind::kInput) {
        parts.push_back({from.gate, from.up});
      } else if (from.down != nullptr) {
        parts.push_back({from.down});
      }
    }
    return parts;
  }

  // As if the part were all of the layer's units.
  KindGeometry GeometryOf(UnitKind kind, const Matrices& matrices) const {
    KindGeometry geometry = plan_.geometry.kind(kind);
    geometry.unit_count = static_cast<uint32_t>(matrices[0]->columns());
    geometry.block_count =
        (geometry.unit_count + geometry.units_per_block - 1) / geometry.units_per_block;
    return geometry;
  }

  absl::Status PackKind(uint32_t layer, UnitKind kind, store::v1::KindUnits& units,
                        std::span<ErrorSums> sums, const InputMoments* moments) {
    std::vector<ErrorSums> layer_sums(sums.size());
    uint32_t first_unit = 0;
    for (const Matrices& matrices : PartsOf(layer, kind)) {
      RETURN_IF_ERROR(PackPart(layer, kind, matrices, first_unit, units, layer_sums, moments));
      first_unit += static_cast<uint32_t>(matrices[0]->columns());
    }
    for (size_t m = 0; m < sums.size(); ++m) {
      units.add_relative_rms_errors(static_cast<float>(layer_sums[m].RelativeRms()));
      sums[m].difference += layer_sums[m].difference;
      sums[m].source += layer_sums[m].source;
    }
    return absl::OkStatus();
  }

  absl::Status PackPart(uint32_t layer, UnitKind kind, const Matrices& matrices,
                        uint32_t first_unit, store::v1::KindUnits& units, std::span<ErrorSums> sums,
                        const InputMoments* moments) {
    const KindGeometry geometry = GeometryOf(kind, matrices);
    PartSink sink(*this, layer, kind, first_unit / geometry.units_per_block);
    store::v1::KindUnits part;
    for (uint32_t u = 0; !units.positions().empty() && u < geometry.unit_count; ++u) {
      part.add_positions(units.positions(static_cast<int>(first_unit + u)) - first_unit);
    }
    RETURN_IF_ERROR(packer_.PackUnits(matrices, geometry, sink, part, sums, moments));
    units.mutable_norms()->MergeFrom(part.norms());
    units.mutable_second_norms()->MergeFrom(part.second_norms());
    return absl::OkStatus();
  }

  // Checksum table, manifest and, last, the header.
  absl::Status WriteTables() {
    const uint64_t table_bytes = checksums_.size() * sizeof(uint64_t);
    RETURN_IF_ERROR(WriteAt(fd_, header_.checksums_offset, checksums_.data(), table_bytes));
    header_.checksums_xxh3 = Checksum(checksums_.data(), table_bytes);

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
    for (size_t i = 0; i < sums_.size(); ++i) report.relative_rms_error[i] = sums_[i].RelativeRms();
    report.requantised = plan_.requantised;
    return report;
  }

  const GgufFile& source_;
  const LoraSet& adapters_;
  PackPlan& plan_;
  const PackOptions& options_;
  const int fd_;
  const PackProgress& progress_;
  ReadAhead input_;     // of the layers
  WriteBehind output_;  // the same
  LayerPacker packer_;
  std::vector<float> floats_;  // rows that are not plain
  PackHeader header_ = {};
  std::vector<uint64_t> checksums_;   // in the order of the block section
  std::array<ErrorSums, 3> sums_;     // gate, up, down
  std::atomic<bool> failed_ = false;  // one of the halves
  Mutex progress_mutex_;
  uint64_t done_bytes_ GUARDED_BY(progress_mutex_) = 0;
};

}  // namespace

absl::StatusOr<PackReport> WritePack(const GgufFile& source, const std::string& out_path,
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
  auto report = Writer(source, adapters, *plan, options, file.fd(), progress).Run();
  if (!report.ok()) return Annotate(report.status(), absl::StrCat("packing into ", out_path));
  // What a reader would refuse is not worth a name.
  RETURN_IF_ERROR(ReadPackIndex(file.fd(), out_path).status());
  RETURN_IF_ERROR(file.Commit());
  return report;
}

}  // namespace tidegate
