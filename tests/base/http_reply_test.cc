#include "base/http_reply.h"

#include <atomic>
#include <string>
#include <thread>

#include "tests/base/http_server_fixture.h"

namespace tidegate::http_reply_test {

using ::testing::HasSubstr;
using ::testing::Not;
using WriteResult = HttpReply::WriteResult;

class HttpReplyTest : public HttpServerTest {
 protected:
  // A client that asked for /later, and the reply it waits for.
  struct Asked {
    HttpClient client;
    HttpReply reply;
  };
  Asked AskLater(const std::string& request = Get("/later"), int receive_buffer = 0) {
    HttpClient client = Connect(receive_buffer);
    EXPECT_TRUE(client.Send(request).ok());
    return {std::move(client), TakeReply()};
  }
};

TEST_F(HttpReplyTest, ComesLaterAndFromAnotherThread) {
  StartServer();
  Asked asked = AskLater();
  std::thread([answer = std::move(asked.reply)]() mutable {
    answer.Send({202, "application/json", "{}", {{"X-Test", "1"}}});
  }).join();
  const auto answer = asked.client.Read();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->code, 202);
  EXPECT_EQ(answer->Header("Content-Type"), "application/json");
  EXPECT_EQ(answer->Header("X-Test"), "1");
  EXPECT_EQ(answer->body, "{}");
}

TEST_F(HttpReplyTest, ForgottenOnesAreErrors) {
  StartServer();
  EXPECT_EQ(Ask(Get("/dropped")).code, 500);
}

TEST_F(HttpReplyTest, StreamsArriveAsTheyAreWritten) {
  StartServer();
  Asked asked = AskLater();
  asked.reply.Begin({200, "text/event-stream"});
  auto head = asked.client.ReadUntil("\r\n\r\n");
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_THAT(*head, HasSubstr("Content-Type: text/event-stream\r\n"));
  for (const std::string event : {"data: 1\n\n", "data: 2\n\n"}) {
    EXPECT_EQ(asked.reply.Write(event), WriteResult::kTaken);
    EXPECT_EQ(asked.client.ReadUntil("\n\n\r\n").value_or("?"), "9\r\n" + event + "\r\n");
  }
  asked.reply.End();
  EXPECT_EQ(asked.client.ReadUntil("\r\n\r\n").value_or("?"), "0\r\n\r\n");
  ASSERT_TRUE(asked.client.Send(Get("/hello")).ok());  // the connection goes on
  EXPECT_EQ(asked.client.Read()->body, "hello");
}

TEST_F(HttpReplyTest, Http10StreamsEndWithTheConnection) {
  StartServer();
  Asked asked = AskLater("GET /later HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  asked.reply.Begin({});
  asked.reply.Write("one ");
  asked.reply.Write("two");
  asked.reply.End();
  const auto answer = asked.client.Read();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->Header("Connection"), "close");
  EXPECT_THAT(answer->head, Not(HasSubstr("Transfer-Encoding")));
  EXPECT_EQ(answer->body, "one two");
}

TEST_F(HttpReplyTest, HeadOfAStreamHasNoBodyAndEndsIt) {
  StartServer();
  Asked asked = AskLater("HEAD /later HTTP/1.1\r\nHost: x\r\n\r\n" + Get("/hello"));
  asked.reply.Begin({});
  const auto head = asked.client.Read(true);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->Header("Transfer-Encoding"), "chunked");
  EXPECT_EQ(asked.client.Read()->body, "hello");
  EXPECT_EQ(asked.reply.Write("x"), WriteResult::kGone);
}

TEST_F(HttpReplyTest, StreamsThatBreakOffAreNotTakenForWhole) {
  StartServer();
  for (const std::string& request : {Get("/later"), std::string("GET /later HTTP/1.0\r\n\r\n")}) {
    HttpClient client = Connect();
    ASSERT_TRUE(client.Send(request).ok());
    {
      HttpReply reply = TakeReply();
      reply.Begin({});
    }
    const auto text = client.ReadToEnd();
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_THAT(*text, Not(HasSubstr("0\r\n\r\n")));
  }
}

TEST_F(HttpReplyTest, WritersLearnThatThePeerDoesNotRead) {
  HttpServerOptions options;
  options.max_unsent_bytes = 100'000;
  StartServer(options);
  Asked asked = AskLater();
  asked.reply.Begin({});
  const std::string piece(50'000, 'p');
  size_t written = 0;
  while (true) {
    const WriteResult result = asked.reply.Write(piece);
    if (result == WriteResult::kFull) break;
    ASSERT_EQ(result, WriteResult::kTaken);
    written += piece.size();
    ASSERT_LT(written, size_t{1} << 30);
  }
  EXPECT_LT(asked.reply.unsent_bytes(), options.max_unsent_bytes + piece.size());
  // Once it reads, the rest goes out and there is room again.
  std::string body;
  std::thread reader([&] { body = asked.client.Read().value_or(HttpAnswer{}).body; });
  EXPECT_TRUE(WaitUntil([&] { return asked.reply.unsent_bytes() == 0; }, kPatience));
  EXPECT_EQ(asked.reply.Write(piece), WriteResult::kTaken);
  asked.reply.End();
  reader.join();
  EXPECT_EQ(body.size(), written + piece.size());
}

TEST_F(HttpReplyTest, WritersLearnWhenWhatTheyGaveIsOut) {
  StartServer();
  Asked asked = AskLater();
  std::atomic<int> sent = 0, lost = 0;
  const auto count = [&](bool ok) { ++(ok ? sent : lost); };
  asked.reply.Begin({});
  asked.reply.WhenSent(count);
  EXPECT_TRUE(WaitUntil([&] { return sent == 1; }, kPatience));
  asked.reply.WhenSent(count);  // nothing is owed
  EXPECT_EQ(sent, 2);
  asked.reply.Write("x");
  asked.reply.Write("");
  asked.reply.WhenSent(count);
  EXPECT_TRUE(WaitUntil([&] { return sent == 3; }, kPatience));
  asked.reply.End();
  asked.reply.WhenSent(count);
  EXPECT_TRUE(WaitUntil([&] { return sent == 4; }, kPatience));
  EXPECT_EQ(asked.client.Read()->body, "x");
  EXPECT_EQ(lost, 0);
}

TEST_F(HttpReplyTest, CallbacksMayHoldTheReply) {
  StartServer();
  for (const bool streams : {true, false}) {
    Asked asked = AskLater();
    auto reply = std::make_shared<HttpReply>(std::move(asked.reply));
    const std::weak_ptr<HttpReply> alive = reply;
    reply->OnGone([reply] {});
    reply->WhenSent([reply](bool) {});
    if (streams) {
      reply->Begin({});
      reply->End();
    } else {
      reply->Send({});
    }
    reply.reset();
    EXPECT_TRUE(asked.client.Read().ok());
    EXPECT_TRUE(WaitUntil([&] { return alive.expired(); }, kPatience));
  }
}

TEST_F(HttpReplyTest, AbortEndsAWriteThatThePeerDoesNotTake) {
  StartServer();
  Asked asked = AskLater(Get("/later"), 4096);
  std::atomic<int> lost = 0, gone = 0;
  asked.reply.OnGone([&] { ++gone; });
  asked.reply.Begin({});
  asked.reply.Write(std::string(kBigBytes, 'p'));
  asked.reply.WhenSent([&](bool ok) { lost += ok ? 0 : 1; });
  asked.reply.Abort();
  EXPECT_TRUE(WaitUntil([&] { return lost == 1 && gone == 1; }, kPatience));
}

TEST_F(HttpReplyTest, WritersLearnThatThePeerHasLeft) {
  StartServer();
  for (const bool politely : {true, false}) {
    Asked asked = AskLater();
    std::atomic<int> gone = 0;
    asked.reply.OnGone([&] { ++gone; });
    asked.reply.Begin({});
    ASSERT_TRUE(asked.client.ReadUntil("\r\n\r\n").ok());
    politely ? asked.client.FinishSending() : asked.client.Abort();
    EXPECT_TRUE(WaitUntil([&] { return gone == 1; }, kPatience));
    EXPECT_EQ(asked.reply.Write("x"), WriteResult::kGone);
    asked.reply.OnGone([&] { ++gone; });
    EXPECT_EQ(gone, 2);
    asked.reply.End();
  }
  EXPECT_TRUE(WaitUntil([&] { return server_->stats().connections == 0; }, kPatience));
}

TEST_F(HttpReplyTest, PeersThatWaitOnlyForTheAnswerGetIt) {
  StartServer();
  Asked asked = AskLater();
  std::atomic<bool> gone = false;
  asked.reply.OnGone([&] { gone = true; });
  asked.client.FinishSending();
  EXPECT_TRUE(WaitUntil([&] { return gone.load(); }, kPatience));
  asked.reply.Send({.body = "late"});
  const auto answer = asked.client.Read();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->body, "late");
}

TEST_F(HttpReplyTest, PeersThatTakeNothingOfAStreamAreDropped) {
  HttpServerOptions options;
  options.write_timeout = std::chrono::milliseconds(50);
  StartServer(options);
  Asked asked = AskLater(Get("/later"), 4096);
  std::atomic<bool> gone = false;
  asked.reply.OnGone([&] { gone = true; });
  asked.reply.Begin({});
  const std::string piece(500'000, 'p');
  EXPECT_TRUE(WaitUntil([&] { return asked.reply.Write(piece) == WriteResult::kGone; }, kPatience));
  EXPECT_TRUE(WaitUntil([&] { return gone.load(); }, kPatience));
}

TEST_F(HttpReplyTest, StopsWithOpenConnectionsAndOutlivesTheServer) {
  StartServer();
  HttpClient idle = Connect();
  Asked waiting = AskLater(), streaming = AskLater(), stuck = AskLater(Get("/later"), 4096);
  HttpReply &late = waiting.reply, &stream = streaming.reply, &full = stuck.reply;
  std::atomic<int> gone = 0;
  for (HttpReply* reply : {&late, &stream, &full}) reply->OnGone([&] { ++gone; });
  stream.Begin({});
  stream.Write("x");
  full.Begin({});
  while (full.Write(std::string(100'000, 'p')) == WriteResult::kTaken) {
  }
  server_.reset();
  EXPECT_EQ(gone, 3);
  for (HttpClient* client : {&idle, &waiting.client})
    EXPECT_EQ(client->ReadToEnd().value_or("?"), "");
  EXPECT_THAT(streaming.client.ReadToEnd().value_or("?"), Not(HasSubstr("0\r\n\r\n")));
  EXPECT_EQ(stream.Write("y"), WriteResult::kGone);
  EXPECT_EQ(full.Write("y"), WriteResult::kGone);
  late.Send({});
}

TEST_F(HttpReplyTest, ManyStreamsAtOnce) {
  HttpServerOptions options;
  options.max_connections = 300;
  StartServer(options);
  std::vector<HttpClient> clients;
  std::vector<HttpReply> replies;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(Connect());
    ASSERT_TRUE(clients.back().Send(Get("/later")).ok());
    replies.push_back(TakeReply());
    replies.back().Begin({});
  }
  EXPECT_EQ(Ask(Get("/hello")).body, "hello");
  std::vector<std::thread> writers;
  for (size_t w = 0; w < 4; ++w) {
    writers.emplace_back([&replies, w] {
      for (int n = 0; n < 5; ++n) {
        for (size_t i = w; i < replies.size(); i += 4) replies[i].Write(absl::StrCat(n, ";"));
      }
      for (size_t i = w; i < replies.size(); i += 4) replies[i].End();
    });
  }
  for (std::thread& writer : writers) writer.join();
  for (HttpClient& client : clients) {
    EXPECT_EQ(client.Read().value_or(HttpAnswer{}).body, "0;1;2;3;4;");
  }
}

}  // namespace tidegate::http_reply_test
