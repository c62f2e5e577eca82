#include "engine/kv/kv_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace tidegate {
namespace {

uint32_t WholePages(uint64_t budget_bytes, uint64_t page_bytes) {
  return static_cast<uint32_t>(
      std::min<uint64_t>(budget_bytes / page_bytes, std::numeric_limits<PageId>::max()));
}

}  // namespace

void KvPool::Unmap::operator()(std::byte* memory) const { ::munmap(memory, bytes); }

KvPool::KvPool(const ModelConfig& config, KvType type, uint64_t budget_bytes)
    : kv_heads_(config.kv_heads),
      head_size_(config.head_size),
      type_(type),
      row_bytes_(KvRowBytes(type, config.head_size)),
      page_bytes_(PageBytes(config, type)),
      capacity_(WholePages(budget_bytes, page_bytes_)) {
  CHECK(CheckKvType(type, config.head_size).ok());
}

KvPool::~KvPool() {
  // Sequences and the cache give their pages back first: they point into this memory.
  CHECK(used_ == 0);
}

KvPool KvPool::ForTokens(const ModelConfig& config, KvType type, uint64_t tokens) {
  return KvPool(config, type, PagesFor(tokens) * PageBytes(config, type));
}

uint64_t KvPool::BytesPerToken(const ModelConfig& config, KvType type) {
  return uint64_t{config.layer_count} * 2 * config.kv_heads * KvRowBytes(type, config.head_size);
}

uint64_t KvPool::PageBytes(const ModelConfig& config, KvType type) {
  return kKvPageTokens * BytesPerToken(config, type);
}

size_t KvPool::KeysAt(uint32_t layer, uint32_t head) const {
  return (size_t{layer} * 2 * kv_heads_ + head) * kKvPageTokens * row_bytes_;
}

size_t KvPool::ValuesAt(uint32_t layer, uint32_t head) const {
  return KeysAt(layer, kv_heads_ + head);
}

uint32_t KvPool::available() const {
  const uint32_t held = used_ - cached_only_;
  return capacity_ - std::min(capacity_, held);
}

std::optional<PageId> KvPool::Take() {
  while (used_ >= capacity_) {
    if (cache_ == nullptr || !cache_->DropOne()) return std::nullopt;
  }
  if (free_.empty()) {
    // Not touched here: the kernel gives memory as positions are stored.
    void* const memory =
        ::mmap(nullptr, page_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return std::nullopt;
    if (empty_.empty()) {
      empty_.push_back(static_cast<PageId>(pages_.size()));
      pages_.emplace_back();
    }
    pages_[empty_.back()].memory = {static_cast<std::byte*>(memory), Unmap{page_bytes_}};
    free_.push_back(empty_.back());
    empty_.pop_back();
  }
  const PageId page = free_.back();
  free_.pop_back();
  pages_[page].holders = 1;
  ++used_;
  return page;
}

void KvPool::Share(PageId page) {
  CHECK(pages_[page].holders > 0);
  if (++pages_[page].holders == 2 && pages_[page].cached) --cached_only_;
}

void KvPool::SetCached(PageId page, bool cached) {
  CHECK(pages_[page].holders > 0 && pages_[page].cached != cached);
  pages_[page].cached = cached;
  if (pages_[page].holders == 1) cached_only_ += cached ? 1 : -1;
}

void KvPool::Drop(PageId page) {
  CHECK(pages_[page].holders > 0);
  if (--pages_[page].holders > 0) {
    if (pages_[page].holders == 1 && pages_[page].cached) ++cached_only_;
    return;
  }
  CHECK(!pages_[page].cached);
  --used_;
  free_.push_back(page);
  Trim();
}

void KvPool::Trim() {
  while (!free_.empty() && used_ + free_.size() > capacity_) {
    pages_[free_.back()].memory.reset();
    empty_.push_back(free_.back());
    free_.pop_back();
  }
}

void KvPool::SetBudget(uint64_t bytes) {
  capacity_ = WholePages(bytes, page_bytes_);
  while (used_ > capacity_ && cache_ != nullptr && cache_->DropOne()) {
  }
  Trim();
}

}  // namespace tidegate
