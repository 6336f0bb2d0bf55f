#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "store/allocation_count_test.h"
#include "store/resp_collector.h"
#include "store/resp_reader.h"
#include "store/resp_writer.h"

namespace shadowserve {
namespace {

using Step = RespReader::Step;

// Tokens as text, for comparing: "+OK", "$5 hello", "$9 drained", "nil", "*2", "bad".
class Feed {
 public:
  explicit Feed(size_t target_bytes) : target_(target_bytes + 1, std::byte{0x55}) {}

  void Take(std::string_view bytes, size_t read_ahead = RespReader::kTailBytes) {
    while (!bad_) {
      Drain();
      if (bytes.empty() || bad_) return;
      iovec places[2];
      const size_t count = reader_.Places(read_ahead, bytes.size(), places);
      size_t received = 0;
      for (size_t i = 0; i < count && !bytes.empty(); ++i) {
        const size_t take = std::min(places[i].iov_len, bytes.size());
        std::memcpy(places[i].iov_base, bytes.data(), take);
        in_place_ += places[i].iov_base >= target_.data() &&
                             places[i].iov_base < target_.data() + target_.size()
                         ? take
                         : 0;
        bytes.remove_prefix(take);
        received += take;
      }
      ASSERT_GT(received, 0u);
      reader_.Received(received);
    }
  }
  const std::vector<std::string>& seen() const { return seen_; }
  size_t in_place() const { return in_place_; }
  bool guard_is_whole() const { return target_.back() == std::byte{0x55}; }

 private:
  void Drain() {
    RespToken token;
    while (true) {
      const Step step = reader_.Next(std::span(target_).first(target_.size() - 1), &token);
      bad_ = step == Step::kBad;
      if (bad_) seen_.push_back("bad");
      if (step != Step::kToken) return;
      seen_.push_back(Text(token));
    }
  }
  std::string Text(const RespToken& token) const {
    const std::string number = std::to_string(token.number);
    switch (token.type) {
      case RespType::kSimple:
        return "+" + std::string(token.text);
      case RespType::kError:
        return "-" + std::string(token.text);
      case RespType::kInteger:
        return ":" + number;
      case RespType::kArray:
        return "*" + number;
      case RespType::kNil:
        return "nil";
      case RespType::kBulk:
        break;
    }
    if (!token.stored) return "$" + number + " drained";
    return "$" + number + " " +
           std::string(reinterpret_cast<const char*>(target_.data()),
                       static_cast<size_t>(token.number));
  }

  RespReader reader_;
  std::vector<std::byte> target_;
  std::vector<std::string> seen_;
  size_t in_place_ = 0;
  bool bad_ = false;
};

constexpr std::string_view kReplies =
    "+OK\r\n$5\r\nhello\r\n-OOM command not allowed\r\n:42\r\n$-1\r\n$0\r\n\r\n"
    "$12\r\nlonger than \r\n*2\r\n:-7\r\n$2\r\n\r\n\r\n*-1\r\n*0\r\n+\r\n";
const std::vector<std::string> kTokens = {"+OK",
                                          "$5 hello",
                                          "-OOM command not allowed",
                                          ":42",
                                          "nil",
                                          "$0 ",
                                          "$12 drained",
                                          "*2",
                                          ":-7",
                                          "$2 \r\n",
                                          "nil",
                                          "*0",
                                          "+"};

TEST(RespReader, ReadsEveryKindOfReply) {
  Feed feed(8);
  feed.Take(kReplies);
  EXPECT_EQ(feed.seen(), kTokens);
}

TEST(RespReader, ReadsTheSameHoweverTheStreamIsCut) {
  for (const size_t read_ahead : {size_t{1}, size_t{2}, size_t{7}, RespReader::kTailBytes}) {
    for (size_t first = 0; first <= kReplies.size(); ++first) {
      for (size_t second = first; second <= kReplies.size(); ++second) {
        Feed feed(8);
        feed.Take(kReplies.substr(0, first), read_ahead);
        feed.Take(kReplies.substr(first, second - first), read_ahead);
        feed.Take(kReplies.substr(second), read_ahead);
        ASSERT_EQ(feed.seen(), kTokens) << first << " " << second << " " << read_ahead;
        ASSERT_TRUE(feed.guard_is_whole());
      }
    }
  }
}

TEST(RespReader, ReceivesABodyInItsFinalPlace) {
  const std::string body(100'000, 'x');
  const std::string reply = "$100000\r\n" + body + "\r\n";
  Feed feed(body.size());
  feed.Take(reply + reply + reply, 64);
  EXPECT_EQ(feed.seen().size(), 3u);
  EXPECT_EQ(feed.seen()[2], "$100000 " + body);
  EXPECT_GT(feed.in_place(), 3 * (body.size() - 64));
}

TEST(RespReader, DrainsWhatDoesNotFitAndGoesOn) {
  const std::string body(100'000, 'x');
  Feed feed(1000);
  feed.Take("$100000\r\n" + body + "\r\n+OK\r\n$1000\r\n" + body.substr(0, 1000) + "\r\n");
  EXPECT_EQ(feed.seen(),
            (std::vector<std::string>{"$100000 drained", "+OK", "$1000 " + body.substr(0, 1000)}));
  EXPECT_TRUE(feed.guard_is_whole());
}

TEST(RespReader, TakesNoMoreThanAllowed) {
  RespReader reader;
  std::vector<std::byte> target(100);
  RespToken token;
  iovec places[2];
  ASSERT_EQ(reader.Next(target, &token), Step::kMore);
  ASSERT_EQ(reader.Places(10, 1000, places), 1u);
  EXPECT_EQ(places[0].iov_len, 10u);
  std::memcpy(places[0].iov_base, "$100\r\n1234", 10);
  reader.Received(10);
  ASSERT_EQ(reader.Next(target, &token), Step::kMore);
  ASSERT_EQ(reader.Places(10, 50, places), 1u);
  EXPECT_EQ(places[0].iov_base, target.data() + 4);
  EXPECT_EQ(places[0].iov_len, 50u);
  ASSERT_EQ(reader.Places(10, 96, places), 1u);
  ASSERT_EQ(reader.Places(10, 100, places), 2u);
  EXPECT_EQ(places[1].iov_len, 4u);
}

class BadReply : public testing::TestWithParam<std::string> {};

TEST_P(BadReply, EndsTheStream) {
  Feed feed(8);
  feed.Take("+OK\r\n" + GetParam());
  EXPECT_EQ(feed.seen(), (std::vector<std::string>{"+OK", "bad"}));
}

INSTANTIATE_TEST_SUITE_P(Replies, BadReply,
                         testing::Values("hello\r\n", "\r\n", "$x\r\n", "$\r\n", "$-2\r\n",
                                         "$5 \r\n", "$+5\r\n", "$536870913\r\n",
                                         "$99999999999999999999\r\n", ":1.5\r\n", ":\r\n",
                                         "*-2\r\n", "*1000000000\r\n", "+a\rb\r\n", "$1\r\nab\r\n",
                                         "$1\r\na\n\r", "+" + std::string(5000, 'a'),
                                         "-" + std::string(5000, 'a') + "\r\n",
                                         std::string("\0\r\n", 3), "%1\r\n"));

TEST(RespReader, AllocatesNothing) {
  RespReader reader;
  std::vector<std::byte> target(64);
  const AllocationCount before = CountAllocations();
  for (int i = 0; i < 100; ++i) {
    RespToken token;
    iovec places[2];
    ASSERT_EQ(reader.Next(target, &token), Step::kMore);
    (void)reader.Places(64, 64, places);
    std::memcpy(places[0].iov_base, "$3\r\nabc\r\n", 9);
    reader.Received(9);
    ASSERT_EQ(reader.Next(target, &token), Step::kToken);
  }
  EXPECT_EQ(CountAllocations().calls, before.calls);
}

RespToken Array(int64_t items) {
  RespToken token;
  token.type = RespType::kArray;
  token.number = items;
  return token;
}
RespToken Integer(int64_t value) {
  RespToken token;
  token.type = RespType::kInteger;
  token.number = value;
  return token;
}

TEST(RespCollector, KnowsWhereAReplyEnds) {
  using enum RespCollector::Step;
  RespCollector collector;
  EXPECT_EQ(collector.Add(Array(3)), kMore);
  EXPECT_EQ(collector.Add(Array(2)), kMore);
  EXPECT_EQ(collector.Add(Integer(1)), kMore);
  EXPECT_EQ(collector.Add(Array(0)), kMore);
  EXPECT_EQ(collector.Add(Integer(2)), kMore);
  EXPECT_EQ(collector.Add(Integer(3)), kDone);
  ASSERT_EQ(collector.items().size(), 6u);
  EXPECT_EQ(collector.items()[0].end, 6u);
  EXPECT_EQ(collector.items()[1].end, 4u);
  EXPECT_EQ(collector.items()[3].end, 4u);
  collector.Reset();
  EXPECT_EQ(collector.Add(Array(0)), kDone);
}

TEST(RespCollector, RefusesWhatIsTooDeepOrTooLarge) {
  using enum RespCollector::Step;
  RespCollector deep;
  for (size_t i = 0; i < RespCollector::kDepthMax; ++i) ASSERT_EQ(deep.Add(Array(1)), kMore);
  EXPECT_EQ(deep.Add(Array(1)), kBad);
  RespCollector wide;
  ASSERT_EQ(wide.Add(Array(2)), kMore);
  size_t items = 1;
  RespCollector::Step step = kMore;
  for (int array = 0; array < 2; ++array) {
    step = wide.Add(Array(RespReader::kArrayItemsMax));
    for (int64_t i = 0; i < RespReader::kArrayItemsMax && step == kMore; ++i, ++items) {
      step = wide.Add(Integer(i));
    }
  }
  EXPECT_EQ(step, kBad);
  EXPECT_GT(items, RespCollector::kItemsMax - 10);
  RespToken drained;
  drained.type = RespType::kBulk;
  EXPECT_EQ(RespCollector().Add(drained), kBad);
}

TEST(RespWriter, WritesCommands) {
  EXPECT_EQ(RespCommand({"AUTH", "", "p w"}), "*3\r\n$4\r\nAUTH\r\n$0\r\n\r\n$3\r\np w\r\n");
  std::array<char, 64> out;
  RespWriter writer(out);
  writer.Begin(5);
  writer.Argument("SET");
  writer.Argument("p:", "key");
  writer.RawHeader(1 << 20);
  EXPECT_EQ(writer.text(), "*5\r\n$3\r\nSET\r\n$5\r\np:key\r\n$1048576\r\n");
  RespWriter tail(out);
  tail.EndOfRaw();
  tail.Argument("PX");
  tail.Number(60'000);
  EXPECT_EQ(tail.text(), "\r\n$2\r\nPX\r\n$5\r\n60000\r\n");
  EXPECT_TRUE(tail.fits());
}

TEST(RespWriter, SaysWhenACommandDoesNotFit) {
  std::array<char, 20> out;
  RespWriter writer(out);
  writer.Begin(2);
  writer.Argument("GET");
  EXPECT_TRUE(writer.fits());
  writer.Argument("too long a key");
  EXPECT_FALSE(writer.fits());
}

}  // namespace
}  // namespace shadowserve
