// Memory of the keys and values of all sequences, in pages under one budget. A page holds
// kKvPageTokens positions of one sequence in all layers, 4 MiB in an 8B shape at f16, 2.1 MiB at
// q8. Sequences that begin alike may hold the same page: it lives as long as somebody holds it, and
// nobody writes to a page that others hold. Owned by the decode thread.
//
// Within a page, rows of one layer and one key/value head lie together: first the keys
// [kKvPageTokens, head_size], and those of all heads before the values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/kernels/kernels.h"
#include "engine/model_config.h"
#include "proto/store/v1/defaults.h"

namespace tidegate {

using PageId = uint32_t;  // small numbers, used again

class KvPool {
 public:
  // Somebody who holds pages only because they may be of use again: the prefix index.
  class Cache {
   public:
    virtual ~Cache() = default;
    // Drops the page of least use that nobody else holds. False: there is none.
    virtual bool DropOne() = 0;
  };

  // `budget_bytes` become so many whole pages. Memory is taken when a page is, and kept.
  // REQUIRES: CheckKvType(type, config.head_size), here and below.
  KvPool(const ModelConfig& config, KvType type, uint64_t budget_bytes);
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;
  ~KvPool();

  // Just enough for `tokens` positions of one sequence.
  static KvPool ForTokens(const ModelConfig& config, KvType type, uint64_t tokens);

  // Bytes of one position and of a page.
  static uint64_t BytesPerToken(const ModelConfig& config, KvType type);
  static uint64_t PageBytes(const ModelConfig& config, KvType type);
  static uint64_t PagesFor(uint64_t tokens) { return (tokens + kKvPageTokens - 1) / kKvPageTokens; }

  // A page of arbitrary contents with one holder: a free one, else the one of least use that only
  // the cache holds. Nothing: every page is in use, or the system has no memory left.
  std::optional<PageId> Take();
  void Share(PageId page);  // one holder more
  void Drop(PageId page);   // one holder less; the last one frees the page
  uint32_t holders(PageId page) const { return pages_[page].holders; }
  // Whether the cache is one of the holders: it says so when it shares a page and before it drops
  // one.
  void SetCached(PageId page, bool cached);

  // Takes effect at once as far as pages are free or only the cache holds them, and then as they
  // come free. What is beyond it goes back to the system.
  void SetBudget(uint64_t bytes);

  // Not owned; null: none. It asks to be forgotten before it goes.
  void set_cache(Cache* cache) { cache_ = cache; }

  KvType type() const { return type_; }
  uint64_t page_bytes() const { return page_bytes_; }
  uint32_t capacity() const { return capacity_; }        // pages of the budget
  uint32_t used() const { return used_; }                // pages that somebody holds
  uint32_t cached_only() const { return cached_only_; }  // of these, only the cache
  // Pages that Take() would give, one call after the other.
  uint32_t available() const;

  std::byte* data(PageId page) const { return pages_[page].memory.get(); }
  // Where the rows of one key/value head begin in a page, bytes.
  size_t KeysAt(uint32_t layer, uint32_t head) const;
  size_t ValuesAt(uint32_t layer, uint32_t head) const;
  size_t row_bytes() const { return row_bytes_; }
  uint32_t kv_heads() const { return kv_heads_; }
  uint32_t head_size() const { return head_size_; }

 private:
  struct Unmap {
    uint64_t bytes;
    void operator()(std::byte* memory) const;
  };
  struct Page {
    std::unique_ptr<std::byte, Unmap> memory;  // null: given back
    uint32_t holders = 0;
    bool cached = false;
  };

  // Gives the memory of free pages back until no more than the budget is taken.
  void Trim();

  const uint32_t kv_heads_, head_size_;
  const KvType type_;
  const size_t row_bytes_;
  const uint64_t page_bytes_;
  uint32_t capacity_ = 0;
  uint32_t used_ = 0, cached_only_ = 0;
  Cache* cache_ = nullptr;
  std::vector<Page> pages_;
  std::vector<PageId> free_;   // with memory, without holders
  std::vector<PageId> empty_;  // without memory
};

}  // namespace tidegate
