#include "base/tls.h"

#include <openssl/ssl.h>

#include <atomic>
#include <ctime>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/log_burst.h"
#include "base/mutex.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

std::string_view AlpnOf(TlsProtocol protocol) {
  return protocol == TlsProtocol::kHttp2 ? std::string_view("\2h2")
                                         : std::string_view("\x8http/1.1");
}

// Of the protocols that the client offers, the one that this stream is for (SSL_get_app_data).
int ChooseProtocol(SSL* ssl, const unsigned char** chosen, unsigned char* bytes,
                   const unsigned char* offered, unsigned int offered_bytes, void*) {
  const std::string_view wanted = static_cast<const char*>(SSL_get_app_data(ssl));
  unsigned char* found = nullptr;
  const int result =
      SSL_select_next_proto(&found, bytes, reinterpret_cast<const unsigned char*>(wanted.data()),
                            static_cast<unsigned int>(wanted.size()), offered, offered_bytes);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

std::string UtcDate(int64_t seconds) {
  const time_t time = seconds;
  tm parts = {};
  char text[32] = "";
  gmtime_r(&time, &parts);
  strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

}  // namespace

// What streams, the watching thread and the owner share.
class TlsServer::State final : public TlsHandshakes {
 public:
  State(const TlsOptions& options, std::chrono::milliseconds look_interval)
      : options_(options), look_interval_(look_interval) {}

  // `first`: nothing is counted or logged where it fails.
  absl::Status Load(bool first);
  void StartWatching() {
    thread_ = std::thread([this] { Watch(); });
  }
  void StopWatching();
  std::shared_ptr<SSL_CTX> context() const {
    MutexLock lock(mutex_);
    return context_.ssl;
  }
  TlsStats stats() const;

  void Done() override { ++handshakes_; }
  void Failed(const std::string& client, const std::string& why) override {
    ++handshake_failures_;
    handshake_log_.Warning("no TLS with a client (", client, "): ", why);
  }

 private:
  void Watch();
  // False: watching ends.
  bool AwaitLook();

  const TlsOptions options_;
  const std::chrono::milliseconds look_interval_;
  mutable Mutex load_mutex_;                         // one load at a time; before mutex_
  std::string loaded_ ABSL_GUARDED_BY(load_mutex_);  // fingerprint of what was read last
  mutable Mutex mutex_;
  CondVar changed_;
  TlsContext context_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<uint64_t> reloads_ = 0, reload_failures_ = 0;
  std::atomic<uint64_t> handshakes_ = 0, handshake_failures_ = 0;
  LogBurst handshake_log_;
  std::thread thread_;
};

absl::Status TlsServer::State::Load(bool first) {
  MutexLock loading(load_mutex_);
  loaded_ = FingerprintOfFiles(options_);  // before: what changes meanwhile is seen as a change
  absl::StatusOr<TlsContext> fresh = LoadTlsContext(options_);
  if (!fresh.ok()) {
    if (first) return fresh.status();
    ++reload_failures_;
    LogWarning("the TLS certificate was not reloaded, the old one stays: ",
               std::string(fresh.status().message()));
    return fresh.status();
  }
  SSL_CTX_set_alpn_select_cb(fresh->ssl.get(), ChooseProtocol, nullptr);
  if (!first) ++reloads_;
  const std::string text =
      absl::StrCat("TLS certificate ", first ? "" : "reloaded: ", fresh->subject, ", valid until ",
                   UtcDate(fresh->expiry));
  if (fresh->expiry <= std::time(nullptr)) {
    LogWarning(text, ": it has expired, clients will refuse it");
  } else {
    LogInfo(text);
  }
  MutexLock lock(mutex_);
  context_ = *std::move(fresh);
  return absl::OkStatus();
}

bool TlsServer::State::AwaitLook() {
  MutexLock lock(mutex_);
  if (!stopping_) changed_.WaitFor(mutex_, look_interval_);
  return !stopping_;
}

void TlsServer::State::Watch() {
  std::string last;
  while (AwaitLook()) {
    const std::string now = FingerprintOfFiles(options_);
    const bool at_rest = now == std::exchange(last, now);
    bool changed = false;
    {
      MutexLock lock(load_mutex_);
      changed = now != loaded_;
    }
    if (changed && at_rest) Load(/*first=*/false).IgnoreError();
  }
}

void TlsServer::State::StopWatching() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

TlsStats TlsServer::State::stats() const {
  TlsStats stats = {.reloads = reloads_,
                    .reload_failures = reload_failures_,
                    .handshakes = handshakes_,
                    .handshake_failures = handshake_failures_};
  MutexLock lock(mutex_);
  stats.expiry = context_.expiry;
  return stats;
}

absl::StatusOr<std::shared_ptr<TlsServer>> TlsServer::Create(
    const TlsOptions& options, std::chrono::milliseconds look_interval) {
  auto state = std::make_shared<State>(options, look_interval);
  RETURN_IF_ERROR(state->Load(/*first=*/true));
  state->StartWatching();
  return std::shared_ptr<TlsServer>(new TlsServer(std::move(state)));
}

TlsServer::TlsServer(std::shared_ptr<State> state) : state_(std::move(state)) {}
TlsServer::~TlsServer() { state_->StopWatching(); }

absl::Status TlsServer::Reload() { return state_->Load(/*first=*/false); }

std::unique_ptr<TlsStream> TlsServer::Accept(int fd, TlsProtocol protocol, std::string client) {
  SSL* const ssl = SSL_new(state_->context().get());
  CHECK(ssl != nullptr);  // there is no memory
  SSL_set_app_data(ssl, const_cast<char*>(AlpnOf(protocol).data()));
  return std::make_unique<TlsStream>(ssl, fd, protocol, std::move(client), state_);
}

TlsStats TlsServer::stats() const { return state_->stats(); }

}  // namespace tidegate
