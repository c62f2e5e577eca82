// Directories of safetensors files.
#include "tests/fuzz/memory_file.h"
#include "weightstore/pack/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tidegate::MemoryFile memory(data, size);
  (void)tidegate::ReadSafetensorsDirectory(memory.fd(), size);
  return 0;
}
