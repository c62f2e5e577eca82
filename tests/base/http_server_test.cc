#include "base/http_server.h"

#include <sys/resource.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/base/http_server_fixture.h"

namespace tidegate::http_server_test {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(HttpServerTest, AnswersOverIpv4Ipv6AndUnixSockets) {
  TempDir folder;
  for (const ListenAddress& listen :
       {FreePort(), FreePort("::1"), ListenAddress{"", 0, folder.File("http.sock")}}) {
    StartServer({}, listen);
    const HttpAnswer answer = Ask(Get("/hello"));
    EXPECT_EQ(answer.code, 200) << listen.ToString();
    EXPECT_EQ(answer.body, "hello") << listen.ToString();
    EXPECT_EQ(server_->address().host, listen.host);
    EXPECT_EQ(server_->address().port != 0, !listen.is_unix());
  }
  server_.reset();
  EXPECT_FALSE(FileExists(folder.File("http.sock")));
}

TEST_F(HttpServerTest, TakenAddressIsNamedAndFreeAfterDestruction) {
  StartServer();
  const ListenAddress taken = server_->address();
  const auto second = HttpServer::Start(taken, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken.ToString()));
  HttpClient open = Connect();
  server_.reset();
  EXPECT_TRUE(HttpServer::Start(taken, {}).ok());
}

TEST_F(HttpServerTest, OneConnectionServesManyRequests) {
  StartServer();
  HttpClient client = Connect();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send(Get("/hello")).ok());
    const auto answer = client.Read();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->body, "hello");
    EXPECT_EQ(answer->Header("Connection"), "");
    EXPECT_EQ(answer->Header("Content-Type"), "text/plain; charset=utf-8");
    EXPECT_NE(answer->Header("Date"), "");
  }
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  StartServer();
  HttpClient client = Connect();
  std::string requests;
  for (int i = 0; i < 50; ++i) {
    absl::StrAppend(&requests, "POST /echo?", i,
                    " HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", Get("/nothing"));
  }
  ASSERT_TRUE(client.Send(requests).ok());
  client.FinishSending();  // what was asked is answered all the same
  for (int i = 0; i < 50; ++i) {
    const auto echo = client.Read();
    ASSERT_TRUE(echo.ok()) << i << ": " << echo.status();
    EXPECT_EQ(echo->body, absl::StrCat("POST /echo ", i, "  abc"));
    const auto missing = client.Read();
    ASSERT_TRUE(missing.ok()) << i << ": " << missing.status();
    EXPECT_EQ(missing->code, 404);
  }
  EXPECT_EQ(client.ReadToEnd().value_or("?"), "");
}

TEST_F(HttpServerTest, ClosesWhereThePeerAsksForIt) {
  StartServer();
  for (const char* request : {"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                              "GET /hello HTTP/1.0\r\n\r\n",
                              "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}) {
    HttpClient client = Connect();
    ASSERT_TRUE(client.Send(request).ok());
    const auto answer = client.Read();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->Header("Connection"), "close") << request;
    EXPECT_EQ(client.ReadToEnd().value_or("?"), "") << request;
  }
}

TEST_F(HttpServerTest, Http10PeersMayKeepTheConnection) {
  StartServer();
  HttpClient client = Connect();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(client.Send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").ok());
    const auto answer = client.Read();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->Header("Connection"), "keep-alive");
  }
}

TEST_F(HttpServerTest, HeadGivesTheHeadersOfGetAndNoBody) {
  StartServer();
  HttpClient client = Connect();
  for (const auto& [path, code, length] :
       {std::tuple{"/hello", 200, "5"}, {"/nothing", 404, "10"}}) {
    const std::string request = absl::StrCat("HEAD ", path, " HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_TRUE(client.Send(request + Get("/hello")).ok());
    const auto head = client.Read(true);
    ASSERT_TRUE(head.ok()) << head.status();
    EXPECT_EQ(head->code, code);
    EXPECT_EQ(head->Header("Content-Length"), length);
    const auto get = client.Read();  // fails if there was a body
    ASSERT_TRUE(get.ok()) << get.status();
    EXPECT_EQ(get->body, "hello");
  }
}

TEST_F(HttpServerTest, UnknownPathsAndMethods) {
  StartServer();
  EXPECT_EQ(Ask(Get("/etc/passwd")).code, 404);
  EXPECT_EQ(Ask(Get("/../hello")).code, 404);
  EXPECT_EQ(Ask(Get("/hello/")).code, 404);
  EXPECT_EQ(Ask(Get("/%68ello?x=1")).code, 200);
  EXPECT_EQ(Ask(Get("http://elsewhere/hello")).code, 200);
  const HttpAnswer answer = Ask("DELETE /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n");
  EXPECT_EQ(answer.code, 405);
  EXPECT_EQ(answer.Header("Allow"), "GET, HEAD");
  EXPECT_EQ(answer.Header("Connection"), "close");  // its body is not waited for
  EXPECT_EQ(Ask(Get("/echo")).Header("Allow"), "POST");
}

TEST_F(HttpServerTest, MalformedRequestsAreRefusedAndTheConnectionEnds) {
  StartServer();
  const struct {
    const char* request;
    int code;
  } kCases[] = {
      {"nonsense\r\n\r\n", 400},
      {"GET /hello\r\n\r\n", 400},
      {"GET /hello HTTP/2.0\r\nHost: x\r\n\r\n", 505},
      {"GET /hello HTTP/1.1\r\n\r\n", 400},
      {"GET /hello HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
      {"GET /hello HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", 400},
      {"GET /hello HTTP/1.1\r\nHost: x\r\nA: \x01\r\n\r\n", 400},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"GET /a%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"CONNECT host:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
       400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: more\r\nContent-Length: 1\r\n\r\n", 417},
  };
  for (const auto& c : kCases) {
    HttpClient client = Connect();
    ASSERT_TRUE(client.Send(absl::StrCat(c.request, Get("/hello"))).ok());
    const auto answer = client.Read();
    ASSERT_TRUE(answer.ok()) << c.request << answer.status();
    EXPECT_EQ(answer->code, c.code) << c.request << answer->body;
    EXPECT_EQ(answer->Header("Connection"), "close") << c.request;
    EXPECT_EQ(client.ReadToEnd().value_or("?"), "") << c.request;
  }
}

TEST_F(HttpServerTest, LargeHeadsAndBodiesAreRefused) {
  HttpServerOptions options;
  options.max_head_bytes = 4096;
  options.max_body_bytes = 10'000;
  StartServer(options);
  EXPECT_EQ(Ask(Get("/hello", absl::StrCat("A: ", std::string(3000, 'a'), "\r\n"))).code, 200);
  EXPECT_EQ(Ask(Get("/hello", absl::StrCat("A: ", std::string(9000, 'a'), "\r\n"))).code, 431);
  EXPECT_EQ(Ask(Get("/" + std::string(9000, 'a'))).code, 431);
  EXPECT_EQ(Ask("GET /" + std::string(9000, 'a')).code, 431);  // it need not end

  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\n";
  const std::string body(10'000, 'b');
  const HttpAnswer most = Ask(absl::StrCat(post, "Content-Length: 10000\r\n\r\n", body));
  EXPECT_EQ(most.code, 200);
  EXPECT_THAT(most.body, ::testing::EndsWith(" " + body));
  EXPECT_EQ(Ask(absl::StrCat(post, "Content-Length: 10001\r\n\r\n")).code, 413);
  const std::string chunked = absl::StrCat(post, "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(Ask(absl::StrCat(chunked, "2710\r\n", body, "\r\n1\r\nb\r\n0\r\n\r\n")).code, 413);
  EXPECT_EQ(Ask(absl::StrCat(chunked, "1;", std::string(9000, 'x'))).code, 400);
}

TEST_F(HttpServerTest, BodiesTogetherAreBounded) {
  HttpServerOptions options;
  options.max_total_body_bytes = 50'000;
  StartServer(options);
  const auto post = [](size_t bytes) {
    return absl::StrCat("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: ", bytes, "\r\n\r\n",
                        std::string(bytes, 'b'));
  };
  HttpClient refused = Connect();  // stays: what it had must not count any more
  ASSERT_TRUE(refused.Send(post(80'000)).ok());
  EXPECT_EQ(refused.Read()->code, 503);
  for (int i = 0; i < 3; ++i) {
    // A share ends with its handler, which may be a moment after the answer.
    EXPECT_TRUE(WaitUntil([&] { return Ask(post(40'000)).code == 200; }, kPatience));
  }
}

TEST_F(HttpServerTest, BodiesInHandlersCountToo) {
  HttpServerOptions options;
  options.max_total_body_bytes = 100'000;
  StartServer(options);
  const auto post = [](const char* path) {
    return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\nContent-Length: 80000\r\n\r\n",
                        std::string(80'000, 'b'));
  };
  HttpClient first = Connect();
  ASSERT_TRUE(first.Send(post("/held")).ok());
  ASSERT_TRUE(WaitUntil([&] { return held_.load(); }, kPatience));
  EXPECT_EQ(Ask(post("/echo")).code, 503);
  let_go_.count_down();
  EXPECT_EQ(first.Read()->code, 200);
  // Its share ends with its handler, which may be a moment after its answer.
  EXPECT_TRUE(WaitUntil([&] { return Ask(post("/echo")).code == 200; }, kPatience));
}

TEST_F(HttpServerTest, RefusalsMayHaveAnotherShape) {
  HttpServerOptions options;
  options.on_refusal = [](HttpResponse& refusal, std::string_view origin) {
    refusal.body = absl::StrCat(refusal.code, " for ", std::string(origin));
  };
  StartServer(options);
  EXPECT_EQ(Ask(Get("/none", "Origin: http://o\r\n")).body, "404 for http://o");
  EXPECT_EQ(Ask("nonsense\r\n\r\n").body, "400 for ");
}

TEST_F(HttpServerTest, HandlersLearnWhoAsks) {
  StartServer();
  EXPECT_EQ(Ask(Get("/who/am/i")).body, "/who/am/i 127.0.0.1");
  EXPECT_EQ(Ask(Get("/who/")).code, 404);
}

TEST_F(HttpServerTest, BodiesArriveInPieces) {
  StartServer();
  const std::string request =
      "POST /%65cho?q=%20 HTTP/1.1\r\nHost: x\r\nx-test: v\r\nTransfer-Encoding: chunked\r\n\r\n"
      "3;extension\r\nabc\r\n4\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n";
  HttpClient client = Connect();
  for (const char byte : request) ASSERT_TRUE(client.Send(std::string(1, byte)).ok());
  const auto answer = client.Read();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->body, "POST /echo q=%20 v abcdefg");
}

TEST_F(HttpServerTest, PeersThatHoldBackABodyAreToldToSendIt) {
  StartServer();
  HttpClient client = Connect();
  const std::string head = "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
  ASSERT_TRUE(client.Send(head + "Content-Length: 2\r\n\r\n").ok());
  const auto go_on = client.Read();
  ASSERT_TRUE(go_on.ok()) << go_on.status();
  EXPECT_EQ(go_on->code, 100);
  ASSERT_TRUE(client.Send("ok").ok());
  EXPECT_EQ(client.Read()->body, "POST /echo   ok");
  EXPECT_EQ(Ask(head + "Content-Length: 2000000\r\n\r\n").code, 413);
}

TEST_F(HttpServerTest, PeersThatAreTooSlowToAskAreClosed) {
  HttpServerOptions options;
  options.head_timeout = milliseconds(500);
  StartServer(options);
  HttpClient silent = Connect(), partial = Connect();
  ASSERT_TRUE(partial.Send("GET /hello HT").ok());
  EXPECT_EQ(silent.ReadToEnd().value_or("?"), "");
  EXPECT_EQ(partial.Read().value_or(HttpAnswer{}).code, 408);

  options = {};
  options.idle_timeout = options.body_timeout = milliseconds(50);
  StartServer(options);
  EXPECT_EQ(Ask("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na").code, 408);
  HttpClient kept = Connect();
  ASSERT_TRUE(kept.Send(Get("/hello")).ok());
  EXPECT_EQ(kept.Read()->code, 200);
  EXPECT_EQ(kept.ReadToEnd().value_or("?"), "");
}

TEST_F(HttpServerTest, IdlePeersMakeRoomForThoseThatAsk) {
  HttpServerOptions options;
  options.max_connections = 4;
  options.head_timeout = options.idle_timeout = std::chrono::hours(1);
  StartServer(options);
  HttpClient kept = Connect();
  ASSERT_TRUE(kept.Send(Get("/hello")).ok());
  EXPECT_EQ(kept.Read()->code, 200);
  std::vector<HttpClient> idle;
  for (int i = 0; i < 20; ++i) {
    idle.push_back(Connect());
    const bool silent = i % 2 == 0;
    ASSERT_TRUE(idle.back().Send(silent ? "" : "GET /he").ok());
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Ask(Get("/hello")).body, "hello");
  EXPECT_LE(server_->stats().connections, 4u);
  EXPECT_GE(server_->stats().connections_shed, 17u);
  EXPECT_EQ(kept.ReadToEnd().value_or("?"), "");  // it had been idle longest
}

TEST_F(HttpServerTest, WithoutAnIdlePeerNewOnesAreRefused) {
  HttpServerOptions options;
  options.max_connections = 2;
  StartServer(options);
  HttpClient first = Connect(), second = Connect();
  ASSERT_TRUE(first.Send(Get("/later")).ok() && second.Send(Get("/later")).ok());
  HttpReply one = TakeReply(), two = TakeReply();
  EXPECT_THAT(Connect().ReadToEnd().value_or("?"), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(server_->stats().connections, 2u);
  EXPECT_EQ(server_->stats().connections_shed, 1u);
  one.Send({.body = "late"});
  two.Send({.body = "late"});
  EXPECT_EQ(first.Read()->body, "late");
  EXPECT_EQ(second.Read()->body, "late");
  EXPECT_EQ(Ask(Get("/hello")).code, 200);
}

TEST_F(HttpServerTest, PeersThatDoNotReadKeepNobodyWaiting) {
  HttpServerOptions options;
  options.max_connections = 4;
  options.write_timeout = std::chrono::hours(1);
  StartServer(options);
  std::vector<HttpClient> lazy;
  for (int i = 0; i < 6; ++i) {
    lazy.push_back(Connect(i < 5 ? 4096 : 0));
    ASSERT_TRUE(lazy.back().Send(Get("/big")).ok());
    EXPECT_EQ(Ask(Get("/hello")).body, "hello");
  }
  const auto whole = lazy.back().Read();
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->body.size(), kBigBytes);
}

TEST_F(HttpServerTest, PeersThatDoNotReadAreDropped) {
  HttpServerOptions options;
  options.write_timeout = milliseconds(50);
  StartServer(options);
  HttpClient lazy = Connect(4096);
  ASSERT_TRUE(lazy.Send(Get("/big")).ok());
  EXPECT_EQ(Ask(Get("/hello")).body, "hello");  // the other one was accepted before
  ASSERT_TRUE(WaitUntil([&] { return server_->stats().connections == 0; }, kPatience));
  EXPECT_LT(lazy.ReadToEnd()->size(), kBigBytes);
}

TEST_F(HttpServerTest, MoreConnectionsThanDescriptors) {
  StartServer();
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {60, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<HttpClient> clients;
  while (true) {
    auto client = HttpClient::Connect(server_->address());
    if (!client.ok()) break;
    clients.push_back(std::move(client).value());
  }
  ASSERT_GT(clients.size(), 10u);
  // The clients are of this process, too, and may have got every descriptor that the server freed.
  clients.erase(clients.begin(), clients.begin() + 3);
  ASSERT_TRUE(clients.back().Send(Get("/hello")).ok());
  EXPECT_EQ(clients.back().Read().value_or(HttpAnswer{}).body, "hello");
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(Ask(Get("/hello")).body, "hello");
}

TEST_F(HttpServerTest, ManyPeersAtOnce) {
  StartServer();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this] {
      for (int i = 0; i < 20; ++i) {
        HttpClient client = Connect();
        ASSERT_TRUE(client.Send(Get("/hello") + Get("/later", "Connection: close\r\n")).ok());
        EXPECT_EQ(client.Read().value_or(HttpAnswer{}).body, "hello");
        TakeReply().Send({.body = "late"});
        EXPECT_EQ(client.Read().value_or(HttpAnswer{}).body, "late");
        if (i % 4 == 0) client.Abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(WaitUntil([&] { return server_->stats().connections == 0; }, kPatience));
}

}  // namespace tidegate::http_server_test
