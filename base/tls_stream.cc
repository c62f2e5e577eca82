#include "base/tls_stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

constexpr size_t kPeerNameBytesMax = 64;
constexpr size_t kHashBytes = 16;  // of a name that is not shown

// To a client that speaks in clear. One of gRPC understands it too ("an http1.x server"), and gives
// up at once; an answer in HTTP/2 would be a connection to it, and be tried again and again.
constexpr std::string_view kNeedsTls =
    "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 26\r\n\r\n"
    "this port speaks TLS only\n";

// A socket as OpenSSL reads and writes it. OpenSSL's own would raise SIGPIPE.
int SocketFd(BIO* bio) { return static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio))); }

int WriteSocket(BIO* bio, const char* bytes, int count) {
  BIO_clear_retry_flags(bio);
  const ssize_t sent =
      send(SocketFd(bio), bytes, static_cast<size_t>(count), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(sent);
}

int ReadSocket(BIO* bio, char* bytes, int count) {
  BIO_clear_retry_flags(bio);
  const ssize_t got = recv(SocketFd(bio), bytes, static_cast<size_t>(count), MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
  if (got == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  return static_cast<int>(got);
}

long ControlSocket(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

BIO* NewSocketBio(int fd) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tidegate socket");
    BIO_meth_set_write(made, WriteSocket);
    BIO_meth_set_read(made, ReadSocket);
    BIO_meth_set_ctrl(made, ControlSocket);
    return made;
  }();
  BIO* const bio = BIO_new(method);
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(fd)));
  BIO_set_init(bio, 1);
  return bio;
}

bool IsSafe(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         std::string_view("-._:/@*+").find(c) != std::string_view::npos;
}

std::string CertificateName(const char* kind, std::string_view name) {
  std::string shown = absl::StrCat(kind, ":", std::string(name));
  if (shown.size() <= kPeerNameBytesMax && std::all_of(name.begin(), name.end(), IsSafe)) {
    return shown;
  }
  unsigned char hash[EVP_MAX_MD_SIZE];
  EVP_Digest(name.data(), name.size(), hash, nullptr, EVP_sha256(), nullptr);
  const std::string first(reinterpret_cast<const char*>(hash), kHashBytes);
  return absl::StrCat(kind, "-", absl::BytesToHexString(first));
}

std::string_view TextOf(const ASN1_STRING* text) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
          static_cast<size_t>(ASN1_STRING_length(text))};
}

std::string CommonName(X509* certificate) {
  const X509_NAME* subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at < 0) return "";
  return CertificateName("cn", TextOf(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at))));
}

// See TlsStream::peer_name().
std::string NameOf(X509* certificate) {
  const std::unique_ptr<GENERAL_NAMES, void (*)(GENERAL_NAMES*)> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  for (const auto& [kind, type] : {std::pair("uri", GEN_URI), std::pair("dns", GEN_DNS)}) {
    for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
      const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
      if (name->type == type) return CertificateName(kind, TextOf(name->d.ia5));
    }
  }
  return CommonName(certificate);
}

// Where the certificate was refused, that says more than "certificate verify failed".
std::string WhyFailed(const SSL* ssl, unsigned long error) {
  const char* reason = ERR_reason_error_string(error);
  std::string why = reason == nullptr ? "the client went away" : reason;
  const long verified = SSL_get_verify_result(ssl);
  if (verified != X509_V_OK) absl::StrAppend(&why, ": ", X509_verify_cert_error_string(verified));
  return why;
}

}  // namespace

TlsStream::TlsStream(ssl_st* ssl, int fd, TlsProtocol protocol, std::string client,
                     std::shared_ptr<TlsHandshakes> handshakes)
    : ssl_(ssl),
      fd_(fd),
      protocol_(protocol),
      client_(std::move(client)),
      handshakes_(std::move(handshakes)) {
  BIO* const bio = NewSocketBio(fd);
  SSL_set_bio(ssl_, bio, bio);
  SSL_set_accept_state(ssl_);
}

TlsStream::~TlsStream() {
  EndWriting();
  SSL_free(ssl_);
}

void TlsStream::EndWriting() {
  if (!ready_ || failed_) return;
  ERR_clear_error();
  SSL_shutdown(ssl_);
  ERR_clear_error();
}

TlsStream::Io TlsStream::Fail(const std::string& why) {
  failed_ = true;
  ERR_clear_error();
  if (!ready_) handshakes_->Failed(client_, why);
  return Io::kFailed;
}

TlsStream::Io TlsStream::Outcome(int result) {
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
      return Io::kWantRead;
    case SSL_ERROR_WANT_WRITE:
      return Io::kWantWrite;
    case SSL_ERROR_ZERO_RETURN:
      return Io::kEnd;
    default:
      return Fail(WhyFailed(ssl_, ERR_peek_error()));
  }
}

// A record of TLS never begins with a letter. What has come is taken, or the kernel would answer
// with a reset instead.
TlsStream::Io TlsStream::RefusePlaintext() {
  char request[kRecordBytes];
  [[maybe_unused]] ssize_t moved = recv(fd_, request, sizeof(request), MSG_DONTWAIT);
  moved = send(fd_, kNeedsTls.data(), kNeedsTls.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  shutdown(fd_, SHUT_WR);
  return Fail("the client speaks plaintext");
}

TlsStream::Io TlsStream::Handshake() {
  if (failed_) return Io::kFailed;
  if (!begun_) {
    char first = 0;
    const ssize_t got = recv(fd_, &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Io::kWantRead;
    if (got <= 0) {  // without a word, as probes of ports do
      failed_ = true;
      return Io::kEnd;
    }
    if (absl::ascii_isalpha(static_cast<unsigned char>(first))) {
      return RefusePlaintext();
    }
    begun_ = true;
  }
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  wants_write_ = false;
  if (result != 1) {
    const Io io = Outcome(result);
    wants_write_ = io == Io::kWantWrite;
    return io == Io::kEnd ? Fail("the client went away") : io;
  }
  const unsigned char* chosen = nullptr;
  unsigned int bytes = 0;
  SSL_get0_alpn_selected(ssl_, &chosen, &bytes);
  if (bytes == 0 && protocol_ == TlsProtocol::kHttp2) {
    SSL_shutdown(ssl_);
    return Fail("the client does not ask for HTTP/2 (ALPN h2)");
  }
  if (X509* const certificate = SSL_get0_peer_certificate(ssl_)) peer_name_ = NameOf(certificate);
  ready_ = true;
  handshakes_->Done();
  return Io::kMoved;
}

TlsStream::Io TlsStream::Read(char* to, size_t room, size_t& got) {
  if (failed_) return Io::kFailed;
  ERR_clear_error();
  const int result = SSL_read_ex(ssl_, to, room, &got);
  const Io io = result == 1 ? Io::kMoved : Outcome(result);
  wants_write_ = io == Io::kWantWrite;
  return io;
}

TlsStream::Io TlsStream::Write(const char* from, size_t bytes, size_t& sent) {
  if (failed_) return Io::kFailed;
  ERR_clear_error();
  const int result = SSL_write_ex(ssl_, from, bytes, &sent);
  return result == 1 ? Io::kMoved : Outcome(result);
}

}  // namespace tidegate
