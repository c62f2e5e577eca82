#include "engine/kv/prefix_index.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace tidegate {

PrefixIndex::PrefixIndex(KvPool* pool) : pool_(pool) { pool_->set_cache(this); }

PrefixIndex::~PrefixIndex() {
  pool_->set_cache(nullptr);
  for (const auto& [place, entry] : entries_) LetGo(entry.page);
}

void PrefixIndex::LetGo(PageId page) {
  pool_->SetCached(page, false);
  pool_->Drop(page);
}

PrefixIndex::Place PrefixIndex::PlaceOf(const PrefixKey& key, std::span<const TokenId> tokens,
                                        size_t page, uint64_t behind) {
  Place place;
  place.behind = behind;
  if (behind == 0) place.key = key;
  std::ranges::copy(tokens.subspan(page * kKvPageTokens, kKvPageTokens), place.tokens.begin());
  return place;
}

void PrefixIndex::Touch(std::span<const Entries::iterator> path) {
  for (size_t i = path.size(); i > 0; --i) {
    uses_.splice(uses_.end(), uses_, path[i - 1]->second.use);
  }
}

std::vector<PageId> PrefixIndex::Longest(const PrefixKey& key, std::span<const TokenId> tokens) {
  std::vector<Entries::iterator> path;
  uint64_t behind = 0;
  while ((path.size() + 1) * kKvPageTokens < tokens.size()) {
    const auto entry = entries_.find(PlaceOf(key, tokens, path.size(), behind));
    if (entry == entries_.end()) break;
    behind = entry->second.id;
    path.push_back(entry);
  }
  Touch(path);
  std::vector<PageId> pages;
  for (const Entries::iterator entry : path) {
    pages.push_back(entry->second.page);
    pool_->Share(entry->second.page);
  }
  stats_.lookup_tokens += tokens.size();
  stats_.hit_tokens += pages.size() * kKvPageTokens;
  return pages;
}

void PrefixIndex::Add(const PrefixKey& key, std::span<const TokenId> tokens,
                      std::span<const PageId> pages) {
  CHECK(pages.size() * kKvPageTokens <= tokens.size());
  std::vector<Entries::iterator> path;
  uint64_t behind = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    const auto [entry, added] = entries_.try_emplace(PlaceOf(key, tokens, i, behind));
    if (added) {
      pool_->Share(pages[i]);
      pool_->SetCached(pages[i], true);
      entry->second = {.id = ++last_id_,
                       .page = pages[i],
                       .place = &entry->first,
                       .use = uses_.insert(uses_.end(), &entry->second)};
    }
    behind = entry->second.id;
    path.push_back(entry);
  }
  Touch(path);
}

void PrefixIndex::Remove(Entries::iterator entry) {
  std::vector<Entries::iterator> doomed = {entry};
  for (size_t i = 0; i < doomed.size(); ++i) {
    Place behind;  // The smallest that there may be.
    behind.behind = doomed[i]->second.id;
    behind.tokens.fill(std::numeric_limits<TokenId>::min());
    for (auto next = entries_.lower_bound(behind);
         next != entries_.end() && next->first.behind == behind.behind; ++next) {
      doomed.push_back(next);
    }
  }
  for (const Entries::iterator gone : doomed) {
    LetGo(gone->second.page);
    uses_.erase(gone->second.use);
    entries_.erase(gone);
    ++stats_.evicted_pages;
  }
}

bool PrefixIndex::DropOne() {
  const auto oldest = std::ranges::find_if(
      uses_, [&](const Entry* entry) { return pool_->holders(entry->page) == 1; });
  if (oldest == uses_.end()) return false;
  Remove(entries_.find(*(*oldest)->place));
  return true;
}

PrefixStats PrefixIndex::stats() const {
  PrefixStats stats = stats_;
  stats.pages = static_cast<uint32_t>(entries_.size());
  return stats;
}

}  // namespace tidegate
