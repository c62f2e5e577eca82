// The packs that `tidegate serve` and `tidegate run` make of models: kept in a folder of the user,
// made once, and made again when the model's files, the way of packing or the format have changed.
//
// One pack per model and way of packing, NAME.UNITS.HASH.tgpack, of the model's path; beside it
// NAME...tgpack.source says what it was made of (names, sizes and times of the files, the packer's
// version, the pack's uuid) and NAME...tgpack.lock is held by who packs. A pack is used when its
// index is whole and all of this agrees; its blocks are checked when they are read, as of any pack.
// Stateless; any thread, any number of processes at once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace tidegate {

struct PackRequest {
  std::string model;       // a GGUF file, a Hugging Face folder, or a pack, which stays as it is
  std::string units = {};  // ParseUnitEncoding's names; empty: q8. Not for a pack
  std::string cache_dir = {};  // empty: DefaultCacheFolder()
};

struct ReadyPack {
  std::string path;
  uint64_t bytes = 0;
  bool packed_now = false;
};

// Gets one line for a person about what takes time or went wrong.
using TellPerson = std::function<void(const std::string& line)>;

// $XDG_CACHE_HOME/tidegate, else $HOME/.cache/tidegate. NOT_FOUND if neither is set.
absl::StatusOr<std::string> DefaultCacheFolder();

// The pack to serve. Packs, with progress on standard error, unless that was done before; waits if
// another process does it at this moment. Errors name the file or the flag: NOT_FOUND (no such
// model), INVALID_ARGUMENT (unknown format; not servable), RESOURCE_EXHAUSTED (the drive is full).
absl::StatusOr<ReadyPack> PackFor(const PackRequest& request, const TellPerson& tell);

}  // namespace tidegate
