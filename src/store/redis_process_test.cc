#include "store/redis_process_test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <sstream>

namespace shadowserve {
namespace {

using std::chrono::steady_clock;

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

UniqueFd Listen(uint16_t* port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = Loopback(0);
  socklen_t bytes = sizeof(address);
  SS_CHECK(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), bytes) == 0 &&
               listen(fd.get(), 64) == 0 &&
               getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &bytes) == 0,
           "no port");
  *port = ntohs(address.sin_port);
  return fd;
}

// How long a server may take to begin: there are six of a cluster, and tests beside this one.
constexpr auto kStartMax = std::chrono::seconds(40);

bool IsFree(uint16_t port) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  const int one = 1;  // what is only left of a connection does not count
  (void)setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  return bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

// A cluster's server also listens at its port + 10000. All lie below the ports that the kernel
// gives to whoever connects, and programs that run at the same time choose from different ones:
// nobody takes a port between this and its server's start.
uint16_t FreePort() {
  constexpr uint32_t kEach = 120;
  static uint32_t next = 0;
  while (true) {
    const uint32_t first = 10'000 + static_cast<uint32_t>(getpid()) % 100 * kEach;
    const auto port = static_cast<uint16_t>(first + next++ % kEach);
    if (IsFree(port) && IsFree(port + 10'000)) return port;
  }
}

std::string TailOf(const std::string& file) {
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  return text.substr(text.size() - std::min<size_t>(text.size(), 1000));
}

void Sleep(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

std::string CommandOf(const std::vector<std::string>& arguments) {
  std::string text = "*" + std::to_string(arguments.size()) + "\r\n";
  for (const std::string& argument : arguments) {
    text += "$" + std::to_string(argument.size()) + "\r\n" + argument + "\r\n";
  }
  return text;
}

std::string FindProgram(const char* name) {
  const char* const path = getenv("PATH");
  std::stringstream folders(path == nullptr ? "/usr/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = folder + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

pid_t Spawn(const std::string& program, const std::vector<std::string>& arguments,
            const std::string& log) {
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  SS_CHECK(pid >= 0, "fork");
  if (pid > 0) return pid;
  // Nothing of a test that dies stays behind.
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  (void)dup2(fd, STDOUT_FILENO);
  (void)dup2(fd, STDERR_FILENO);
  execv(program.c_str(), argv.data());
  _exit(127);
}

}  // namespace

UniqueFd Connect(uint16_t port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    fd.Reset();
  }
  return fd;
}

bool RedisProcess::Installed() {
  return !FindProgram("redis-server").empty();
}

RedisProcess::RedisProcess(std::vector<std::string> arguments, bool tls)
    : arguments_(std::move(arguments)), port_(FreePort()) {
  if (tls) {
    tls_port_ = FreePort();
    arguments_.insert(arguments_.end(), {"--tls-port", std::to_string(tls_port_)});
  }
  for (size_t i = 0; i + 1 < arguments_.size(); ++i) {
    if (arguments_[i] == "--requirepass") password_ = arguments_[i + 1];
  }
  Start();
}

RedisProcess::~RedisProcess() {
  Kill();
}

void RedisProcess::Start(bool wait) {
  SS_CHECK(pid_ < 0, "runs already");
  std::vector<std::string> all = {"--port",
                                  std::to_string(port_),
                                  "--bind",
                                  "127.0.0.1",
                                  "--save",
                                  "",
                                  "--appendonly",
                                  "no",
                                  "--dir",
                                  directory(),
                                  "--daemonize",
                                  "no",
                                  "--protected-mode",
                                  "no"};
  all.insert(all.end(), arguments_.begin(), arguments_.end());
  const std::string log = directory() + "/log";
  pid_ = Spawn(FindProgram("redis-server"), all, log);
  const auto end = steady_clock::now() + kStartMax;
  while (wait) {
    const std::string answer = Ask({"PING"});
    if (answer.starts_with("+PONG") || answer.starts_with("-MASTERDOWN")) return;
    SS_CHECK(waitpid(pid_, nullptr, WNOHANG) == 0, "redis-server ended: " + TailOf(log));
    SS_CHECK(steady_clock::now() < end, "redis-server does not answer: " + TailOf(log));
    Sleep(10);
  }
}

void RedisProcess::Signal(int signal) const {
  SS_CHECK(pid_ > 0 && kill(pid_, signal) == 0, "no server to signal");
}

void RedisProcess::Kill() {
  if (pid_ < 0) return;
  (void)kill(pid_, SIGKILL);
  (void)waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::string RedisProcess::Ask(const std::vector<std::string>& arguments) const {
  const UniqueFd fd = Connect(port_);
  if (!fd.valid()) return "";
  std::string text = CommandOf(arguments);
  if (!password_.empty()) text = CommandOf({"AUTH", password_}) + text;
  (void)!send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
  std::string reply;
  const auto end = steady_clock::now() + std::chrono::seconds(5);
  const std::string_view skip = password_.empty() ? "" : "+OK\r\n";
  // Whole enough for the short answers that tests look at: ends with a line, and no more comes.
  while (steady_clock::now() < end && reply.size() < 65'536) {
    pollfd event = {fd.get(), POLLIN, 0};
    const bool complete = reply.size() > skip.size() && reply.ends_with("\r\n");
    if (poll(&event, 1, complete ? 20 : 100) == 0) {
      if (complete) break;
      continue;
    }
    std::array<char, 4096> bytes;
    const ssize_t got = recv(fd.get(), bytes.data(), bytes.size(), 0);
    if (got <= 0) break;
    reply.append(bytes.data(), static_cast<size_t>(got));
  }
  return reply.starts_with(skip) ? reply.substr(skip.size()) : reply;
}

RedisClusterProcesses::RedisClusterProcesses(size_t masters, bool replicas,
                                             std::vector<std::string> arguments, bool tls)
    : masters_(masters), tls_(tls) {
  const auto add = [&arguments](std::initializer_list<std::string> more) {
    arguments.insert(arguments.end(), more);
  };
  // A replica is named to clients once it was pinged.
  add({"--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
       "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
       "--cluster-allow-replica-migration", "no", "--repl-ping-replica-period", "1"});
  if (tls) add({"--tls-cluster", "yes", "--tls-replication", "yes"});
  for (size_t i = 0; i < masters * (replicas ? 2 : 1); ++i) {
    servers_.push_back(std::make_unique<RedisProcess>(arguments, tls));
  }
  Wire();
}

uint16_t RedisClusterProcesses::PortOf(size_t i) const {
  return tls_ ? servers_[i]->tls_port() : servers_[i]->port();
}

std::string RedisClusterProcesses::host_ports() const {
  return "127.0.0.1:" + std::to_string(PortOf(0)) + ",127.0.0.1:" + std::to_string(PortOf(1));
}

void RedisClusterProcesses::Wire() {
  const auto end = steady_clock::now() + kStartMax;
  // Asks until the answer begins like this. Where nothing is expected, Ready has the last word: an
  // answer that came too late makes the second one a refusal.
  const auto ask = [&](size_t i, const std::vector<std::string>& command,
                       std::string_view expected) {
    while (true) {
      std::string answer = servers_[i]->Ask(command);
      if (!answer.empty() && answer.starts_with(expected)) return answer;
      SS_CHECK(steady_clock::now() < end, command[1] + " is answered '" + answer + "'");
      Sleep(20);
    }
  };
  for (size_t i = 0; i < servers_.size(); ++i) {
    if (i < masters_) {
      ask(i,
          {"CLUSTER", "ADDSLOTSRANGE", std::to_string(16384 * i / masters_),
           std::to_string(16384 * (i + 1) / masters_ - 1)},
          "");
    }
    ask(i, {"CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1)}, "");
    if (i > 0) ask(0, {"CLUSTER", "MEET", "127.0.0.1", std::to_string(PortOf(i))}, "+OK");
  }
  for (size_t i = masters_; i < servers_.size(); ++i) {
    const std::string id = ask(i - masters_, {"CLUSTER", "MYID"}, "$40").substr(5, 40);
    ask(i, {"CLUSTER", "REPLICATE", id}, "+OK");
  }
  while (!Ready()) {
    SS_CHECK(steady_clock::now() < end,
             "the cluster does not come up: " + servers_[0]->Ask({"CLUSTER", "INFO"}) +
                 servers_[0]->Ask({"CLUSTER", "NODES"}));
    Sleep(20);
  }
}

bool RedisClusterProcesses::Ready() const {
  const std::string known = "cluster_known_nodes:" + std::to_string(servers_.size());
  for (size_t i = 0; i < servers_.size(); ++i) {
    const std::string info = servers_[i]->Ask({"CLUSTER", "INFO"});
    if (info.find("cluster_state:ok") == std::string::npos ||
        info.find(known) == std::string::npos) {
      return false;
    }
    const std::string slots = servers_[i]->Ask({"CLUSTER", "SLOTS"});
    for (size_t each = 0; each < servers_.size(); ++each) {
      const std::string port = ":" + std::to_string(servers_[each]->port()) + "\r\n";
      if (slots.find(port) == std::string::npos) return false;
    }
    if (i >= masters_ && servers_[i]->Ask({"INFO", "replication"}).find("master_link_status:up") ==
                             std::string::npos) {
      return false;
    }
  }
  return true;
}

struct RedisProxy::Pair {
  UniqueFd client;
  UniqueFd server;
  uint64_t passed = 0;  // from the server, since the mode was set
  uint64_t set_count = 0;
};

RedisProxy::RedisProxy(uint16_t server_port) : server_port_(server_port) {
  listener_ = Listen(&port_);
  thread_ = std::thread([this] { Run(); });
}

RedisProxy::~RedisProxy() {
  stop_ = true;
  thread_.join();
}

void RedisProxy::Set(Mode mode, uint64_t after_bytes) {
  after_bytes_ = after_bytes;
  mode_ = mode;
  ++set_count_;
}

void RedisProxy::Run() {
  while (!stop_) {
    std::vector<pollfd> events = {{listener_.get(), POLLIN, 0}};
    for (const auto& pair : pairs_) {
      events.push_back({pair->client.get(), POLLIN, 0});
      events.push_back({pair->server.get(), POLLIN, 0});
    }
    if (poll(events.data(), events.size(), 10) <= 0) continue;
    std::erase_if(pairs_, [this](const auto& pair) { return !Forward(pair.get()); });
    if ((events[0].revents & POLLIN) == 0) continue;
    auto pair = std::make_unique<Pair>();
    pair->client = UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    pair->server = Connect(server_port_);
    pair->set_count = set_count_;
    ++connections_;
    if (pair->server.valid()) pairs_.push_back(std::move(pair));
  }
}

// False when the pair is over.
bool RedisProxy::Forward(Pair* pair) {
  std::vector<char> bytes(65'536);
  ssize_t got = recv(pair->client.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
  if (got > 0) {
    (void)!send(pair->server.get(), bytes.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
  }
  if (pair->set_count != set_count_) {
    pair->set_count = set_count_;
    pair->passed = 0;
  }
  const Mode mode = mode_;
  const uint64_t after = after_bytes_;
  size_t wanted = bytes.size();
  const bool spoilt = mode != Mode::kForward && pair->passed >= after;
  if (mode != Mode::kForward && !spoilt) wanted = std::min<uint64_t>(wanted, after - pair->passed);
  if (spoilt && mode == Mode::kCut) return false;
  if (spoilt && mode == Mode::kStall) {
    Sleep(2);
    return true;
  }
  if (spoilt && mode == Mode::kDrip) {
    wanted = 1;
    Sleep(10);
  }
  got = recv(pair->server.get(), bytes.data(), wanted, MSG_DONTWAIT);
  if (got == 0 || (got < 0 && errno != EAGAIN)) return false;
  if (got <= 0) return true;
  if (spoilt && mode == Mode::kGarble) {
    for (ssize_t i = 0; i < got; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(i * 37 + 1);
  }
  pair->passed += static_cast<uint64_t>(got);
  return send(pair->client.get(), bytes.data(), static_cast<size_t>(got), MSG_NOSIGNAL) == got;
}

std::vector<std::string> TlsArguments(const std::string& directory) {
  return {"--tls-cert-file",         directory + "/server.crt", "--tls-key-file",
          directory + "/server.key", "--tls-ca-cert-file",      directory + "/ca.crt"};
}

bool MakeCertificates(const std::string& directory, const std::string& host) {
  const std::string openssl = FindProgram("openssl");
  if (openssl.empty()) return false;
  const auto run = [&](const std::string& arguments) {
    const std::string line = "cd " + directory + " && " + openssl + " " + arguments + " >log 2>&1";
    SS_CHECK(system(line.c_str()) == 0, line);
  };
  const std::string key = " -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes ";
  for (const std::string ca : {"ca", "stranger"}) {
    run("req -x509 -days 2" + key + "-subj /CN=" + ca + " -keyout " + ca + ".key -out " + ca +
        ".crt");
  }
  std::ofstream(directory + "/ext") << "subjectAltName=" << host << "\n";
  for (const std::string who : {"server", "client"}) {
    run("req -new" + key + "-subj /CN=" + who + " -keyout " + who + ".key -out " + who + ".csr");
    run("x509 -req -days 2 -in " + who + ".csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile " +
        "ext -out " + who + ".crt");
  }
  return true;
}

}  // namespace shadowserve
