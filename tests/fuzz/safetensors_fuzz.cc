// Directories of safetensors files.
#include "packer/safetensors.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tidegate::MemoryFile memory(data, size);
  (void)tidegate::ReadSafetensorsDirectory(memory.fd(), size);
  return 0;
}
