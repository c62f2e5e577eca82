// Reads a whole pack and compares every block and static tensor with its checksum. Any thread;
// uses helpers inside.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "packer/pack_options.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

struct BadBlock {
  uint32_t layer = 0;
  UnitKind kind = UnitKind::kInput;
  uint32_t block = 0;  // index within (layer, kind)
};

struct VerifyReport {
  uint64_t blocks = 0;          // read
  uint64_t static_tensors = 0;  // read
  std::vector<BadBlock> bad_blocks;
  std::vector<std::string> bad_tensors;  // names
  bool ok() const { return bad_blocks.empty() && bad_tensors.empty(); }
};

// `index` is what ReadPackIndex() made of the same `fd`. Damage is in the report; an error means
// that the file could not be read.
absl::StatusOr<VerifyReport> VerifyPack(int fd, const PackIndex& index,
                                        const PackProgress& progress);

}  // namespace tidegate
