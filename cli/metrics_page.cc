#include "cli/metrics_page.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/listen_address.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/unique_fd.h"

namespace tidegate {
namespace {

using PageClock = std::chrono::steady_clock;

constexpr size_t kMaxPageBytes = 16 << 20;

absl::Status NoPage(const std::string& address, std::string_view why) {
  return absl::UnavailableError(
      absl::StrCat("no metrics from ", Printable(address), ": ", std::string(why)));
}

// One connection, and until when all of it has to be done.
class PageReader {
 public:
  PageReader(std::string address, PageClock::time_point deadline)
      : address_(std::move(address)), deadline_(deadline) {}

  absl::Status Connect(const ListenAddress& address) {
    if (!address.is_unix()) return ConnectTcp(address);
    sockaddr_un path = {};
    path.sun_family = AF_UNIX;
    if (address.unix_path.size() >= sizeof(path.sun_path)) {
      return NoPage(address_, "the socket's path is too long");
    }
    std::copy(address.unix_path.begin(), address.unix_path.end(), path.sun_path);
    return ConnectTo(AF_UNIX, reinterpret_cast<const sockaddr*>(&path), sizeof(path));
  }

  absl::StatusOr<std::string> Get(const std::string& key) {
    // HTTP/1.0: the body ends where the connection does.
    const std::string shown =
        key.empty() ? "" : absl::StrCat("Authorization: Bearer ", key, "\r\n");
    const std::string head =
        absl::StrCat("GET /metrics HTTP/1.0\r\nHost: tidegate\r\n", shown, "\r\n");
    std::string_view request = head;
    while (!request.empty()) {
      const ssize_t sent = ::send(fd_.get(), request.data(), request.size(), MSG_NOSIGNAL);
      if (sent > 0) {
        request.remove_prefix(static_cast<size_t>(sent));
      } else {
        RETURN_IF_ERROR(WaitUnlessFatal(POLLOUT));
      }
    }
    std::string answer;
    char buffer[16384];
    while (answer.size() <= kMaxPageBytes) {
      const ssize_t got = ::recv(fd_.get(), buffer, sizeof(buffer), 0);
      if (got == 0) return answer;
      if (got > 0) {
        answer.append(buffer, static_cast<size_t>(got));
      } else {
        RETURN_IF_ERROR(WaitUnlessFatal(POLLIN));
      }
    }
    return NoPage(address_, "more than 16 MiB");
  }

 private:
  absl::Status ConnectTcp(const ListenAddress& address) {
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int error =
        ::getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
    if (error != 0) return NoPage(address_, ::gai_strerror(error));
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
    absl::Status status = NoPage(address_, "no such host");
    for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
      status = ConnectTo(at->ai_family, at->ai_addr, at->ai_addrlen);
      if (status.ok()) break;
    }
    return status;
  }

  absl::Status ConnectTo(int family, const sockaddr* address, socklen_t bytes) {
    fd_ = UniqueFd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_.valid()) return NoPage(address_, strerror(errno));
    if (::connect(fd_.get(), address, bytes) == 0) return absl::OkStatus();
    if (errno != EINPROGRESS) return NoPage(address_, strerror(errno));
    RETURN_IF_ERROR(Wait(POLLOUT));
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    return error == 0 ? absl::OkStatus() : NoPage(address_, strerror(error));
  }

  absl::Status WaitUnlessFatal(short event) {
    if (errno == EINTR) return absl::OkStatus();
    return errno == EAGAIN ? Wait(event) : NoPage(address_, strerror(errno));
  }

  absl::Status Wait(short event) {
    pollfd ready = {fd_.get(), event, 0};
    while (true) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - PageClock::now());
      if (left.count() <= 0) return NoPage(address_, "no answer in time");
      const int count = ::poll(&ready, 1, static_cast<int>(left.count()));
      if (count > 0) return absl::OkStatus();
      if (count < 0 && errno != EINTR) return NoPage(address_, strerror(errno));
    }
  }

  const std::string address_;
  const PageClock::time_point deadline_;
  UniqueFd fd_;
};

// How many of `histogram` lie at or below `bound`.
double CountAt(const std::vector<std::pair<double, double>>& histogram, double bound) {
  for (const auto& [upper, count] : histogram) {
    if (upper == bound) return count;
  }
  return 0;
}

}  // namespace

ReadMetrics::ReadMetrics(std::string_view page) {
  while (!page.empty()) {
    const std::string_view line = page.substr(0, page.find('\n'));
    page.remove_prefix(std::min(line.size() + 1, page.size()));
    if (!line.empty() && line.front() != '#') Take(line);
  }
}

// name{label="value",...} value [time]
void ReadMetrics::Take(std::string_view line) {
  const size_t name_end = line.find_first_of("{ ");
  if (name_end == std::string_view::npos) return;
  const std::string name(line.substr(0, name_end));
  Series series;
  size_t at = name_end;
  if (line[at] == '{') {
    ++at;
    while (at < line.size() && line[at] != '}') {
      const size_t equals = line.find("=\"", at);
      if (equals == std::string_view::npos) return;
      std::string value;
      size_t end = equals + 2;
      for (; end < line.size() && line[end] != '"'; ++end) {
        if (line[end] == '\\' && end + 1 < line.size()) ++end;
        value += line[end];
      }
      series.labels[std::string(line.substr(at, equals - at))] = std::move(value);
      at = end + 1;
      if (at < line.size() && line[at] == ',') ++at;
    }
    ++at;
  }
  if (at >= line.size() || line[at] != ' ') return;
  const std::string_view text = line.substr(at + 1);
  const std::string number(text.substr(0, text.find(' ')));
  if (!absl::SimpleAtod(number, &series.value)) return;
  series_[name].push_back(std::move(series));
}

double ReadMetrics::Sum(const std::string& name, const Labels& labels) const {
  const auto found = series_.find(name);
  if (found == series_.end()) return 0;
  double sum = 0;
  for (const Series& series : found->second) {
    const bool matches = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      const auto at = series.labels.find(label.first);
      return at != series.labels.end() && at->second == label.second;
    });
    if (matches) sum += series.value;
  }
  return sum;
}

std::string ReadMetrics::LabelOf(const std::string& name, const std::string& label) const {
  const auto found = series_.find(name);
  if (found == series_.end()) return "";
  for (const Series& series : found->second) {
    const auto at = series.labels.find(label);
    if (series.value != 0 && at != series.labels.end()) return at->second;
  }
  return "";
}

std::vector<std::pair<double, double>> ReadMetrics::Buckets(const std::string& name) const {
  std::map<double, double> counts;
  const auto found = series_.find(name + "_bucket");
  if (found == series_.end()) return {};
  for (const Series& series : found->second) {
    const auto at = series.labels.find("le");
    double bound = 0;
    if (at == series.labels.end() || !absl::SimpleAtod(at->second, &bound)) continue;
    counts[bound] += series.value;
  }
  return {counts.begin(), counts.end()};
}

double HistogramQuantile(const std::vector<std::pair<double, double>>& before,
                         const std::vector<std::pair<double, double>>& after, double share) {
  if (after.empty()) return -1;
  const auto counted = [&](size_t i) { return after[i].second - CountAt(before, after[i].first); };
  const double all = counted(after.size() - 1);
  if (!(all > 0)) return -1;
  const double rank = share * all;
  double low = 0, below = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const double high = after[i].first, count = counted(i);
    if (count < rank || count <= below) {
      below = count;
      low = high;
      continue;
    }
    if (high == std::numeric_limits<double>::infinity()) return low;
    return low + (high - low) * (rank - below) / (count - below);
  }
  return low;
}

absl::StatusOr<std::string> FetchMetrics(const std::string& address,
                                         std::chrono::milliseconds timeout,
                                         const std::string& key) {
  ASSIGN_OR_RETURN(const ListenAddress parsed, ParseServerAddress(address));
  PageReader reader(address, PageClock::now() + timeout);
  RETURN_IF_ERROR(reader.Connect(parsed));
  ASSIGN_OR_RETURN(const std::string answer, reader.Get(key));
  const size_t end = answer.find("\r\n\r\n");
  if (end == std::string::npos || answer.compare(0, 7, "HTTP/1.") != 0) {
    return NoPage(address, "what answers there does not speak plain HTTP");
  }
  const std::string line = answer.substr(0, answer.find('\r'));
  if (line.find(" 200") == std::string::npos) {
    return NoPage(address, absl::StrCat("it says ", Quoted(line)));
  }
  return answer.substr(end + 4);
}

}  // namespace tidegate
