// Any bytes as a profile: refused, or checked, and then it survives being written.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "proto/store/v1/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto profile = tidegate::ParseProfile({reinterpret_cast<const char*>(data), size});
  if (!profile.ok()) return 0;
  if (!tidegate::ParseProfile(tidegate::ProfileText(*profile)).ok()) std::abort();
  return 0;
}
