// Accepts engines on a Unix socket, checks who they are, hands out descriptors, notices when they
// go. Runs its own thread. Knows sockets only: what a session is, its delegate decides.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/log_burst.h"
#include "base/shutdown.h"
#include "base/unique_fd.h"
#include "proto/store/v1/control.pb.h"

namespace tidegate {

// What an accepted engine is given.
struct AttachGrant {
  uint32_t session = 0;
  int region_fd = -1, session_fd = -1, kick_fd = -1, pack_fd = -1;  // not owned
  uint64_t region_bytes = 0, session_bytes = 0;
};

class AttachDelegate {
 public:
  virtual ~AttachDelegate() = default;
  // Called on the attach thread.
  virtual absl::StatusOr<AttachGrant> OnAttach(const store::v1::AttachRequest& request) = 0;
  virtual void OnDetach(uint32_t session) = 0;
  virtual void OnRefused() = 0;
};

class AttachServer {
 public:
  // Listens on `path` (mode 0660; 0666 if `allowed_uids` names other users). A socket file that
  // nobody answers is replaced; a live one is ALREADY_EXISTS. Peers must run as this user, root or
  // one of `allowed_uids`.
  static absl::StatusOr<std::unique_ptr<AttachServer>> Create(const std::string& path,
                                                              std::vector<uint32_t> allowed_uids,
                                                              AttachDelegate* delegate);
  ~AttachServer();  // Stop()

  void Start();
  // Closes every connection (engines see it at once) and removes the socket.
  void Stop();

 private:
  struct Peer {
    UniqueFd socket;
    bool attached = false;
    uint32_t session = 0;
  };

  AttachServer(std::string path, std::vector<uint32_t> allowed_uids, AttachDelegate* delegate);
  void Run();
  void AcceptPeer();
  bool HandlePeer(Peer& peer);  // false: close it
  absl::Status CheckPeer(int fd) const;
  void Refuse(int fd, const absl::Status& why);

  const std::string path_;
  const std::vector<uint32_t> allowed_uids_;
  AttachDelegate* const delegate_;
  UniqueFd listener_, wake_;
  RemovedAtEnd removed_at_end_;  // the socket
  LogBurst refused_log_;
  std::map<int, Peer> peers_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace tidegate
