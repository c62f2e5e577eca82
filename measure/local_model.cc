#include "measure/local_model.h"

#include <sys/statvfs.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/temporary_folder.h"
#include "base/unique_fd.h"
#include "packer/hyper_parameters.h"
#include "packer/pack_writer.h"
#include "packer/source_model.h"

namespace tidegate {
namespace {

constexpr const char* kMemoryParent = "/dev/shm";  // tmpfs

// A temporary pack goes to memory if it is small beside what is free there: experiments on a
// modelled device then do not wear the drive.
bool FitsInMemory(uint64_t bytes) {
  struct statvfs fs;
  return statvfs("/dev/shm", &fs) == 0 && bytes < uint64_t{fs.f_bavail} * fs.f_frsize / 4;
}

absl::Status ReserveKvCache(uint64_t tokens, KvType type, StoreOptions& store) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(store.pack_path));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), store.pack_path));
  const store::v1::HyperParameters& hp = index.manifest.hyper_parameters();
  store.engine_reserve_bytes = KvPool::PagesFor(tokens) * kKvPageTokens * hp.layer_count() * 2 *
                               hp.kv_heads() * KvRowBytes(type, hp.head_size());
  return absl::OkStatus();
}

}  // namespace

bool StartsAsPack(const std::string& path) {
  const auto fd = OpenFile(path);
  uint64_t magic = 0;
  return fd.ok() && ReadAt(fd->get(), 0, &magic, sizeof(magic)).ok() && magic == kPackMagic;
}

absl::StatusOr<store::v1::HyperParameters> HyperParametersOf(const std::string& model) {
  if (!StartsAsPack(model)) {
    ASSIGN_OR_RETURN(const SourceModel source, SourceModel::Open(model));
    auto hyper_parameters = HyperParametersOf(source);
    if (!hyper_parameters.ok()) return Annotate(hyper_parameters.status(), model);
    return hyper_parameters;
  }
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(model));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), model));
  return index.manifest.hyper_parameters();
}

absl::StatusOr<uint32_t> ExpertsOf(const std::string& model) {
  ASSIGN_OR_RETURN(const store::v1::HyperParameters hyper_parameters, HyperParametersOf(model));
  return hyper_parameters.expert_count();
}

absl::StatusOr<PackedModel> PackedModel::Open(const LocalModelOptions& options) {
  PackedModel packed;
  if (options.kv_type == KvType::kQ8) {
    ASSIGN_OR_RETURN(const auto hyper_parameters, HyperParametersOf(options.model));
    RETURN_IF_ERROR(CheckKvType(options.kv_type, hyper_parameters.head_size()));
  }
  if (StartsAsPack(options.model)) {
    packed.path_ = options.model;
    packed.adapters_ = options.adapters;
    return packed;
  }
  ASSIGN_OR_RETURN(const SourceModel source, SourceModel::Open(options.model));
  // Units in single precision need up to eight times the bytes of a 4-bit source.
  const bool in_memory = FitsInMemory(source.file_bytes() * 8);
  ASSIGN_OR_RETURN(TemporaryFolder folder,
                   TemporaryFolder::Create(in_memory ? kMemoryParent : TemporaryParent()));
  const std::string path = folder.File("model.tgpack");
  Progress progress("packing");
  const PackOptions pack_options = {.units = options.units,
                                    .one_unit_per_block = options.one_unit_per_block,
                                    .adapters = options.adapters};
  const bool show = source.file_bytes() > (64u << 20);
  RETURN_IF_ERROR(WritePack(source, path, pack_options, [&](uint64_t done, uint64_t total) {
                    if (show) progress.Update(done, total);
                  }).status());
  ASSIGN_OR_RETURN(packed.fd_, OpenFile(path));
  // Opens again what has lost its name.
  packed.path_ = absl::StrCat("/proc/self/fd/", packed.fd_.get());
  return packed;
}

absl::StatusOr<std::unique_ptr<LocalModel>> LocalModel::Open(const LocalModelOptions& options) {
  ASSIGN_OR_RETURN(PackedModel packed, PackedModel::Open(options));
  ASSIGN_OR_RETURN(std::unique_ptr<LocalModel> local, Open(options, packed));
  local->packed_ = std::move(packed);
  return local;
}

absl::StatusOr<std::unique_ptr<LocalModel>> LocalModel::Open(const LocalModelOptions& options,
                                                             const PackedModel& packed) {
  auto local = std::unique_ptr<LocalModel>(new LocalModel());
  // Everything in them is open or mapped when this function returns.
  ASSIGN_OR_RETURN(const TemporaryFolder memory, TemporaryFolder::Create(kMemoryParent));
  StoreOptions store = options.store;
  store.pack_path = packed.path();
  if (options.kv_tokens)
    RETURN_IF_ERROR(ReserveKvCache(*options.kv_tokens, options.kv_type, store));
  store.socket_path = memory.path() + "/store.sock";  // $TMPDIR may be too long for an address
  store.region_path = memory.path() + "/region";
  ASSIGN_OR_RETURN(local->store_, Store::Create(store));
  RETURN_IF_ERROR(local->store_->Start());
  ASSIGN_OR_RETURN(local->client_, WeightClient::Attach(store.socket_path, "in-process"));
  ASSIGN_OR_RETURN(local->model_, MakeModel(*local->client_, packed.adapters()));
  local->pool_ = std::make_unique<ThreadPool>(options.threads);
  local->decoder_ = std::make_unique<Decoder>(local->model_.get(), local->client_.get(),
                                              local->pool_.get(), options.overlap);
  local->chunk_tokens_ = options.prefill_chunk_tokens;
  return local;
}

LocalModel::~LocalModel() {
  decoder_.reset();
  model_.reset();
  client_.reset();
  store_.reset();
}

}  // namespace tidegate
