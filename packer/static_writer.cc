#include "packer/static_writer.h"

#include <algorithm>
#include <span>

#include "base/status_macros.h"
#include "packer/checksum_stream.h"
#include "packer/parallel_for.h"
#include "packer/read_ahead.h"
#include "packer/weight_check.h"
#include "packer/write_behind.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

constexpr uint64_t kCopyBytes = 8 << 20;  // of a tensor at a time

uint64_t StoredRowBytes(const store::v1::StaticTensor& entry) {
  return StaticRowBytes(static_cast<GgmlType>(entry.type()), entry.columns());
}

absl::Status CopyRows(const GgufTensor& tensor, uint64_t first, uint64_t count,
                      std::span<const uint8_t> from, const store::v1::StaticTensor& entry,
                      uint8_t* out) {
  const auto type = static_cast<GgmlType>(entry.type());
  const uint64_t from_bytes = from.size() / count, to_bytes = StoredRowBytes(entry);
  return ParallelFor(RowPieces(count), PackThreads(), [&](uint64_t piece) -> absl::Status {
    const uint64_t begin = piece * kPieceRows, end = std::min(count, begin + kPieceRows);
    RETURN_IF_ERROR(CheckRows(tensor, first + begin, end - begin, type, &from[begin * from_bytes]));
    for (uint64_t r = begin; r < end; ++r) {
      StoreStaticRow(type, &from[r * from_bytes], entry.columns(), out + r * to_bytes);
    }
    return absl::OkStatus();
  });
}

class StaticWriter {
 public:
  StaticWriter(const MergedSource& source, uint64_t static_offset, int fd, PackPlan& plan,
               PackRun& run)
      : source_(source), static_offset_(static_offset), fd_(fd), plan_(plan), run_(run) {}

  absl::Status WriteAll() {
    ReadAhead input(source_.model());
    WriteBehind output(fd_);
    for (size_t i = 0; i < plan_.statics.size(); ++i) {
      const uint64_t rows = Entry(i).rows(), step = Step(i);
      for (uint64_t row = 0; IsCopied(i) && row < rows; row += step) {
        input.Expect(*plan_.statics[i], row, std::min(step, rows - row));
      }
    }
    for (size_t i = 0; i < plan_.statics.size(); ++i) {
      RETURN_IF_ERROR(Write(i, input, output));
    }
    return output.Finish();
  }

 private:
  store::v1::StaticTensor& Entry(size_t i) {
    return *plan_.manifest.mutable_static_tensors(static_cast<int>(i));
  }

  // Whether a tensor keeps its values and its type.
  bool IsCopied(size_t i) {
    return source_.IsPlain(*plan_.statics[i]) && plan_.statics[i]->type == Entry(i).type();
  }

  // Rows that are read and written at a time.
  uint64_t Step(size_t i) {
    return std::clamp<uint64_t>(kCopyBytes / StoredRowBytes(Entry(i)), 1, Entry(i).rows());
  }

  absl::Status Write(size_t i, ReadAhead& input, WriteBehind& output) {
    store::v1::StaticTensor& entry = Entry(i);
    const GgufTensor& tensor = *plan_.statics[i];
    const uint64_t row_bytes = StoredRowBytes(entry), step = Step(i);
    // The embedding comes last where it is not the head, see pack_plan.cc.
    const bool by_row = entry.name() == "token_embd.weight" && i + 1 == plan_.statics.size();
    ChecksumStream checksum;
    for (uint64_t row = 0; row < entry.rows(); row += step) {
      RETURN_IF_ERROR(run_.MayGoOn());
      const uint64_t n = std::min(step, entry.rows() - row);
      const uint64_t offset = static_offset_ + entry.offset() + row * row_bytes;
      ASSIGN_OR_RETURN(const std::span<uint8_t> room, output.Room(offset, n * row_bytes));
      if (IsCopied(i)) {
        ASSIGN_OR_RETURN(const std::span<const uint8_t> from, input.Take(tensor, row, n));
        RETURN_IF_ERROR(CopyRows(tensor, row, n, from, entry, room.data()));
      } else {
        RETURN_IF_ERROR(source_.ReadRows(tensor, row, n, reinterpret_cast<float*>(room.data())));
      }
      checksum.Add(room.data(), room.size());
      for (uint64_t r = 0; by_row && r < n; ++r) {
        entry.add_row_xxh3(Checksum(&room[r * row_bytes], row_bytes));
      }
      output.Write();
      run_.Advance(room.size());
    }
    entry.set_xxh3(checksum.Value());
    return absl::OkStatus();
  }

  const MergedSource& source_;
  const uint64_t static_offset_;
  const int fd_;
  PackPlan& plan_;
  PackRun& run_;
};

}  // namespace

absl::Status WriteStatics(const MergedSource& source, uint64_t static_offset, int fd,
                          PackPlan& plan, PackRun& run) {
  return StaticWriter(source, static_offset, fd, plan, run).WriteAll();
}

}  // namespace tidegate
