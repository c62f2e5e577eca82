#include "server/access/audit_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

using AuditJson = nlohmann::ordered_json;

constexpr mode_t kAuditMode = 0640;

void AddText(const char* name, const std::string& text, AuditJson& json) {
  if (!text.empty()) json[name] = text;
}

// Whole microseconds: more digits say nothing.
double Rounded(double seconds) { return std::round(seconds * 1e6) / 1e6; }

absl::StatusOr<UniqueFd> OpenAuditFile(const std::string& path) {
  const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY;
  UniqueFd file(path == "-" ? ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)
                            : ::open(path.c_str(), flags, kAuditMode));
  if (file.valid()) return file;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot append to the audit log ", Quoted(path)));
}

}  // namespace

std::string FormatAuditLine(const AuditRecord& record) {
  AuditJson json;
  json["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", record.time, absl::UTCTimeZone());
  json["method"] = record.method;
  AddText("key", record.key, json);
  AddText("peer", record.peer, json);
  json["status"] = record.status;
  AddText("reason", record.reason, json);
  json["seconds"] = Rounded(record.seconds);
  if (record.stream.has_value()) {
    const AuditStream& stream = *record.stream;
    AddText("request_id", stream.request_id, json);
    AddText("model", stream.model, json);
    AddText("finish_reason", stream.finish_reason, json);
    json["prompt_tokens"] = stream.prompt_tokens;
    json["cached_prompt_tokens"] = stream.cached_prompt_tokens;
    json["generated_tokens"] = stream.generated_tokens;
    json["queue_seconds"] = Rounded(stream.queue_seconds);
    json["first_token_seconds"] = Rounded(stream.first_token_seconds);
  }
  return json.dump(-1, ' ', false, AuditJson::error_handler_t::replace) + "\n";
}

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd file, OpenAuditFile(path));
  return std::unique_ptr<AuditLog>(new AuditLog(path, std::move(file)));
}

AuditLog::AuditLog(std::string path, UniqueFd file)
    : path_(std::move(path)), file_(std::make_shared<UniqueFd>(std::move(file))) {
  thread_ = std::thread([this] { Run(); });
}

AuditLog::~AuditLog() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void AuditLog::Write(const AuditRecord& record) {
  const std::string line = FormatAuditLine(record);
  {
    MutexLock lock(mutex_);
    if (pending_.size() + line.size() <= kMaxPendingBytes) {
      pending_ += line;
      ++pending_lines_;
      changed_.NotifyOne();
      return;
    }
  }
  const uint64_t dropped = ++dropped_;
  log_.Warning("the audit log takes lines too slowly: ", dropped, " were dropped so far");
}

absl::Status AuditLog::Reopen() {
  if (path_ == "-") return absl::OkStatus();
  ASSIGN_OR_RETURN(UniqueFd file, OpenAuditFile(path_));
  MutexLock lock(mutex_);
  file_ = std::make_shared<UniqueFd>(std::move(file));
  return absl::OkStatus();
}

void AuditLog::Run() {
  while (true) {
    std::string lines;
    uint64_t count = 0;
    std::shared_ptr<UniqueFd> file;
    {
      MutexLock lock(mutex_);
      while (pending_.empty() && !stop_) changed_.Wait(mutex_);
      if (pending_.empty()) return;
      lines.swap(pending_);
      std::swap(count, pending_lines_);
      file = file_;
    }
    Append(file->get(), std::move(lines), count);
  }
}

void AuditLog::Append(int file, std::string lines, uint64_t count) {
  if (torn_) lines.insert(lines.begin(), '\n');
  size_t done = 0;
  while (done < lines.size()) {
    const ssize_t took = ::write(file, lines.data() + done, lines.size() - done);
    if (took < 0 && errno == EINTR) continue;
    if (took <= 0) {
      torn_ = done > 0 ? lines[done - 1] != '\n' : torn_;
      dropped_ += count;
      log_.Error("cannot write to the audit log ", Quoted(path_), ": ", std::strerror(errno), "; ",
                 dropped_.load(), " lines are lost so far");
      return;
    }
    done += static_cast<size_t>(took);
  }
  torn_ = false;
  written_ += count;
}

}  // namespace tidegate
