#include "flow/mailbox.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>
#include <vector>

namespace shadowserve {
namespace {

bool Readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

TEST(Mailbox, RunsWhatWasPostedInOrder) {
  Mailbox mailbox(4);
  std::vector<int> seen;
  ASSERT_TRUE(mailbox.Post([&] { seen.push_back(1); }));
  ASSERT_TRUE(mailbox.Post([&] { seen.push_back(2); }));
  EXPECT_TRUE(Readable(mailbox.fd()));
  EXPECT_TRUE(mailbox.Run());
  EXPECT_EQ(seen, (std::vector<int>{1, 2}));
  EXPECT_FALSE(Readable(mailbox.fd()));
  EXPECT_FALSE(mailbox.Run());
}

TEST(Mailbox, RefusesPastItsCapacity) {
  Mailbox mailbox(1);
  ASSERT_TRUE(mailbox.Post([] {}));
  EXPECT_FALSE(mailbox.Post([] {}));
  EXPECT_TRUE(mailbox.Run());
  EXPECT_TRUE(mailbox.Post([] {}));
}

TEST(Mailbox, WorkPostedWhileRunningWaitsForTheNextRun) {
  Mailbox mailbox(4);
  int runs = 0;
  ASSERT_TRUE(mailbox.Post([&] { ASSERT_TRUE(mailbox.Post([&] { ++runs; })); }));
  EXPECT_TRUE(mailbox.Run());
  EXPECT_EQ(runs, 0);
  EXPECT_TRUE(Readable(mailbox.fd()));
  EXPECT_TRUE(mailbox.Run());
  EXPECT_EQ(runs, 1);
}

TEST(Mailbox, LosesNothingFromManyThreads) {
  Mailbox mailbox(100000);
  int count = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 1000; ++i) ASSERT_TRUE(mailbox.Post([&] { ++count; }));
      });
    }
    for (int i = 0; i < 100; ++i) (void)mailbox.Run();
  }
  while (mailbox.Run()) {
  }
  EXPECT_EQ(count, 4000);
}

}  // namespace
}  // namespace shadowserve
