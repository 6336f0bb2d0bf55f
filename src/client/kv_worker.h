// KvWorker: one rank's half of the control plane: registration of its KV memory, grants,
// completions. The full contract of every call is python/shadowserve/_core.pyi, which mirrors this
// class.
//
// The region is exported once; every connection hands the same descriptor and layout to the data
// plane again, so a new data plane finds the engine's memory without help from the engine.
//
// Threads: one owner thread calls the public functions; the session's reader thread registers and
// takes completions. Everything shared is guarded by mu_. No call blocks but Register (<= 5 s and
// the export) and Poll (<= wait_us). Lock order: mu_, then the session's.
#ifndef SHADOWSERVE_CLIENT_KV_WORKER_H_
#define SHADOWSERVE_CLIENT_KV_WORKER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "client/completion_table.h"
#include "client/kv_export.h"
#include "client/session.h"
#include "format/kv_layout.h"

namespace shadowserve {

struct KvWorkerOptions {
  std::string data_plane;
  TlsFiles tls;  // of a tcp:// address
  std::string engine_id;
  uint32_t rank = 0;
  uint32_t world_size = 1;
  ModelShape shape;
  std::vector<std::string> devices;  // export kinds in order of preference
  double fetch_deadline_s = 10;

  // For tests; the defaults serve.
  const Clock* clock = nullptr;  // null: the steady clock. Outlives the worker
  SessionOptions session;        // address, tls and name are set from the above
  int64_t register_wait_ms = 5000;
};

// Counts since the last TakeStats.
struct KvWorkerStats {
  uint64_t loads_received = 0;
  uint64_t loads_failed = 0;
  uint64_t loads_over_deadline = 0;  // of loads_failed
  uint64_t kv_bytes = 0;
  uint64_t wire_bytes = 0;
  uint64_t reconnects = 0;
};

class KvWorker final : private SessionListener {
 public:
  // The longest that Poll waits, whatever it is asked for.
  static constexpr int64_t kPollWaitUsMax = 10'000;

  // kInvalidArgument / kUnsupported name the option.
  static Result<std::unique_ptr<KvWorker>> Create(KvWorkerOptions options);
  ~KvWorker() override;
  KvWorker(const KvWorker&) = delete;
  KvWorker& operator=(const KvWorker&) = delete;

  // Once. The device kind, or "" when the data plane cannot be reached yet; an error = refused.
  Result<std::string> Register(std::span<std::byte> region, PageLayout layout);
  void BeginStep(std::string_view metadata);
  CompletionTable::Finished Poll(int64_t wait_us);
  size_t Pending();
  KvDtype dtype() const { return options_.shape.dtype; }
  KvWorkerStats TakeStats();
  void Close();

 private:
  explicit KvWorker(KvWorkerOptions options);

  // SessionListener.
  Status MakeHello(v1::ClientMessage* hello) override;
  void OnConnected(const v1::HelloReply& reply, std::vector<v1::ClientMessage>* first) override;
  void OnMessage(const v1::ServerMessage& message) override;
  void OnBroken() override;
  bool Outstanding() override;

  // Sends the descriptor over the side socket; sets the token that ties the hello to it.
  Status HandOver(std::string* token);
  void ExpireLoads();  // REQUIRES mu_

  const KvWorkerOptions options_;
  const SteadyClock steady_clock_;
  const Clock* const clock_;

  // Set before the session starts, then used by the reader thread only.
  std::unique_ptr<KvExporter> exporter_;
  PageLayout layout_;

  std::mutex mu_;
  std::condition_variable finished_;
  CompletionTable loads_;
  KvWorkerStats stats_;
  uint64_t breaks_told_ = 0;

  // Last: its threads end before anything above goes. Null until Register.
  std::unique_ptr<Session> session_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_KV_WORKER_H_
