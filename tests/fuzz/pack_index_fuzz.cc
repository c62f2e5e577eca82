// Pack headers, checksum tables and manifests. Checksums are corrected before reading: a fuzzer
// cannot guess them, and an attacker computes them.
#include <cstddef>
#include <cstring>
#include <vector>

#include "proto/store/v1/pack_format.h"
#include "tests/fuzz/memory_file.h"

namespace tidegate {
namespace {

// Of a section, 0 if it is not inside the file.
uint64_t SectionChecksum(const std::vector<uint8_t>& file, uint64_t offset, uint64_t bytes) {
  const bool inside = offset <= file.size() && bytes <= file.size() - offset;
  return inside ? Checksum(file.data() + offset, bytes) : 0;
}

void CorrectChecksums(std::vector<uint8_t>& file) {
  PackHeader header;
  if (file.size() < sizeof(header)) return;
  std::memcpy(&header, file.data(), sizeof(header));
  header.file_bytes = file.size();
  if (header.checksum_count <= file.size() / sizeof(uint64_t)) {
    header.checksums_xxh3 =
        SectionChecksum(file, header.checksums_offset, header.checksum_count * sizeof(uint64_t));
  }
  header.manifest_xxh3 = SectionChecksum(file, header.manifest_offset, header.manifest_bytes);
  header.header_xxh3 = Checksum(&header, offsetof(PackHeader, header_xxh3));
  std::memcpy(file.data(), &header, sizeof(header));
}

}  // namespace
}  // namespace tidegate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  tidegate::CorrectChecksums(bytes);
  const tidegate::MemoryFile memory(bytes.data(), bytes.size());
  (void)tidegate::ReadPackIndex(memory.fd(), "fuzz");
  return 0;
}
