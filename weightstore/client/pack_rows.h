// Reads rows of static tensors from the pack file, where the region has no room for them: through
// the page cache, with a checksum for each row. A drive that does not answer holds nobody for ever.
// Owned by the client's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/pack_format.h"
#include "weightstore/client/patience.h"
#include "weightstore/client/patient_thread.h"

namespace tidegate {

class PackRows {
 public:
  // Takes the pack over. DATA_LOSS if it is not the one with this uuid any more.
  absl::Status Open(UniqueFd pack, const PackUuid& uuid, Patience& patience);

  // Of the section of static tensors. REQUIRES: Open() was OK.
  uint64_t static_bytes() const { return static_bytes_; }

  // out [rows.size(), bytes of a row]. REQUIRES: Open() was OK, the tensor has checksums of its
  // rows, the rows are its. DATA_LOSS: a row cannot be read or its checksum differs; those of
  // `patience`.
  absl::Status Read(const store::v1::StaticTensor& tensor, std::span<const uint64_t> rows,
                    std::byte* out, Patience& patience);

 private:
  std::shared_ptr<const UniqueFd> pack_;  // reads that were given up share it
  uint64_t static_offset_ = 0;            // of the section in the file
  uint64_t static_bytes_ = 0;
  PatientThread thread_;
};

}  // namespace tidegate
