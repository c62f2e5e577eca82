// config.json of a Hugging Face folder.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "packer/hf_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto json = tidegate::JsonObject::Parse(text, "config.json");
  if (!json.ok()) return 0;
  const auto config = tidegate::TranslateConfig(*json);
  if (!config.ok()) return 0;
  for (const auto& [name, value] : json->value().items()) {
    (void)tidegate::GgufTensorName(*config->family, name);
  }
  return 0;
}
