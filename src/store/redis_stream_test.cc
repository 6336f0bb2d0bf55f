#include "store/redis_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <string>
#include <string_view>

#include "store/redis_process_test.h"

namespace shadowserve {
namespace {

constexpr int kWaitMs = 5000;

bool Readable(int fd) {
  pollfd event = {fd, POLLIN, 0};
  return poll(&event, 1, kWaitMs) == 1;
}

StreamResult ReceiveInto(RedisStream* stream, std::span<char> place) {
  iovec where = {place.data(), place.size()};
  return stream->Receive(std::span(&where, 1));
}

// A reader that stops amid a record has to come back by itself: epoll knows nothing of the rest.
TEST(TlsStream, TellsOfTheRestOfARecordAfterItWaitedForOne) {
  SS_NEEDS_REDIS();
  const TempDir dir;
  if (!MakeCertificates(dir.path(), "IP:127.0.0.1")) GTEST_SKIP() << "no openssl program";
  RedisProcess redis(TlsArguments(dir.path()), true);
  const std::string file = dir.path() + "/";
  Result<std::unique_ptr<TlsContext>> tls =
      MakeTlsContext({file + "ca.crt", file + "client.crt", file + "client.key", ""});
  ASSERT_TRUE(tls.ok()) << tls.status().ToString();
  const UniqueFd fd = Connect(redis.tls_port());
  ASSERT_TRUE(fd.valid());
  ASSERT_EQ(fcntl(fd.get(), F_SETFL, O_NONBLOCK), 0);
  Result<std::unique_ptr<RedisStream>> made = (*tls)->MakeStream(fd.get(), "127.0.0.1");
  ASSERT_TRUE(made.ok()) << made.status().ToString();
  RedisStream& stream = **made;
  while (true) {
    const StreamResult shaken = stream.Handshake();
    ASSERT_NE(shaken.state, StreamState::kClosed) << stream.Error();
    if (shaken.state == StreamState::kDone) break;
    ASSERT_TRUE(Readable(fd.get()));
  }
  std::array<char, 64> place;
  ASSERT_EQ(ReceiveInto(&stream, place).state, StreamState::kWouldBlock);
  EXPECT_FALSE(stream.HasBuffered());

  const std::string_view command = "*2\r\n$4\r\nECHO\r\n$20\r\nabcdefghijklmnopqrst\r\n";
  const std::string_view reply = "$20\r\nabcdefghijklmnopqrst\r\n";
  const iovec piece = {const_cast<char*>(command.data()), command.size()};
  ASSERT_EQ(stream.Send(std::span(&piece, 1)).bytes, command.size());
  StreamResult received;
  do {  // session tickets come first, and are no data
    ASSERT_TRUE(Readable(fd.get()));
    received = ReceiveInto(&stream, std::span(place).first(10));
  } while (received.state == StreamState::kWouldBlock);
  ASSERT_EQ(received.bytes, 10u) << stream.Error();
  EXPECT_TRUE(stream.HasBuffered());
  ASSERT_EQ(ReceiveInto(&stream, std::span(place).subspan(10, reply.size() - 10)).bytes,
            reply.size() - 10);
  EXPECT_EQ(std::string_view(place.data(), reply.size()), reply);
  EXPECT_FALSE(stream.HasBuffered());
}

}  // namespace
}  // namespace shadowserve
