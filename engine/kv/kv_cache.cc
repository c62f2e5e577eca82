#include "engine/kv/kv_cache.h"

#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "proto/gguf/finite.h"

namespace tidegate {
namespace {

absl::Status NoPage(const KvPool& pool) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "the KV cache is full: all of its ", pool.capacity(), " pages of ", kKvPageTokens,
      " tokens are in use; start the store with a larger --engine-reserve or the engine with "
      "--kv-tokens, or run fewer requests at once"));
}

// x [n] -> row. False if one of the numbers, as it is stored, is not finite.
bool StoreRow(const Kernels& kernels, KvType type, const float* x, size_t n, std::byte* row) {
  switch (type) {
    case KvType::kF32:
      std::memcpy(row, x, n * sizeof(float));
      return !FirstNotFinite({x, n});
    case KvType::kF16: {
      auto* halves = reinterpret_cast<uint16_t*>(row);
      kernels.to_half(x, n, halves);
      return AllFiniteHalves({halves, n});
    }
    case KvType::kQ8:
      kernels.to_q8(x, n, reinterpret_cast<uint8_t*>(row));
      return !FirstNotFinite(KvRowType(type), row, n);
  }
  return false;
}

}  // namespace

KvCache::KvCache(KvPool* pool, uint32_t context_tokens)
    : pool_(pool),
      kv_heads_(pool->kv_heads()),
      head_size_(pool->head_size()),
      context_tokens_(context_tokens) {}

KvCache::~KvCache() {
  for (const PageId page : pages().subspan(released_)) pool_->Drop(page);
}

void KvCache::Adopt(std::span<const PageId> pages) {
  CHECK(size_ == 0 && pages_.empty());
  for (const PageId page : pages) {
    pages_.push_back(page);
    data_.push_back(pool_->data(page));
  }
  size_ = static_cast<uint32_t>(pages.size()) * kKvPageTokens;
}

absl::Status KvCache::Branch(const KvCache& other) {
  CHECK(other.pool_ == pool_ && other.released_ == 0);
  const uint32_t full = other.size_ / kKvPageTokens;
  std::optional<PageId> last;
  if (other.size_ % kKvPageTokens != 0) {
    last = pool_->Take();
    if (!last) return NoPage(*pool_);
    std::memcpy(pool_->data(*last), other.data_[full], pool_->page_bytes());
  }
  const std::span<const PageId> shared = other.pages().first(full);
  for (const PageId page : shared) pool_->Share(page);
  Adopt(shared);
  if (last) {
    pages_.push_back(*last);
    data_.push_back(pool_->data(*last));
  }
  size_ = other.size_;
  return absl::OkStatus();
}

absl::Status KvCache::Grow(uint32_t rows) {
  // A page that others hold keeps what they need: what follows goes into a copy.
  for (size_t i = size_ / kKvPageTokens; i < pages_.size(); ++i) {
    if (pool_->holders(pages_[i]) == 1) continue;
    const auto page = pool_->Take();
    if (!page) return NoPage(*pool_);
    std::memcpy(pool_->data(*page), data_[i], pool_->page_bytes());
    pool_->Drop(pages_[i]);
    pages_[i] = *page;
    data_[i] = pool_->data(*page);
  }
  while (pages_.size() * kKvPageTokens < uint64_t{size_} + rows) {
    const auto page = pool_->Take();
    if (!page) return NoPage(*pool_);
    pages_.push_back(*page);
    data_.push_back(pool_->data(*page));
  }
  return absl::OkStatus();
}

void KvCache::set_size(uint32_t size) {
  CHECK(size <= pages_.size() * kKvPageTokens);
  size_ = size;
}

void KvCache::Truncate(uint32_t size) {
  CHECK(size <= size_ && (size == 0 || released_ == 0));
  size_ = size;
  while (pages_.size() > KvPool::PagesFor(size)) {
    if (pages_.size() > released_) pool_->Drop(pages_.back());
    pages_.pop_back();
    data_.pop_back();
  }
  if (size == 0) released_ = 0;
}

void KvCache::Release(uint32_t position) {
  CHECK(position <= size_);
  for (; released_ < position / kKvPageTokens; ++released_) {
    pool_->Drop(pages_[released_]);
    data_[released_] = nullptr;
  }
}

KvView KvCache::View(uint32_t layer, uint32_t head) const {
  return {.pages = data_.data(),
          .keys = pool_->KeysAt(layer, head),
          .values = pool_->ValuesAt(layer, head),
          .page_tokens = kKvPageTokens,
          .type = pool_->type()};
}

bool KvCache::Store(const Kernels& kernels, uint32_t layer, uint32_t position, const float* key,
                    const float* value) {
  const uint32_t page = position / kKvPageTokens;
  CHECK(page < pages_.size() && pool_->holders(pages_[page]) == 1);
  std::byte* const rows = data_[page] + position % kKvPageTokens * pool_->row_bytes();
  bool finite = true;
  for (const bool is_value : {false, true}) {
    for (uint32_t head = 0; head < kv_heads_; ++head) {
      std::byte* row =
          rows + (is_value ? pool_->ValuesAt(layer, head) : pool_->KeysAt(layer, head));
      const float* from = (is_value ? value : key) + size_t{head} * head_size_;
      finite = StoreRow(kernels, type(), from, head_size_, row) && finite;
    }
  }
  return finite;
}

}  // namespace tidegate
