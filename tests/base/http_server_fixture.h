// A server with a few routes, and what its handlers were asked, for tests/base/http_*_test.cc.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/http_server.h"
#include "base/mutex.h"
#include "tests/support/http_client.h"
#include "tests/support/test_support.h"

namespace tidegate {

// More than the kernel buffers for a peer that does not read.
inline constexpr size_t kBigBytes = 6 << 20;
inline constexpr std::chrono::seconds kPatience{10};

inline ListenAddress FreePort(const std::string& host = "127.0.0.1") { return {host, 0, ""}; }

inline std::string Get(const std::string& path, const std::string& headers = "") {
  return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n", headers, "\r\n");
}

class HttpServerTest : public ::testing::Test {
 protected:
  void TearDown() override {
    if (!let_go_.try_wait()) let_go_.count_down();
    server_.reset();  // before what its handlers use
  }

  void StartServer(HttpServerOptions options = {}, const ListenAddress& listen = FreePort()) {
    auto server = HttpServer::Start(listen, Routes(), options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
  }

  HttpClient Connect(int receive_buffer = 0) {
    auto client = HttpClient::Connect(server_->address(), receive_buffer);
    EXPECT_TRUE(client.ok()) << client.status();
    return std::move(client).value();
  }

  // Sends one request over a new connection and gives its answer.
  HttpAnswer Ask(const std::string& request, bool to_head_request = false) {
    HttpClient client = Connect();
    EXPECT_TRUE(client.Send(request).ok());
    const auto answer = client.Read(to_head_request);
    EXPECT_TRUE(answer.ok()) << answer.status() << " for " << request.substr(0, 100);
    return answer.value_or(HttpAnswer{});
  }

  // The reply of the next request for /later, which a test answers itself.
  HttpReply TakeReply() {
    std::optional<HttpReply> reply;
    const auto take = [&] {
      MutexLock lock(mutex_);
      if (replies_.empty()) return false;
      reply.emplace(std::move(replies_.front()));
      replies_.erase(replies_.begin());
      return true;
    };
    EXPECT_TRUE(WaitUntil(take, kPatience));
    return std::move(reply).value();
  }

  std::unique_ptr<HttpServer> server_;
  // The handler of /held has begun; it ends once the latch is down.
  std::atomic<bool> held_ = false;
  std::latch let_go_{1};

 private:
  std::vector<HttpRoute> Routes() {
    return {
        {"GET", "/hello",
         [](const HttpRequest&, HttpReply reply) { reply.Send({.body = "hello"}); }},
        {"GET", "/big",
         [](const HttpRequest&, HttpReply reply) {
           reply.Send({.body = std::string(kBigBytes, 'b')});
         }},
        {"POST", "/echo",
         [](const HttpRequest& request, HttpReply reply) {
           reply.Send(
               {.body = absl::StrCat(request.method, " ", request.path, " ", request.query, " ",
                                     std::string(request.Header("X-Test")), " ", request.body)});
         }},
        {"POST", "/held",
         [this](const HttpRequest&, HttpReply reply) {
           held_ = true;
           let_go_.wait();
           reply.Send({.body = "held"});
         }},
        {"GET", "/later",
         [this](const HttpRequest&, HttpReply reply) {
           MutexLock lock(mutex_);
           replies_.push_back(std::move(reply));
         }},
        {"GET", "/who/*",
         [](const HttpRequest& request, HttpReply reply) {
           reply.Send({.body = absl::StrCat(request.path, " ", request.peer)});
         }},
        {"GET", "/dropped", [](const HttpRequest&, HttpReply) {}},
    };
  }

  Mutex mutex_;
  std::vector<HttpReply> replies_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tidegate
