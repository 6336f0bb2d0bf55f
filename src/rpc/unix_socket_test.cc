#include "rpc/unix_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace shadowserve {
namespace {

class UnixListenerTest : public ::testing::Test {
 protected:
  UnixListenerTest() {
    std::string name = "/tmp/unix_socket_test.XXXXXX";
    directory_ = ::mkdtemp(name.data());
  }
  ~UnixListenerTest() override { std::filesystem::remove_all(directory_); }

  Result<std::unique_ptr<UnixListener>> Listen(int type = SOCK_STREAM) const {
    return UnixListener::Listen({path(), type, 0640, 4});
  }
  std::string path() const { return directory_ + "/s"; }

  std::string directory_;
};

TEST_F(UnixListenerTest, TheFileHasItsModeWhateverTheUmask) {
  const mode_t old = ::umask(0077);
  const auto listener = Listen();
  ::umask(old);
  ASSERT_TRUE(listener.ok()) << listener.status().ToString();
  struct stat info {};
  ASSERT_EQ(::lstat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640U);
}

TEST_F(UnixListenerTest, TellsWhoConnected) {
  const auto listener = Listen();
  ASSERT_TRUE(listener.ok());
  const UniqueFd client = NewUnixSocket(SOCK_STREAM).value();
  const sockaddr_un address = UnixAddress(path()).value();
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  const UniqueFd connection(::accept4((*listener)->fd(), nullptr, nullptr, SOCK_CLOEXEC));
  const Result<PeerCredentials> who = PeerOf(connection.get());
  ASSERT_TRUE(who.ok());
  EXPECT_EQ(who->pid, ::getpid());
  EXPECT_EQ(who->uid, ::geteuid());
  EXPECT_EQ(who->gid, ::getegid());
}

TEST_F(UnixListenerTest, ReplacesOnlyASocketThatNobodyListensOn) {
  {
    const auto first = Listen();
    ASSERT_TRUE(first.ok());
    EXPECT_EQ(Listen().status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(Listen(SOCK_SEQPACKET).status().code(), StatusCode::kInvalidArgument);
    std::filesystem::rename(path(), path() + ".kept");  // as a killed one leaves it behind
  }
  std::filesystem::rename(path() + ".kept", path());
  EXPECT_TRUE(Listen().ok());
}

TEST_F(UnixListenerTest, LeavesAnotherFileAlone) {
  std::ofstream(path()) << "mine";
  EXPECT_EQ(Listen().status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(std::filesystem::file_size(path()), 4U);
}

TEST_F(UnixListenerTest, RefusesAPathThatFitsIntoNoAddress) {
  EXPECT_EQ(UnixAddress("").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(UnixAddress(std::string(200, 'a')).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shadowserve
