#include "base/metrics_server.h"

#include <netdb.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/build_info_values.h"
#include "base/process_metrics.h"
#include "base/unique_fd.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace tidegate {
namespace {

// One scrape at a time is the rule; the second thread answers while a slow peer holds the first.
constexpr int kHttpThreads = 2;
// A peer that connects and says nothing must not hold a thread for longer.
constexpr int kRequestTimeoutMs = 5000;

// "127.0.0.1:9464" -> host "127.0.0.1". The HTTP library takes a list of ports with suffixes in the
// same string ("80,443s"), so anything but one host and one number is refused here.
absl::StatusOr<std::string> HostOf(const std::string& address) {
  const auto malformed = [&](std::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(
        "metrics address \"", address, "\": ", std::string(what),
        "; expected a numeric address and a port such as 127.0.0.1:9464 or [::1]:9464"));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return malformed("no host or no port");
  const std::string host = address.substr(0, colon);
  const std::string port_text = address.substr(colon + 1);
  uint32_t port = 0;
  if (port_text.empty() || port_text.find_first_not_of("0123456789") != std::string::npos ||
      !absl::SimpleAtoi(port_text, &port) || port > 65535) {
    return malformed("the port is not a number in [0, 65535]");
  }
  const bool ipv6 = host.front() == '[' && host.back() == ']';
  const std::string digits = ipv6 ? host.substr(1, host.size() - 2) : host;
  if (digits.empty() || digits.find_first_not_of(ipv6 ? "0123456789abcdefABCDEF:."
                                                      : "0123456789.") != std::string::npos) {
    return malformed("the host is not a numeric address");
  }
  return host;
}

void RegisterBuildInfo(prometheus::Registry& registry,
                       const std::map<std::string, std::string>& build_labels) {
  prometheus::Labels labels = {{"version", TIDEGATE_VERSION},
                               {"revision", TIDEGATE_REVISION},
                               {"compiler", TIDEGATE_COMPILER}};
  labels.insert(build_labels.begin(), build_labels.end());
  prometheus::BuildGauge()
      .Name("tidegate_build_info")
      .Help("Always 1; the labels say what is running.")
      .Register(registry)
      .Add(labels, 1.0);
}

// Connects to "HOST:PORT" and hangs up.
void Poke(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) return;
  const UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.valid()) (void)connect(fd.get(), found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Create(
    const std::string& address, const std::map<std::string, std::string>& build_labels) {
  absl::StatusOr<std::string> host = HostOf(address);
  if (!host.ok()) return host.status();

  std::unique_ptr<MetricsServer> server(new MetricsServer);
  try {
    server->exposer_ = std::make_unique<prometheus::Exposer>(std::vector<std::string>{
        "listening_ports", address, "num_threads", std::to_string(kHttpThreads),
        "request_timeout_ms", std::to_string(kRequestTimeoutMs)});
    const auto registry = std::make_shared<prometheus::Registry>();
    RegisterBuildInfo(*registry, build_labels);
    server->RegisterCollectable(registry);
    server->RegisterCollectable(std::make_shared<ProcessMetrics>());
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what(),
                     "; is the port taken, or the address not one of this machine?"));
  }
  const std::vector<int> ports = server->exposer_->GetListeningPorts();
  if (ports.empty()) return absl::UnavailableError(absl::StrCat("not listening on ", address));
  server->port_ = static_cast<uint16_t>(ports.front());
  server->address_ = absl::StrCat(*host, ":", server->port_);
  return server;
}

MetricsServer::~MetricsServer() {
  // The library's accepting thread looks at its stop flag only when a connection comes or 2 s have
  // passed. Connections make it look at once, so that a process stops without that delay.
  std::atomic<bool> stopped = false;
  std::thread waker([&] {
    while (!address_.empty() && !stopped) {
      Poke(address_);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  exposer_.reset();
  stopped = true;
  waker.join();
}

void MetricsServer::RegisterCollectable(std::shared_ptr<prometheus::Collectable> collectable) {
  exposer_->RegisterCollectable(collectable);
  MutexLock lock(mutex_);
  collectables_.push_back(std::move(collectable));
}

std::string MetricsServer::Render() const {
  std::vector<prometheus::MetricFamily> families;
  {
    MutexLock lock(mutex_);
    for (const auto& collectable : collectables_) {
      for (prometheus::MetricFamily& family : collectable->Collect()) {
        families.push_back(std::move(family));
      }
    }
  }
  const prometheus::TextSerializer serializer;
  return static_cast<const prometheus::Serializer&>(serializer).Serialize(families);
}

}  // namespace tidegate
