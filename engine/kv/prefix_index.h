// The prefix cache: which pages of the KV pool hold prompts that were computed before, so that a
// prompt that begins like one of them goes on from there. It knows only full pages of tokens that
// were computed as parts of a prompt with dense MLPs: their bits depend on the tokens up to them
// and on PrefixKey, and on nothing else. Pruned tokens depend on their masks as well.
//
// Pages are found by the tokens themselves, page by page: no hash is trusted. An index belongs to
// one model with its adapters and to one pool. Owned by the decode thread.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/kernels/kernels.h"
#include "engine/kv/kv_pool.h"
#include "engine/kv/prefix_stats.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

// What keys and values depend on besides the tokens, and who may share them.
struct PrefixKey {
  // Clients with different salts share nothing, so that none learns from the time to its first
  // token what another one has asked. Empty: everybody shares.
  std::string salt;
  Precision precision = Precision::kExact;
  bool long_context = false;  // which of ModelRope's tables turned the keys

  auto operator<=>(const PrefixKey&) const = default;
};

class PrefixIndex : public KvPool::Cache {
 public:
  // `pool` outlives it, and asks it for pages when memory is short.
  explicit PrefixIndex(KvPool* pool);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;
  ~PrefixIndex() override;

  // The pages that the prompt begins with, as many as are known; the caller holds them too and
  // passes them to KvCache::Adopt(). Never the whole prompt: its last token has to be computed.
  std::vector<PageId> Longest(const PrefixKey& key, std::span<const TokenId> tokens);

  // Keeps the full pages of a prompt, or of a part of it from its beginning: pages[i] holds tokens
  // [i * kKvPageTokens, (i + 1) * kKvPageTokens). Where the same tokens are known already, the
  // pages that hold them stay. REQUIRES: somebody holds the pages.
  void Add(const PrefixKey& key, std::span<const TokenId> tokens, std::span<const PageId> pages);

  bool DropOne() override;

  PrefixStats stats() const;

 private:
  using PageTokens = std::array<TokenId, kKvPageTokens>;
  // Where an entry lies in the tree of prompts: behind which other one (0: at the beginning, and
  // only there the key says whose), and with which tokens.
  struct Place {
    uint64_t behind = 0;
    PrefixKey key;
    PageTokens tokens{};

    auto operator<=>(const Place&) const = default;
  };
  struct Entry {
    uint64_t id = 0;
    PageId page = 0;
    const Place* place = nullptr;
    std::list<const Entry*>::iterator use;  // in uses_
  };
  using Entries = std::map<Place, Entry>;

  static Place PlaceOf(const PrefixKey& key, std::span<const TokenId> tokens, size_t page,
                       uint64_t behind);
  // The entries were used, each behind the one before it.
  void Touch(std::span<const Entries::iterator> path);
  // With all that lie behind it.
  void Remove(Entries::iterator entry);
  void LetGo(PageId page);

  KvPool* const pool_;
  Entries entries_;
  // By last use, the oldest first. What lies behind an entry was never used later than that, so
  // that prompts are forgotten from their ends.
  std::list<const Entry*> uses_;
  uint64_t last_id_ = 0;
  PrefixStats stats_;
};

}  // namespace tidegate
