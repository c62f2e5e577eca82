#include "cli/pack_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/build_info_values.h"
#include "base/progress.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/servable.h"
#include "measure/local_model.h"
#include "packer/atomic_file.h"
#include "packer/gguf_split.h"
#include "packer/pack_writer.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxSourceBytes = 4 << 20;  // of a file that says what a pack was made of
constexpr size_t kMaxNameBytes = 80;         // of the model's name in that of the pack
constexpr std::string_view kSplitTail = "-00001-of-00001.gguf";

// How many files a split model has by the name of one of them; 0: it is no such name.
uint64_t SplitCount(const std::string& name) {
  if (name.size() <= kSplitTail.size() || !absl::EndsWith(name, ".gguf")) return 0;
  const std::string tail = name.substr(name.size() - kSplitTail.size());
  uint64_t count = 0;
  const bool digits = absl::StartsWith(tail, "-") && tail.substr(6, 4) == "-of-" &&
                      absl::SimpleAtoi(tail.substr(10, 5), &count);
  return digits ? count : 0;
}

// What a model is read from: the file, all files of a split model, or those files of a folder that
// can matter. In an order that does not change.
absl::StatusOr<std::vector<std::string>> SourceFiles(const std::string& model) {
  std::error_code error;
  if (!fs::is_directory(model, error)) {
    if (!fs::exists(model, error)) {
      return absl::NotFoundError(absl::StrCat(
          Quoted(model), " does not exist; give a GGUF file, a Hugging Face folder or a pack"));
    }
    const uint64_t count = SplitCount(model);
    if (count > 0) return SplitPaths(model, count);
    return std::vector<std::string>{model};
  }
  std::vector<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(model, error)) {
    const std::string ending = entry.path().extension().string();
    for (const char* known : {".json", ".safetensors", ".model", ".jinja", ".txt"}) {
      if (ending == known) files.push_back(entry.path().string());
    }
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read the folder ", model));
  }
  std::sort(files.begin(), files.end());
  return files;
}

// A pack in the cache: where it is, and what it has to be made of.
struct Entry {
  std::string path;
  std::string identity;
  std::string source_path() const { return path + ".source"; }
  std::string lock_path() const { return path + ".lock"; }
};

// The model's name in a file's: no folders, no endings, nothing that a shell acts upon.
std::string NameOf(const std::string& model) {
  std::string name = fs::path(model).filename().string();
  if (SplitCount(name) > 0) {
    name.resize(name.size() - kSplitTail.size());
  } else if (absl::EndsWith(name, ".gguf")) {
    name.resize(name.size() - 5);
  }
  name.resize(std::min(name.size(), kMaxNameBytes));
  for (char& c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_') c = '-';
  }
  return name;
}

absl::StatusOr<Entry> EntryFor(const std::string& model, UnitEncoding units,
                               const std::string& cache_dir) {
  ASSIGN_OR_RETURN(const std::vector<std::string> files, SourceFiles(model));
  std::error_code error;
  const bool folder = fs::is_directory(model, error);
  const fs::path whole = fs::canonical(folder ? model : files.front(), error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot find ", model));
  Entry entry;
  entry.identity =
      absl::StrCat("model ", whole.string(), "\npacker ", TIDEGATE_VERSION, ", format ",
                   kPackVersion, "\nunits ", std::string(UnitEncodingName(units)), "\n");
  const uint64_t hash = Checksum(whole.c_str(), whole.native().size());
  entry.path = absl::StrFormat("%s/%s.%s.%016x.tgpack", cache_dir, NameOf(whole.string()),
                               std::string(UnitEncodingName(units)), hash);
  for (const std::string& file : files) {
    struct stat facts;
    if (::stat(file.c_str(), &facts) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", file));
    }
    absl::StrAppendFormat(
        &entry.identity, "file %s, %d bytes, changed %d.%09d\n",
        folder || files.size() > 1 ? fs::path(file).filename().string() : whole.filename().string(),
        facts.st_size, facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec);
  }
  return entry;
}

// What the file beside a pack says.
std::string SourceText(const Entry& entry, const PackUuid& uuid) {
  return absl::StrCat(entry.identity, "pack ", UuidText(uuid), "\n");
}

// NOT_FOUND: there is no pack yet, or of other files; another error: it is damaged.
absl::StatusOr<ReadyPack> Existing(const Entry& entry) {
  std::error_code error;
  if (!fs::exists(entry.path, error)) return absl::NotFoundError("none");
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(entry.path));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), entry.path));
  const auto source = ReadFile(entry.source_path(), kMaxSourceBytes);
  if (!source.ok() || *source != SourceText(entry, index.header.uuid)) {
    return absl::NotFoundError("of another model");
  }
  return ReadyPack{entry.path, index.header.file_bytes, false};
}

absl::Status WriteSource(const Entry& entry, const PackUuid& uuid) {
  const std::string text = SourceText(entry, uuid);
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(entry.source_path()));
  RETURN_IF_ERROR(WriteAt(file.fd(), 0, text.data(), text.size()));
  return file.Commit();
}

// Held until the descriptor is closed; none where the file system has no locks: two that pack at
// once then only do the work twice.
absl::StatusOr<UniqueFd> Lock(const Entry& entry, const TellPerson& tell) {
  ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::Open(entry.lock_path(), O_RDWR | O_CREAT, 0600));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return fd;
  tell("another process packs this model; waiting for it");
  while (::flock(fd.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  return fd;
}

absl::StatusOr<ReadyPack> Pack(const PackRequest& request, UnitEncoding units, const Entry& entry,
                               const TellPerson& tell) {
  ASSIGN_OR_RETURN(const SourceModel source, SourceModel::Open(request.model));
  const PackOptions options = {.units = units};
  RETURN_IF_ERROR(ServablePlan(source, options).status());
  tell(absl::StrCat("packing ", Printable(request.model), ", ", FormatBytes(source.file_bytes()),
                    ", with ", std::string(UnitEncodingName(units)), " units; this is done once"));
  Progress progress("packing");
  const auto report = WritePack(source, entry.path, options, [&](uint64_t done, uint64_t total) {
    progress.Update(done, total);
  });
  progress.Finish();
  if (!report.ok()) {
    const bool full = absl::IsResourceExhausted(report.status());
    return full ? absl::ResourceExhaustedError(
                      absl::StrCat(std::string(report.status().message()),
                                   "; choose another folder with --cache-dir, or make room"))
                : report.status();
  }
  if (report->requantised && units == UnitEncoding::kQ4) {
    tell(
        "the weights of the model were rounded before and are rounded again: --units q8 loses "
        "less");
  }
  RETURN_IF_ERROR(WriteSource(entry, report->uuid));
  return ReadyPack{entry.path, report->file_bytes, true};
}

absl::StatusOr<std::string> CacheFolder(const std::string& given) {
  std::string folder = given;
  if (folder.empty()) {
    ASSIGN_OR_RETURN(folder, DefaultCacheFolder());
  }
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) return folder;
  return absl::ErrnoToStatus(error.value(),
                             absl::StrCat("cannot create the folder for packs, ", Printable(folder),
                                          "; choose another with --cache-dir"));
}

absl::StatusOr<ReadyPack> GivenPack(const PackRequest& request) {
  if (!request.units.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(request.model),
                     " is a pack already; --units is for models that are packed: leave it out"));
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(request.model));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), request.model));
  return ReadyPack{request.model, index.header.file_bytes, false};
}

}  // namespace

absl::StatusOr<std::string> DefaultCacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  // By its specification, a relative path is to be ignored.
  if (cache != nullptr && *cache == '/') return absl::StrCat(cache, "/tidegate");
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home == '/') return absl::StrCat(home, "/.cache/tidegate");
  return absl::NotFoundError(
      "there is no folder for packs: neither XDG_CACHE_HOME nor HOME is set; give --cache-dir");
}

absl::StatusOr<ReadyPack> PackFor(const PackRequest& request, const TellPerson& tell) {
  if (StartsAsPack(request.model)) return GivenPack(request);
  ASSIGN_OR_RETURN(const UnitEncoding units,
                   ParseUnitEncoding(request.units.empty() ? "q8" : request.units));
  ASSIGN_OR_RETURN(const std::string cache_dir, CacheFolder(request.cache_dir));
  ASSIGN_OR_RETURN(const Entry entry, EntryFor(request.model, units, cache_dir));
  // Before the lock, for folders that may only be read.
  if (auto existing = Existing(entry); existing.ok()) return existing;
  ASSIGN_OR_RETURN(const UniqueFd lock, Lock(entry, tell));
  auto existing = Existing(entry);
  if (existing.ok()) return existing;
  if (!absl::IsNotFound(existing.status())) {
    tell(absl::StrCat(std::string(existing.status().message()), "; packing anew"));
  }
  return Pack(request, units, entry, tell);
}

}  // namespace tidegate
