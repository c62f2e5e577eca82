#include "base/http_reply.h"

#include <utility>

#include "base/check.h"

namespace tidegate {

HttpExchange::Output HttpExchange::Take() {
  MutexLock lock(mutex_);
  taken_ = given_;
  return {begun_, streaming_, std::exchange(head_, {}), std::exchange(bytes_, {}), ended_,
          // A stream whose reader has left has no end that anybody waits for.
          aborted_ || (streaming_ && gone_ && !ended_)};
}

void HttpExchange::Give() {
  ++given_;
  if (wake_) wake_();
}

void HttpExchange::OnSent(size_t bytes) {
  std::function<void(bool)> on_sent;
  {
    MutexLock lock(mutex_);
    unsent_bytes_ -= bytes;
    sent_ = taken_;
    if (sent_ == given_) on_sent = std::exchange(on_sent_, nullptr);
  }
  if (on_sent) on_sent(true);
}

bool HttpExchange::aborted() {
  MutexLock lock(mutex_);
  return aborted_;
}

HttpExchange::OnGone HttpExchange::TakeOnGone() {
  gone_ = true;
  OnGone on_gone = {std::exchange(on_gone_, nullptr), false};
  on_gone.owed = on_gone.callback != nullptr && !ended_;
  return on_gone;
}

void HttpExchange::OnPeerLeft() {
  OnGone on_gone;
  {
    MutexLock lock(mutex_);
    on_gone = TakeOnGone();
  }
  if (on_gone.owed) on_gone.callback();
}

void HttpExchange::Disconnect() {
  OnGone on_gone;
  std::function<void(bool)> on_sent;
  {
    MutexLock lock(mutex_);
    wake_ = nullptr;
    bytes_.clear();
    disconnected_ = true;
    on_sent = std::exchange(on_sent_, nullptr);
    on_gone = TakeOnGone();
  }
  if (on_gone.owed) on_gone.callback();
  if (on_sent) on_sent(false);
}

HttpReply& HttpReply::operator=(HttpReply&& other) noexcept {
  if (this != &other) {
    GiveUp();
    exchange_ = std::move(other.exchange_);
  }
  return *this;
}

void HttpReply::Send(HttpResponse response) {
  MutexLock lock(exchange_->mutex_);
  CHECK(!exchange_->begun_);
  exchange_->head_ = std::move(response);
  exchange_->begun_ = exchange_->ended_ = true;
  exchange_->Give();
}

void HttpReply::Begin(HttpResponse head) {
  MutexLock lock(exchange_->mutex_);
  CHECK(!exchange_->begun_);
  exchange_->head_ = std::move(head);
  exchange_->head_.body.clear();
  exchange_->begun_ = exchange_->streaming_ = true;
  exchange_->Give();
}

HttpReply::WriteResult HttpReply::Write(std::string_view bytes) {
  MutexLock lock(exchange_->mutex_);
  CHECK(exchange_->streaming_ && !exchange_->ended_);
  if (exchange_->gone_) return WriteResult::kGone;
  if (bytes.empty()) return WriteResult::kTaken;
  if (exchange_->unsent_bytes_ >= exchange_->max_unsent_bytes_) return WriteResult::kFull;
  const bool known = !exchange_->bytes_.empty();  // to the connection, which comes for them
  exchange_->bytes_.append(bytes);
  exchange_->unsent_bytes_ += bytes.size();
  known ? static_cast<void>(++exchange_->given_) : exchange_->Give();
  return WriteResult::kTaken;
}

void HttpReply::End() {
  MutexLock lock(exchange_->mutex_);
  CHECK(exchange_->streaming_ && !exchange_->ended_);
  exchange_->ended_ = true;
  exchange_->Give();
}

void HttpReply::WhenSent(std::function<void(bool sent)> callback) {
  bool sent = false;
  {
    MutexLock lock(exchange_->mutex_);
    CHECK(exchange_->on_sent_ == nullptr);
    sent = exchange_->sent_ == exchange_->given_;
    if (!sent && !exchange_->disconnected_) {
      exchange_->on_sent_ = std::move(callback);
      return;
    }
  }
  callback(sent);
}

void HttpReply::Abort() {
  MutexLock lock(exchange_->mutex_);
  exchange_->aborted_ = true;
  exchange_->Give();
}

size_t HttpReply::unsent_bytes() const {
  MutexLock lock(exchange_->mutex_);
  return exchange_->unsent_bytes_;
}

void HttpReply::OnGone(std::function<void()> callback) {
  {
    MutexLock lock(exchange_->mutex_);
    if (!exchange_->gone_) {
      exchange_->on_gone_ = std::move(callback);
      return;
    }
    if (exchange_->ended_) return;
  }
  callback();
}

// The handler is through with the request and has not answered, or not to the end.
void HttpReply::GiveUp() {
  if (exchange_ == nullptr) return;
  std::function<void()> on_gone;  // destroyed after the lock, as in TakeOnGone()
  std::function<void(bool)> on_sent;
  {
    MutexLock lock(exchange_->mutex_);
    on_gone.swap(exchange_->on_gone_);
    on_sent.swap(exchange_->on_sent_);
    if (exchange_->ended_) return;
    if (exchange_->begun_) {
      exchange_->aborted_ = true;
    } else {
      exchange_->head_ = {500, "text/plain; charset=utf-8", "no answer\n"};
      exchange_->begun_ = exchange_->ended_ = true;
    }
    exchange_->Give();
  }
  exchange_ = nullptr;
}

}  // namespace tidegate
