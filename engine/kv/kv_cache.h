// Keys and values of one sequence, for all layers: a list of pages of a KvPool. Pages may be shared
// with other sequences and with the prefix index; what is written goes into pages of its own.
// Owned by the decode thread, which lends it to those of its pool within a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/kernels/kernels.h"
#include "engine/kv/kv_pool.h"

namespace tidegate {

class KvCache {
 public:
  // Empty. `pool` outlives it. context_tokens: what the sequence may grow to as its user sees it,
  // which chooses the rotation of keys in some models (ModelRope).
  KvCache(KvPool* pool, uint32_t context_tokens);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = delete;
  ~KvCache();

  uint32_t context_tokens() const { return context_tokens_; }
  uint32_t size() const { return size_; }  // positions held
  KvType type() const { return pool_->type(); }

  // Begins with full pages that others have computed, whose holds pass over to the sequence.
  // REQUIRES: it is empty and has no pages.
  void Adopt(std::span<const PageId> pages);

  // Begins with all that `other` holds: full pages are shared, the last one is copied if it is not
  // full. RESOURCE_EXHAUSTED if there is no page for the copy: then it stays empty. REQUIRES: it is
  // empty and has no pages, and `other`, of the same pool, has released none.
  absl::Status Branch(const KvCache& other);

  // Room for `rows` more positions in pages that nobody else holds. RESOURCE_EXHAUSTED if the pool
  // has too few; then what there is stays, and a later call goes on from there.
  absl::Status Grow(uint32_t rows);

  // Stores the rotated key and the value of `position`; both [kv_heads, head_size]. False if one of
  // the numbers, as it is stored, is not finite (of kQ8: its scale). Safe to call from several
  // threads for different positions. REQUIRES: there is room (Grow).
  bool Store(const Kernels& kernels, uint32_t layer, uint32_t position, const float* key,
             const float* value);

  // Positions below `size` are complete in every layer. Room behind them stays.
  void set_size(uint32_t size);

  // Forgets what lies behind the first `size` positions and lets go of pages without any.
  // REQUIRES: size <= size(); 0 once pages were released.
  void Truncate(uint32_t size);

  // Lets go of the pages that hold only positions below `position`: no layer looks at them again.
  // REQUIRES: position <= size().
  void Release(uint32_t position);

  // Page i holds positions from i * kKvPageTokens on; the last ones may be room only. The first
  // released() are gone: what stands for them means nothing.
  std::span<const PageId> pages() const { return pages_; }
  uint32_t released() const { return released_; }

  // Where attention finds the keys and values of one head; until the next change of pages.
  KvView View(uint32_t layer, uint32_t head) const;

 private:
  KvPool* const pool_;
  const uint32_t kv_heads_, head_size_, context_tokens_;
  uint32_t size_ = 0;
  uint32_t released_ = 0;  // of pages_, from the front
  std::vector<PageId> pages_;
  std::vector<std::byte*> data_;  // of pages_
};

}  // namespace tidegate
