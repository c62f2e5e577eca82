// Byte-pair merging of one run of symbols: of all neighbours that have a merge, those with the
// smallest rank are joined first, the leftmost on ties, until nothing merges. Time O(n log n) in
// the symbols of the run, whatever they are. Source: Sennrich et al., arXiv 1508.07909; the heap
// over a linked list is SentencePiece's (arXiv 1808.06226).
//
// Owned by one thread; memory is kept from run to run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace tidegate {

// What two neighbours become.
struct PairMerge {
  uint32_t rank;
  int32_t id;
};

class PairMerger {
 public:
  struct Symbol {
    uint32_t begin;           // bytes from the start of the run
    uint32_t bytes;           // 0: became part of the symbol before it
    uint32_t previous, next;  // indices, kEnd at the ends
    int32_t id;
  };
  // Positions are 32-bit. REQUIRES: no more bytes than this in a run.
  static constexpr uint32_t kMaxRunBytes = 1u << 30;

  bool empty() const { return symbols_.empty(); }

  // Appends a symbol to the run.
  void Add(uint32_t bytes, int32_t id) {
    const uint32_t index = static_cast<uint32_t>(symbols_.size());
    const uint32_t begin = index > 0 ? symbols_.back().begin + symbols_.back().bytes : 0;
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({begin, bytes, index > 0 ? index - 1 : kEnd, kEnd, id});
  }

  // Merges the run, calls put(symbol) for each symbol that is left, and starts the next run.
  // `find(left, right)` returns a const PairMerge* that stays valid, null if the two do not merge.
  template <typename Find, typename Put>
  void Run(const Find& find, const Put& put) {
    if (symbols_.empty()) return;
    for (uint32_t i = 0; i + 1 < symbols_.size(); ++i) Offer(i, find);
    std::make_heap(candidates_.begin(), candidates_.end());
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end());
      const Candidate best = candidates_.back();
      candidates_.pop_back();
      Join(best, find);
    }
    for (uint32_t i = 0; i != kEnd; i = symbols_[i].next) put(symbols_[i]);
    symbols_.clear();
  }

 private:
  static constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

  // A symbol and its right neighbour might become one of `bytes` bytes.
  struct Candidate {
    uint32_t rank, left, bytes;
    int32_t id;
    // std::push_heap puts the largest on top.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  // Whether there is a new candidate, which is the last and not yet in the heap.
  template <typename Find>
  bool Offer(uint32_t left, const Find& find) {
    if (left == kEnd || symbols_[left].next == kEnd) return false;
    const Symbol& right = symbols_[symbols_[left].next];
    const PairMerge* merge = find(symbols_[left], right);
    if (merge == nullptr) return false;
    candidates_.push_back({merge->rank, left, symbols_[left].bytes + right.bytes, merge->id});
    return true;
  }

  template <typename Find>
  void Push(uint32_t left, const Find& find) {
    if (Offer(left, find)) std::push_heap(candidates_.begin(), candidates_.end());
  }

  template <typename Find>
  void Join(const Candidate& best, const Find& find) {
    Symbol& left = symbols_[best.left];
    if (left.bytes == 0 || left.next == kEnd) return;
    Symbol& right = symbols_[left.next];
    // Boundaries only disappear: other lengths mean that one side has grown since.
    if (left.bytes + right.bytes != best.bytes) return;
    left.bytes = best.bytes;
    left.id = best.id;
    left.next = right.next;
    right.bytes = 0;
    if (left.next != kEnd) symbols_[left.next].previous = best.left;
    Push(left.previous, find);
    Push(best.left, find);
  }

  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;  // a heap
};

}  // namespace tidegate
