// What stands between the thread that makes tokens and the stream that carries them: decides when
// to write what. No gRPC in here, so that the decisions can be tested alone and under
// ThreadSanitizer.
//
// At most one write is out at a time. What arrives meanwhile is joined into the next one of its
// choice, so a slow client gets fewer and larger messages; when more than a limit waits, the stream
// is aborted. Choices take turns. Exactly one kFinish or kFinishWithResult is returned, after the
// last write and abort are done.
//
// Thread-safe. Every method decides under the lock and returns a move that the caller performs
// after it; a move that is not kNone must be performed.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "engine/generation.h"

namespace tidegate {

class TokenBuffer {
 public:
  enum class Action {
    kNone,
    kWriteStarted,         // write the first event, then WriteDone()
    kWriteTokens,          // write `text`, `ids` and `logprobs` of `choice`, then WriteDone()
    kWriteProgress,        // write `progress`, then WriteDone()
    kWritePromptLogprobs,  // write `ids` and `logprobs` of the prompt from `first` on, then the
                           // same
    kWriteKeepAlive,       // write that there is nothing to write, then WriteDone()
    kWriteResult,          // write `result` of `choice`, then WriteDone(): others go on
    kFinishWithResult,     // write `result` of `choice` as the last event and end the stream well
    kFinish,               // end the stream with `status`
    kAbort,                // the client does not read: cancel its call, then AbortDone()
  };
  struct Move {
    Action action = Action::kNone;
    uint32_t choice = 0;
    std::string text;
    std::vector<TokenId> ids;
    std::vector<TokenLogprobs> logprobs;  // of each of `ids`, or none
    PromptProgress progress;
    uint32_t first = 0;  // index into the prompt
    GenerationResult result;
    absl::Status status;
  };

  explicit TokenBuffer(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // There will be so many choices instead of one. Before all else.
  void Expect(uint32_t choices);

  // Nothing is written before Start(), although tokens may already arrive.
  Move Start();
  // Instead of Start(): the request was turned away.
  Move Reject(absl::Status status);

  // From the producer, in order. Result() is the last of its choice; what comes after it or after
  // the client left is dropped. An error of one ends the stream.
  Move Tokens(std::string_view text, std::span<const TokenId> ids,
              std::span<const TokenLogprobs> logprobs = {}, uint32_t choice = 0);
  // Before all tokens; not counted in what may wait, since requests bound it (kMaxPromptLogprobs).
  // REQUIRES: `first` is the index behind those of the last call.
  Move PromptLogprobs(uint32_t first, std::span<const TokenId> ids,
                      std::span<const TokenLogprobs> logprobs);
  // Replaces one that has not been written; left out when tokens come before it could be.
  Move Progress(const PromptProgress& progress);
  Move Result(const GenerationResult& result, uint32_t choice = 0);

  // Nothing has been written for a while: says so, unless something is about to be.
  Move KeepAlive();

  // From the stream.
  Move WriteDone(bool ok);  // not ok: the client is gone
  Move AbortDone();
  Move ClientGone();  // cancelled, disconnected or past its deadline

  bool client_gone() const;

 private:
  // What waits of one choice.
  struct Pending {
    std::string text;
    std::vector<TokenId> ids;
    std::vector<TokenLogprobs> logprobs;
    size_t logprob_bytes = 0;  // of logprobs
    std::optional<GenerationResult> result;
    bool over = false;  // its result was handed out

    bool has_tokens() const { return !text.empty() || !ids.empty(); }
    size_t bytes() const { return text.size() + ids.size() * sizeof(TokenId) + logprob_bytes; }
  };

  Move Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Writes something of the choice whose turn it is, or of one after it.
  void NextOfChoices(Move& move) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakePromptLogprobs(Move& move) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeTokens(Pending& pending, Move& move) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeResult(Pending& pending, Move& move) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Drops(uint32_t choice) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t limit_bytes_;
  mutable Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;  // the first event was handed out
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool overflow_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  int outstanding_ ABSL_GUARDED_BY(mutex_) =
      0;  // steps handed out and not done: one write, one abort
  std::vector<Pending> choices_ ABSL_GUARDED_BY(mutex_) = std::vector<Pending>(1);
  uint32_t turn_ ABSL_GUARDED_BY(mutex_) = 0;  // index into choices_
  uint32_t over_ ABSL_GUARDED_BY(mutex_) = 0;  // of choices_
  // Of the prompt, from index prompt_first_ on.
  std::vector<TokenId> prompt_ids_ ABSL_GUARDED_BY(mutex_);
  std::vector<TokenLogprobs> prompt_logprobs_ ABSL_GUARDED_BY(mutex_);
  uint32_t prompt_first_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<PromptProgress> progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tidegate
