// A recording of the units that masks selected, token by token: `tidegate eval --record` writes it,
// `tidegate pack --trace` places units by it.
//
//   offset 0                        MaskTraceHeader
//   sizeof(header) + t * TokenBytes token t: for each layer a mask of its input units, then one of
//                                   its hidden units
//
// A mask is unit_count bits in whole bytes; unit u is bit u % 8 of byte u / 8. Units are numbered
// as in the model, whatever the pack's order. Little-endian. Each class says which threads may use
// it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

inline constexpr uint64_t kMaskTraceMagic = 0x3145434152544754;  // "TGTRACE1"

struct MaskTraceShape {
  uint32_t layer_count = 0;
  uint32_t unit_count[kUnitKinds] = {0, 0};  // per layer, by UnitKind

  bool operator==(const MaskTraceShape&) const = default;
  // "32 layers of 4096 input and 14336 hidden units"
  std::string Text() const;
  uint64_t TokenBytes() const;
};
MaskTraceShape ShapeOf(const PackGeometry& geometry);

struct MaskTraceHeader {
  uint64_t magic;
  uint32_t version;
  MaskTraceShape shape;
};
static_assert(sizeof(MaskTraceHeader) == 24);

// Appends masks to a file from its beginning. Owned by one thread.
class MaskTraceWriter {
 public:
  // `fd` is not owned.
  MaskTraceWriter(int fd, const MaskTraceShape& shape);

  // The next mask in the order of the file.
  void Add(UnitKind kind, std::span<const uint32_t> units);
  // The first error of the file so far.
  const absl::Status& status() const { return status_; }
  absl::Status Finish();

 private:
  void Flush();

  const int fd_;
  const MaskTraceShape shape_;
  std::vector<uint8_t> buffer_;
  uint64_t offset_ = 0;
  absl::Status status_;
};

// A trace in memory. Thread-compatible; const calls from any thread.
class MaskTrace {
 public:
  // Errors: NOT_FOUND and the like from the file; INVALID_ARGUMENT: not a trace, cut off, without
  // masks. All name the file.
  static absl::StatusOr<MaskTrace> Load(const std::string& path);

  // INVALID_ARGUMENT: the trace is of a model of another shape.
  absl::Status CheckShape(const MaskTraceShape& model) const;

  const MaskTraceShape& shape() const { return shape_; }
  uint64_t tokens() const { return tokens_; }

  // The units of a mask in rising order. REQUIRES: all in range.
  void Units(uint64_t token, uint32_t layer, UnitKind kind, std::vector<uint32_t>& units) const;

 private:
  std::string path_;
  MaskTraceShape shape_;
  uint64_t tokens_ = 0;
  std::vector<uint8_t> masks_;
};

// How often every unit was selected.
struct UnitUses {
  uint64_t tokens = 0;
  std::vector<std::vector<uint32_t>> uses[kUnitKinds];  // by kind, layer and unit
};

// Errors: NOT_FOUND and the like from the file; INVALID_ARGUMENT: not a trace, cut off, without
// masks, or of a model of another shape than `shape`. All name the file.
absl::StatusOr<UnitUses> CountUnitUses(const std::string& path, const MaskTraceShape& shape);

}  // namespace tidegate
