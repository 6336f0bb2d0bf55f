#include "test_engine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace shadowserve {
namespace {

Status Failed(std::string_view what) {
  return Status(StatusCode::kInternal, fmt::format("{}: {}", what, std::strerror(errno)));
}

// In a forked child: exec's the engine program; only calls that are safe after a fork of a process
// that may have threads.
[[noreturn]] void BecomeEngine(const TestEngineOptions& options, int program, int control,
                               char* const* arguments) {
  if (options.new_pid_namespace) {
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(101);
    const pid_t inner = ::fork();
    if (inner < 0) ::_exit(102);
    if (inner > 0) {
      ::close(control);
      ::waitpid(inner, nullptr, 0);
      ::_exit(0);
    }
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (options.uid != 0 && (::setgid(options.uid) != 0 || ::setuid(options.uid) != 0)) ::_exit(103);
  if (::dup2(control, kEngineControlFd) < 0) ::_exit(104);
  ::fexecve(program, arguments, environ);
  ::_exit(105);
}

}  // namespace

void FillPattern(std::span<std::byte> bytes, uint64_t seed, uint64_t first_index) {
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = PatternByte(seed, first_index + i);
}

Result<std::unique_ptr<TestEngine>> TestEngine::Spawn(const TestEngineOptions& options) {
  std::unique_ptr<TestEngine> engine(new TestEngine);
  char name[] = "/tmp/ss_engine.XXXXXX";
  if (::mkdtemp(name) == nullptr || ::chmod(name, 0755) != 0) return Failed("mkdtemp");
  engine->directory_ = name;
  SideServerOptions server;
  server.path = engine->directory_ + "/mem";
  server.incarnation = 7;
  server.mode = 0666;
  server.clock = &engine->clock_;
  SS_TRY_ASSIGN(engine->server_, SideServer::Listen(std::move(server)));

  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return Failed("socketpair");
  engine->control_.Reset(ends[0]);
  // Not 3: dup2 onto itself would leave it close-on-exec.
  UniqueFd theirs(::fcntl(ends[1], F_DUPFD_CLOEXEC, 10));
  ::close(ends[1]);
  const UniqueFd program(::open(SS_ENGINE_PROGRAM, O_RDONLY | O_CLOEXEC));
  if (!program.valid()) return Failed(SS_ENGINE_PROGRAM);
  std::string arguments[] = {"engine", options.kind, std::to_string(options.bytes),
                             engine->directory_ + "/mem"};
  char* pointers[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                      arguments[3].data(), nullptr};
  engine->child_ = ::fork();
  if (engine->child_ < 0) return Failed("fork");
  if (engine->child_ == 0) BecomeEngine(options, program.get(), theirs.get(), pointers);
  return engine;
}

Result<KvExport> TestEngine::AwaitExport() {
  uid_t uid = 0;
  SideToken token{};
  for (;;) {
    pollfd entries[2] = {{server_->fd(), POLLIN, 0}, {control_.get(), POLLIN, 0}};
    if (::poll(entries, 2, 30000) <= 0) return Failed("the engine says nothing");
    server_->HandleEvents([&](SidePeer peer) {
      pid_ = peer.who.pid;
      uid = peer.who.uid;
      token = peer.token;
      memory_ = std::move(peer.memory_fd);
      return OkStatus();
    });
    if (entries[1].revents != 0) break;
  }
  std::vector<char> message(1 << 16);
  const ssize_t got = ::recv(control_.get(), message.data(), message.size(), 0);
  EngineHello hello;
  if (got < static_cast<ssize_t>(sizeof(hello))) return Failed("the engine ended");
  std::memcpy(&hello, message.data(), sizeof(hello));
  if (hello.status != 0) return Status(static_cast<StatusCode>(hello.status), hello.message);
  if (std::memcmp(hello.token, token.data(), token.size()) != 0 || hello.incarnation != 7) {
    return Status(StatusCode::kInternal, "token or incarnation differ");
  }
  KvExport exported;
  exported.kind = hello.kind;
  exported.region_bytes = hello.region_bytes;
  exported.memory_fd = std::move(memory_);
  exported.memory_offset = hello.memory_offset;
  exported.pid = pid_;
  exported.address = hello.address;
  exported.probe_value = hello.probe_value;
  exported.probe_address = hello.probe_address;
  const char* blobs = message.data() + sizeof(hello);
  exported.ucx_worker_address.assign(blobs, hello.ucx_worker_address_bytes);
  exported.ucx_remote_key.assign(blobs + hello.ucx_worker_address_bytes,
                                 hello.ucx_remote_key_bytes);
  return exported;
}

bool TestEngine::Ask(const EngineCommand& command) {
  uint32_t answer = 0;
  return ::send(control_.get(), &command, sizeof(command), MSG_NOSIGNAL) == sizeof(command) &&
         ::recv(control_.get(), &answer, sizeof(answer), 0) == sizeof(answer) && answer == 1;
}

void TestEngine::KillAndWait() {
  if (child_ <= 0) return;
  if (pid_ > 0 && pid_ != child_) ::kill(pid_, SIGKILL);
  if (pid_ == child_ || pid_ == 0) ::kill(child_, SIGKILL);
  control_.Reset();  // an engine that cannot be named from here ends by this
  ::waitpid(child_, nullptr, 0);
  child_ = 0;
}

TestEngine::~TestEngine() {
  KillAndWait();
  server_.reset();
  ::rmdir(directory_.c_str());
}

std::string RunInChild(const ChildOptions& options, const std::function<std::string()>& body) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return "pipe";
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    if (options.new_pid_namespace) {
      if (::unshare(CLONE_NEWPID) != 0) ::_exit(101);
      const pid_t inner = ::fork();
      if (inner != 0) {
        int state = 0;
        if (inner < 0 || ::waitpid(inner, &state, 0) != inner) ::_exit(102);
        ::_exit(WIFEXITED(state) ? WEXITSTATUS(state) : 103);
      }
    }
    if (options.uid != 0 && (::setgid(options.uid) != 0 || ::setuid(options.uid) != 0)) {
      ::_exit(104);
    }
    const std::string result = body();
    const ssize_t wrote = ::write(write_end.get(), result.data(), result.size());
    ::_exit(wrote == static_cast<ssize_t>(result.size()) ? 0 : 105);
  }
  write_end.Reset();
  std::string result;
  char buffer[4096];
  for (ssize_t got; (got = ::read(read_end.get(), buffer, sizeof(buffer))) > 0;) {
    result.append(buffer, static_cast<size_t>(got));
  }
  int state = 0;
  ::waitpid(child, &state, 0);
  if (!WIFEXITED(state) || WEXITSTATUS(state) != 0) {
    return fmt::format("the child ended with state {:#x}: {}", state, result);
  }
  return result;
}

}  // namespace shadowserve
