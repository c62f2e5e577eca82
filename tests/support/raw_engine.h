// An engine without manners: does the attach handshake by hand and may write whatever it likes into
// the memory that it shares with the store. For tests of what the store survives.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "base/mapping.h"
#include "base/unique_fd.h"
#include "proto/store/v1/control.pb.h"
#include "proto/store/v1/shm_layout.h"
#include "tests/support/test_support.h"

namespace tidegate {

class RawEngine {
 public:
  explicit RawEngine(const std::string& path)
      : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    EXPECT_EQ(::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
        << strerror(errno);
  }

  void Send(const std::string& bytes) const {
    EXPECT_EQ(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  void TrySend(const std::string& bytes) const {  // The store may have hung up already.
    [[maybe_unused]] const ssize_t sent =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  // Receives the answer and maps what came with it.
  store::v1::AttachResponse Receive() {
    char buffer[4096];
    iovec data = {buffer, sizeof(buffer)};
    alignas(cmsghdr) char control[CMSG_SPACE(kAttachDescriptors * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t bytes = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    store::v1::AttachResponse response;
    EXPECT_GT(bytes, 0);
    EXPECT_TRUE(response.ParseFromArray(buffer, static_cast<int>(bytes)));
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    EXPECT_EQ(header != nullptr, response.code() == 0);
    if (header == nullptr) return response;
    int raw[kAttachDescriptors];
    std::memcpy(raw, CMSG_DATA(header), sizeof(raw));
    for (uint32_t i = 0; i < kAttachDescriptors; ++i) fds_[i] = UniqueFd(raw[i]);
    return response;
  }

  store::v1::AttachResponse Attach(uint32_t version = kControlVersion) {
    store::v1::AttachRequest request;
    request.set_protocol_version(version);
    request.set_engine_name("raw");
    Send(request.SerializeAsString());
    store::v1::AttachResponse response = Receive();
    if (response.code() != 0 || !session_fd().valid()) return response;
    auto mapping =
        Mapping::Map(session_fd().get(), response.session_bytes(), Mapping::Access::kReadWrite);
    EXPECT_TRUE(mapping.ok()) << mapping.status();
    session_ = *std::move(mapping);
    return response;
  }

  // True if the store has closed the connection, now or within some seconds.
  bool Closed() const {
    pollfd polled = {socket_.get(), POLLIN, 0};
    char byte;
    return ::poll(&polled, 1, 20000) == 1 && ::recv(socket_.get(), &byte, 1, MSG_DONTWAIT) <= 0;
  }

  const UniqueFd& region_fd() const { return fds_[0]; }
  const UniqueFd& session_fd() const { return fds_[1]; }
  const UniqueFd& kick_fd() const { return fds_[2]; }
  const UniqueFd& pack_fd() const { return fds_[3]; }

  SessionHeader& header() const { return *session_.At<SessionHeader>(0); }
  LeaseHeader& lease(uint32_t i) const { return *session_.At<LeaseHeader>(LeaseOffset(i)); }
  WantedBlock* wanted(uint32_t i) const {
    return session_.At<WantedBlock>(LeaseOffset(i) + sizeof(LeaseHeader));
  }
  std::atomic<uint64_t>* locations(uint32_t i) const {
    return session_.At<std::atomic<uint64_t>>(LeaseOffset(i) + sizeof(LeaseHeader) +
                                              header().max_blocks * sizeof(WantedBlock));
  }

  void Kick() const {
    const uint64_t one = 1;
    EXPECT_EQ(::write(kick_fd().get(), &one, sizeof(one)), 8);
  }
  void Post(const RingEntry& entry) {
    header().ring[submitted_ % kRingEntries] = entry;
    header().submitted.store(++submitted_);
    Kick();
  }
  // Posts, and waits until the store has taken it and everything before.
  bool PostAndWait(const RingEntry& entry) {
    Post(entry);
    return WaitUntil([&] { return header().taken.load() == submitted_; }, std::chrono::seconds(20));
  }
  // The store's verdict on an acquire: its absl::StatusCode, or -1 if none came.
  int Verdict(const RingEntry& entry) {
    Post(entry);
    const LeaseHeader& answer = lease(entry.lease);
    const auto answered = [&] { return answer.granted_serial.load() == entry.serial; };
    if (!WaitUntil(answered, std::chrono::seconds(20))) return -1;
    return static_cast<int>(answer.error_code.load());
  }

 private:
  uint64_t LeaseOffset(uint32_t i) const {
    return header().leases_offset + i * header().lease_stride;
  }

  UniqueFd socket_, fds_[kAttachDescriptors];
  Mapping session_;
  uint32_t submitted_ = 0;
};

}  // namespace tidegate
