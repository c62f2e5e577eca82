// Certificates made at test time, with keys on the curve P-256, which are quick to make.
//
// Thread-compatible.
#pragma once

#include <memory>
#include <string>

namespace tidegate {

struct TestCertificate {
  std::string pem = {}, key_pem = {};
};

struct CertificateWish {
  std::string common_name = "test";
  std::string names = "DNS:localhost,IP:127.0.0.1";  // subject alternative names; "": none
  bool expired = false;
};

// An authority of its own, which clients or servers trust by its certificate.
class TestAuthority {
 public:
  TestAuthority();
  ~TestAuthority();
  TestAuthority(const TestAuthority&) = delete;

  const std::string& pem() const;
  TestCertificate Sign(const CertificateWish& wish = {}) const;

 private:
  struct Keys;
  const std::unique_ptr<Keys> keys_;
};

}  // namespace tidegate
