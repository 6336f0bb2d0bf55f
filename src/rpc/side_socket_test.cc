#include "rpc/side_socket.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cstring>
#include <functional>
#include <span>
#include <thread>
#include <vector>

namespace shadowserve {
namespace {

constexpr uint64_t kIncarnation = 0x1122334455667788;

size_t CountOpenFds() {
  size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

bool IsCloseOnExec(int fd) {
  return (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

class SideSocketTest : public ::testing::Test {
 protected:
  SideSocketTest() {
    char name[] = "/tmp/side_socket_test.XXXXXX";
    directory_ = ::mkdtemp(name);
    path_ = SideSocketPath(directory_ + "/control");
  }
  ~SideSocketTest() override {
    server_.reset();
    ::unlink(path_.c_str());
    ::rmdir(directory_.c_str());
  }

  Status Listen() {
    SideServerOptions options;
    options.path = path_;
    options.incarnation = kIncarnation;
    options.clock = &clock_;
    SS_TRY_ASSIGN(server_, SideServer::Listen(std::move(options)));
    return OkStatus();
  }

  // Runs the server on this thread until `client`, on another one, is through.
  void ServeUntilDone(const std::function<void()>& client) {
    UniqueFd done_read, done_write;
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    done_read.Reset(ends[0]);
    done_write.Reset(ends[1]);
    std::thread thread([&] {
      client();
      done_write.Reset();
    });
    pollfd entries[2] = {{server_->fd(), POLLIN, 0}, {done_read.get(), POLLIN, 0}};
    while (::poll(entries, 2, -1) >= 0 && entries[1].revents == 0) Handle();
    thread.join();
    Handle();
  }

  void Handle() {
    server_->HandleEvents([this](SidePeer peer) {
      peers_.push_back(std::move(peer));
      return accept_status_;
    });
  }

  // A client that does what it likes: connects and sends these bytes with these descriptors.
  UniqueFd SendRaw(std::span<const std::byte> bytes, const std::vector<int>& fds) {
    UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * fds.size()));
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    }
    if (!bytes.empty()) {
      EXPECT_EQ(::sendmsg(socket.get(), &message, 0), static_cast<ssize_t>(bytes.size()));
    }
    return socket;
  }

  // A hello as the header describes it.
  static std::vector<std::byte> HelloBytes(uint32_t magic, uint16_t version, uint16_t fd_count) {
    std::vector<std::byte> bytes(24);
    std::memcpy(&bytes[0], &magic, 4);
    std::memcpy(&bytes[4], &version, 2);
    std::memcpy(&bytes[6], &fd_count, 2);
    return bytes;
  }

  // Whether the server refuses this message without keeping a peer or a descriptor.
  void ExpectRefused(std::span<const std::byte> bytes, const std::vector<int>& fds) {
    const size_t before = CountOpenFds();
    {
      const UniqueFd socket = SendRaw(bytes, fds);
      Handle();  // accepts
      Handle();  // receives
      EXPECT_EQ(server_->pending_count(), 0u);
      std::byte answer[16];
      EXPECT_EQ(::recv(socket.get(), answer, sizeof(answer), 0), 16);
      uint32_t status = 0;
      std::memcpy(&status, answer + 4, 4);
      EXPECT_NE(status, 0u);
    }
    EXPECT_TRUE(peers_.empty());
    EXPECT_EQ(CountOpenFds(), before);
  }

  static constexpr uint32_t kGoodMagic = 0x4d535353;

  std::string directory_;
  std::string path_;
  ManualClock clock_;
  std::unique_ptr<SideServer> server_;
  std::vector<SidePeer> peers_;
  Status accept_status_;
};

TEST_F(SideSocketTest, HandsOverTheMemoryAndAnswersWithIncarnationAndPidfd) {
  ASSERT_TRUE(Listen().ok());
  const UniqueFd memory(::memfd_create("memory", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(memory.get(), 12345), 0);
  const SideToken token = MakeSideToken();
  Result<SideAnswer> answer = Status(StatusCode::kInternal, "not asked");
  ServeUntilDone([&] { answer = ExchangeSide(path_, token, memory.get(), 5000); });
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  EXPECT_EQ(answer->incarnation, kIncarnation);
  EXPECT_EQ(answer->data_plane_pid, ::getpid());
  EXPECT_FALSE(ProcessHasExited(answer->data_plane_pidfd.get()));
  EXPECT_TRUE(IsCloseOnExec(answer->data_plane_pidfd.get()));
  ASSERT_EQ(peers_.size(), 1u);
  EXPECT_EQ(peers_[0].token, token);
  EXPECT_EQ(peers_[0].who.pid, ::getpid());
  EXPECT_EQ(peers_[0].who.uid, ::getuid());
  struct stat info {};
  ASSERT_EQ(::fstat(peers_[0].memory_fd.get(), &info), 0);
  EXPECT_EQ(info.st_size, 12345);
  EXPECT_TRUE(IsCloseOnExec(peers_[0].memory_fd.get()));
}

TEST_F(SideSocketTest, WorksWithoutADescriptor) {
  ASSERT_TRUE(Listen().ok());
  Result<SideAnswer> answer = Status(StatusCode::kInternal, "not asked");
  ServeUntilDone([&] { answer = ExchangeSide(path_, MakeSideToken(), -1, 5000); });
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  ASSERT_EQ(peers_.size(), 1u);
  EXPECT_FALSE(peers_[0].memory_fd.valid());
}

TEST_F(SideSocketTest, CarriesTheReasonOfARefusalAndNoPidfd) {
  ASSERT_TRUE(Listen().ok());
  accept_status_ = Status(StatusCode::kExhausted, "no more sessions");
  Result<SideAnswer> answer = Status(StatusCode::kInternal, "not asked");
  ServeUntilDone([&] { answer = ExchangeSide(path_, MakeSideToken(), -1, 5000); });
  EXPECT_EQ(answer.status().code(), StatusCode::kExhausted);
}

TEST_F(SideSocketTest, LeaksNoDescriptorOverManyExchanges) {
  ASSERT_TRUE(Listen().ok());
  const UniqueFd memory(::memfd_create("memory", MFD_CLOEXEC));
  const size_t before = CountOpenFds();
  for (int i = 0; i < 50; ++i) {
    ServeUntilDone(
        [&] { EXPECT_TRUE(ExchangeSide(path_, MakeSideToken(), memory.get(), 5000).ok()); });
    peers_.clear();
  }
  EXPECT_EQ(CountOpenFds(), before);
}

TEST_F(SideSocketTest, RefusesAMessageOfTheWrongSize) {
  ASSERT_TRUE(Listen().ok());
  std::vector<std::byte> bytes = HelloBytes(kGoodMagic, 1, 0);
  ExpectRefused(std::span(bytes).first(23), {});
  bytes.resize(25);
  ExpectRefused(bytes, {});
  bytes.resize(100000);
  ExpectRefused(bytes, {});
}

TEST_F(SideSocketTest, RefusesAWrongMagicOrVersion) {
  ASSERT_TRUE(Listen().ok());
  ExpectRefused(HelloBytes(kGoodMagic + 1, 1, 0), {});
  ExpectRefused(HelloBytes(kGoodMagic, 2, 0), {});
}

TEST_F(SideSocketTest, RefusesDescriptorsThatWereNotAnnouncedAndKeepsNone) {
  ASSERT_TRUE(Listen().ok());
  const UniqueFd memory(::memfd_create("memory", MFD_CLOEXEC));
  ExpectRefused(HelloBytes(kGoodMagic, 1, 0), {memory.get()});
  ExpectRefused(HelloBytes(kGoodMagic, 1, 1), {memory.get(), memory.get()});
  ExpectRefused(HelloBytes(kGoodMagic, 1, 2), {memory.get(), memory.get()});
  ExpectRefused(HelloBytes(kGoodMagic, 1, 1), std::vector<int>(200, memory.get()));
  ExpectRefused(std::vector<std::byte>(3), {memory.get()});
}

TEST_F(SideSocketTest, RefusesAHelloWithoutTheAnnouncedDescriptor) {
  ASSERT_TRUE(Listen().ok());
  ExpectRefused(HelloBytes(kGoodMagic, 1, 1), {});
}

TEST_F(SideSocketTest, DropsASilentConnectionAfterItsTime) {
  ASSERT_TRUE(Listen().ok());
  const UniqueFd silent = SendRaw({}, {});
  Handle();
  EXPECT_EQ(server_->pending_count(), 1u);
  clock_.AdvanceNs(SideServer::kHelloTimeoutNs);
  Handle();
  EXPECT_EQ(server_->pending_count(), 0u);
}

TEST_F(SideSocketTest, WakesItsOwnerToDropASilentConnection) {
  ASSERT_TRUE(Listen().ok());
  const UniqueFd silent = SendRaw({}, {});
  Handle();
  pollfd entry{server_->fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, -1), 1);  // the timer: nobody sends anything
}

TEST_F(SideSocketTest, ServesANewcomerWhenSilentConnectionsFillEveryPlace) {
  ASSERT_TRUE(Listen().ok());
  std::vector<UniqueFd> silent;
  for (size_t i = 0; i < SideServer::kPendingMax; ++i) {
    silent.push_back(SendRaw({}, {}));
    Handle();
    clock_.AdvanceNs(1);
  }
  EXPECT_EQ(server_->pending_count(), SideServer::kPendingMax);
  Result<SideAnswer> answer = Status(StatusCode::kInternal, "not asked");
  ServeUntilDone([&] { answer = ExchangeSide(path_, MakeSideToken(), -1, 5000); });
  EXPECT_TRUE(answer.ok()) << answer.status().ToString();
  EXPECT_EQ(server_->pending_count(), SideServer::kPendingMax - 1);  // the oldest went
}

TEST_F(SideSocketTest, ReplacesTheSocketOfADeadServerButNotOfALiveOne) {
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ASSERT_TRUE(Listen().ok());
  SideServerOptions options;
  options.path = path_;
  options.clock = &clock_;
  EXPECT_EQ(SideServer::Listen(std::move(options)).status().code(), StatusCode::kUnavailable);
}

TEST_F(SideSocketTest, RemovesItsSocketFileAndNoOtherFile) {
  const UniqueFd file(::open(path_.c_str(), O_CREAT | O_CLOEXEC | O_RDWR, 0600));
  EXPECT_EQ(Listen().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(::access(path_.c_str(), F_OK), 0);
  ASSERT_EQ(::unlink(path_.c_str()), 0);
  ASSERT_TRUE(Listen().ok());
  server_.reset();
  EXPECT_NE(::access(path_.c_str(), F_OK), 0);
}

TEST_F(SideSocketTest, LetsOnlyItsOwnerConnectByDefault) {
  ASSERT_TRUE(Listen().ok());
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(SideSocketTest, ClientGivesUpWhenNobodyListensOrAnswers) {
  EXPECT_EQ(ExchangeSide(path_, MakeSideToken(), -1, 50).status().code(), StatusCode::kUnavailable);
  ASSERT_TRUE(Listen().ok());  // and never handles an event
  EXPECT_EQ(ExchangeSide(path_, MakeSideToken(), -1, 50).status().code(), StatusCode::kDeadline);
}

TEST_F(SideSocketTest, PidfdTellsAKilledProcessFromAStoppedOne) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  Result<UniqueFd> pidfd = OpenPidfd(child);
  ASSERT_TRUE(pidfd.ok());
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  int state = 0;
  ASSERT_EQ(::waitpid(child, &state, WUNTRACED), child);
  ASSERT_TRUE(WIFSTOPPED(state));
  EXPECT_FALSE(ProcessHasExited(pidfd->get()));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  pollfd entry{pidfd->get(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 10000), 1);
  EXPECT_TRUE(ProcessHasExited(pidfd->get()));
  ::waitpid(child, &state, 0);
  EXPECT_EQ(OpenPidfd(child).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace shadowserve
