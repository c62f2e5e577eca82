// Writes safetensors files for tests. A writer of its own, so that reader and writer cannot share a
// mistake.
#pragma once

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "proto/gguf/ggml_type.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate {

class SafetensorsBuilder {
 public:
  // `shape`: the last one is the row length.
  void Add(const std::string& name, GgmlType type, const std::vector<uint64_t>& shape,
           const std::vector<float>& values) {
    AddRaw(name, GgmlTypeName(static_cast<uint32_t>(type)), shape,
           EncodeGgmlRow(type, values.data(), values.size()));
  }
  void AddRaw(const std::string& name, const std::string& dtype, const std::vector<uint64_t>& shape,
              const std::string& bytes) {
    header_[name] = {{"dtype", dtype},
                     {"shape", shape},
                     {"data_offsets", {data_.size(), data_.size() + bytes.size()}}};
    data_ += bytes;
  }
  nlohmann::json& header() { return header_; }

  std::string Build() const {
    const std::string text = header_.dump();
    const uint64_t bytes = text.size();
    return std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes)) + text + data_;
  }
  void WriteTo(const std::string& path) const { WriteFileOrDie(path, Build()); }

 private:
  nlohmann::json header_ = {{"__metadata__", {{"format", "pt"}}}};
  std::string data_;
};

}  // namespace tidegate
