// Real servers for tests: redis-server processes on free loopback ports, a cluster of them, and a
// proxy that spoils what it forwards. All of them end with their object, and with the test program.
#ifndef SHADOWSERVE_STORE_REDIS_PROCESS_TEST_H_
#define SHADOWSERVE_STORE_REDIS_PROCESS_TEST_H_

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "store/store_test_util.h"

namespace shadowserve {

// Skips the test, with the reason printed, when redis-server is not installed.
#define SS_NEEDS_REDIS()                                                 \
  if (!RedisProcess::Installed()) {                                      \
    GTEST_SKIP() << "redis-server is not installed (apt: redis-server)"; \
  }

// A connection to a server of this host; invalid when there is none.
UniqueFd Connect(uint16_t port);

class RedisProcess {
 public:
  static bool Installed();

  // Starts it and waits until it answers. `arguments`: more of redis-server's command line.
  explicit RedisProcess(std::vector<std::string> arguments = {}, bool tls = false);
  ~RedisProcess();
  RedisProcess(const RedisProcess&) = delete;
  RedisProcess& operator=(const RedisProcess&) = delete;

  uint16_t port() const { return port_; }
  // With TLS: the port that speaks it; `port` is always plain.
  uint16_t tls_port() const { return tls_port_; }
  std::string host_port() const { return "127.0.0.1:" + std::to_string(port_); }
  std::string url() const { return "redis://" + host_port(); }
  const std::string& directory() const { return directory_.path(); }

  // SIGSTOP, SIGCONT.
  void Signal(int signal) const;
  // SIGKILL; it is gone afterwards.
  void Kill();
  // On the same port, empty (nothing is ever saved to disk). `wait`: until it answers.
  void Start(bool wait = true);

  // One command over a connection of its own; the reply's bytes as they came, at most 64 KiB.
  // Empty: no reply within 5 s.
  std::string Ask(const std::vector<std::string>& arguments) const;
  // Password of later Asks.
  void set_password(std::string password) { password_ = std::move(password); }
  // Of later Starts.
  void set_arguments(std::vector<std::string> arguments) { arguments_ = std::move(arguments); }

 private:
  TempDir directory_;
  std::vector<std::string> arguments_;
  uint16_t port_ = 0;
  uint16_t tls_port_ = 0;
  pid_t pid_ = -1;
  std::string password_;
};

// Masters with an equal share of the slots, each with one replica unless told otherwise. Ready when
// constructed. `arguments`, `tls`: as for RedisProcess; with TLS they speak it among themselves
// too.
class RedisClusterProcesses {
 public:
  explicit RedisClusterProcesses(size_t masters = 3, bool replicas = true,
                                 std::vector<std::string> arguments = {}, bool tls = false);
  RedisProcess& master(size_t i) { return *servers_[i]; }
  // That of master `i`.
  RedisProcess& replica(size_t i) { return *servers_[masters_ + i]; }
  size_t masters() const { return masters_; }
  // Two of them.
  std::string host_ports() const;
  std::string url() const { return "redis+cluster://" + host_ports(); }

 private:
  // By which they know each other.
  uint16_t PortOf(size_t i) const;
  void Wire();
  bool Ready() const;

  size_t masters_;
  bool tls_;
  std::vector<std::unique_ptr<RedisProcess>> servers_;
};

// Forwards connections to a server, and spoils the way back.
class RedisProxy {
 public:
  enum class Mode : int {
    kForward,
    kCut,     // closes the connection once `after_bytes` of the server's have passed
    kDrip,    // then passes a byte every 10 ms
    kGarble,  // then sends noise
    kStall,   // then passes nothing
  };
  explicit RedisProxy(uint16_t server_port);
  ~RedisProxy();
  uint16_t port() const { return port_; }
  std::string url() const { return "redis://127.0.0.1:" + std::to_string(port_); }
  // Where connections from now on lead.
  void Lead(uint16_t server_port) { server_port_ = server_port; }
  // For what comes from now on, counted per connection.
  void Set(Mode mode, uint64_t after_bytes = 0);
  uint64_t connections() const { return connections_; }

 private:
  struct Pair;
  void Run();
  bool Forward(Pair* pair);

  std::atomic<uint16_t> server_port_;
  uint16_t port_ = 0;
  UniqueFd listener_;
  std::vector<std::unique_ptr<Pair>> pairs_;
  std::atomic<Mode> mode_ = Mode::kForward;
  std::atomic<uint64_t> after_bytes_ = 0;
  std::atomic<uint64_t> set_count_ = 0;
  std::atomic<uint64_t> connections_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

// Arguments of a server that speaks TLS with the files of MakeCertificates.
std::vector<std::string> TlsArguments(const std::string& directory);
// A key, and a certificate for `host` signed by an authority of its own, by the openssl program:
// ca.crt, server.crt, server.key, client.crt, client.key and stranger.crt (another authority).
// False when there is no such program.
bool MakeCertificates(const std::string& directory, const std::string& host);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_PROCESS_TEST_H_
