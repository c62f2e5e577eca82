// What a GGUF file is made of, as gguf_reader.h reads it; also what other formats are translated to
// (packer/source_model.h). Plain data.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/unique_fd.h"

namespace tidegate {

struct GgufTensor {
  std::string name;
  uint32_t type = 0;           // ggml type as in the file; may be one we cannot read
  std::vector<uint64_t> dims;  // GGUF order: dims[0] is the row length (columns)
  uint64_t offset = 0;         // bytes from the start of the file
  uint64_t bytes = 0;          // 0 for types whose size is not known here
  uint64_t first_row = 0;      // of a slice: rows of the file's tensor before it
  uint32_t file = 0;           // which of the model's files

  // How the values of another format become GGUF's; nothing of it in GGUF files.
  uint32_t head_rows = 0;  // rows of a head (elements, of a vector) whose halves are interleaved
  float plus = 0;          // added to every value that ReadRows() gives

  uint64_t columns() const { return dims.empty() ? 1 : dims[0]; }
  uint64_t rows() const {
    uint64_t n = 1;
    for (size_t i = 1; i < dims.size(); ++i) n *= dims[i];
    return n;
  }
  // Whether what lies in a row is not yet what ReadRows() gives, decoding aside.
  bool translated() const { return plus != 0 || (head_rows != 0 && dims.size() <= 1); }
};

using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>,
                               std::vector<int64_t>, std::vector<double>, std::vector<bool>,
                               std::vector<std::string>>;

// What a SourceModel is made of; filled by the readers of the formats.
struct ModelParts {
  std::string path;
  uint32_t version = 0;     // of GGUF; 0: another format
  uint64_t file_bytes = 0;  // of all files
  std::vector<UniqueFd> files;
  std::map<std::string, GgufValue> metadata;
  std::vector<GgufTensor> tensors;
  std::vector<std::string> ignored_keys;  // of another format's configuration: nobody knows them
};

}  // namespace tidegate
