#include "cli/local_model.h"

#include <stdlib.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "weightstore/budget.h"
#include "weightstore/pack/gguf_file.h"

namespace tidegate {
namespace {

absl::StatusOr<std::string> MakeFolder(const std::string& parent) {
  std::string pattern = parent + "/tidegate-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot make a temporary folder in ", parent));
  }
  return pattern;
}

std::string TemporaryParent() {
  const char* given = getenv("TMPDIR");
  return given != nullptr && *given != '\0' ? given : "/tmp";
}

// A temporary pack goes to memory if it is small beside what is free there: experiments on a
// modelled device then do not wear the drive.
bool FitsInMemory(uint64_t bytes) {
  struct statvfs fs;
  return statvfs("/dev/shm", &fs) == 0 && bytes < uint64_t{fs.f_bavail} * fs.f_frsize / 4;
}

absl::Status ReserveKvCache(uint64_t tokens, StoreOptions& store) {
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::Open(store.pack_path, O_RDONLY));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), store.pack_path));
  store.engine_reserve_bytes = KvCacheBytes(index.manifest.hyper_parameters(), tokens);
  return absl::OkStatus();
}

// A GGUF file or a Hugging Face folder: not packed yet.
bool IsSource(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return true;
  char magic[4] = {};
  const auto fd = UniqueFd::Open(path, O_RDONLY);
  return fd.ok() && ReadAt(fd->get(), 0, magic, sizeof(magic)).ok() &&
         std::string_view(magic, 4) == "GGUF";
}

}  // namespace

absl::Status LocalModel::PackIfNeeded(const LocalModelOptions& options, std::string& pack_path) {
  pack_path = options.model;
  if (!IsSource(options.model)) {
    if (!options.adapters.empty()) {
      return absl::InvalidArgumentError("adapters are merged while packing: give the GGUF file");
    }
    return UniqueFd::Open(options.model, O_RDONLY).status();
  }
  ASSIGN_OR_RETURN(const GgufFile source, GgufFile::Open(options.model));
  // Units in single precision need up to eight times the bytes of a 4-bit source.
  const bool in_memory = FitsInMemory(source.file_bytes() * 8);
  pack_path = (in_memory ? shm_folder_ : folder_) + "/model.tgpack";
  Progress progress("packing");
  const PackOptions pack_options = {.units = options.units,
                                    .one_unit_per_block = options.one_unit_per_block,
                                    .adapters = options.adapters};
  const bool show = source.file_bytes() > (64u << 20);
  return WritePack(source, pack_path, pack_options,
                   [&](uint64_t done, uint64_t total) {
                     if (show) progress.Update(done, total);
                   })
      .status();
}

absl::StatusOr<std::unique_ptr<LocalModel>> LocalModel::Open(const LocalModelOptions& options) {
  auto local = std::unique_ptr<LocalModel>(new LocalModel());
  ASSIGN_OR_RETURN(local->folder_, MakeFolder(TemporaryParent()));
  ASSIGN_OR_RETURN(local->shm_folder_, MakeFolder("/dev/shm"));
  StoreOptions store = options.store;
  RETURN_IF_ERROR(local->PackIfNeeded(options, store.pack_path));
  if (options.kv_tokens) RETURN_IF_ERROR(ReserveKvCache(*options.kv_tokens, store));
  store.socket_path = local->folder_ + "/store.sock";
  store.region_path = local->shm_folder_ + "/region";
  ASSIGN_OR_RETURN(local->store_, Store::Create(store));
  RETURN_IF_ERROR(local->store_->Start());
  ASSIGN_OR_RETURN(local->client_, WeightClient::Attach(store.socket_path, "in-process"));
  // Everything is open or mapped: from here on a killed process leaves nothing behind.
  local->RemoveFolders();
  ASSIGN_OR_RETURN(local->model_, MakeModel(*local->client_));
  local->pool_ = std::make_unique<ThreadPool>(options.threads);
  local->decoder_ =
      std::make_unique<Decoder>(local->model_.get(), local->client_.get(), local->pool_.get(),
                                options.prefill_chunk_tokens, options.overlap);
  return local;
}

LocalModel::~LocalModel() {
  decoder_.reset();
  model_.reset();
  client_.reset();
  store_.reset();
  RemoveFolders();
}

void LocalModel::RemoveFolders() {
  std::error_code ignored;
  for (std::string* folder : {&folder_, &shm_folder_}) {
    if (!folder->empty()) std::filesystem::remove_all(*folder, ignored);
    folder->clear();
  }
}

}  // namespace tidegate
