// KvManager: the scheduler half of an engine's control plane (design.md, "Fetch, step by step").
//
// Lookups, loads, the quarantine of their pages, and saves: each is a table of its own
// (lookup_table.h, load_table.h, page_quarantine.h, save_queue.h); this class ties them to the
// session and to one lock. The full contract of every call is python/shadowserve/_core.pyi, which
// mirrors this class.
//
// Threads: one owner thread calls the public functions; the session's reader thread answers
// messages of the data plane. Everything shared is guarded by mu_, which is held for bookkeeping
// only: never while hashing, waiting, or talking to the system (but for poll(2) on pidfds of
// processes that hold pages). No call blocks but WaitReady, and MatchedTokens for at most
// `answer_wait_us`. Nothing fails for what the data plane does: a lookup becomes "nothing", a load
// becomes failed, a save becomes dropped. Lock order: mu_, then the session's. Bounds: kRequestsMax
// and those of the tables.
#ifndef SHADOWSERVE_CLIENT_KV_MANAGER_H_
#define SHADOWSERVE_CLIENT_KV_MANAGER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "client/key_chain.h"
#include "client/load_table.h"
#include "client/lookup_table.h"
#include "client/page_quarantine.h"
#include "client/save_queue.h"
#include "client/session.h"
#include "format/kv_layout.h"

namespace shadowserve {

struct KvManagerOptions {
  std::string data_plane;
  TlsFiles tls;  // of a tcp:// address
  std::string engine_id;
  Digest root{};
  ModelShape shape;
  uint32_t page_tokens = 0;
  uint32_t world_size = 1;
  std::string profile;
  double lookup_timeout_s = 0.1;
  double fetch_deadline_s = 10;
  double save_deadline_s = 10;
  uint32_t min_hit_tokens = 0;
  bool save = true;
  bool early_write = true;
  uint64_t max_load_tokens = 1 << 20;

  // For tests; the defaults serve.
  size_t saves_max = 256;        // chunks whose pages are held at once
  int64_t answer_wait_us = 300;  // of the first MatchedTokens
  const Clock* clock = nullptr;  // null: the steady clock. Outlives the manager
  SessionOptions session;        // address, tls and name are set from the above
  // Asks the side socket who the data plane is; null: ExchangeSide.
  std::function<Result<SideAnswer>(const std::string& path)> ask_process;
};

// Counts since the last TakeStats, but for quarantined_pages.
struct KvManagerStats {
  uint64_t lookups_hit = 0;
  uint64_t lookups_miss = 0;
  uint64_t lookups_timeout = 0;  // or nobody to ask
  uint64_t loads_ok = 0;
  uint64_t loads_failed = 0;
  uint64_t load_tokens = 0;  // of loads_ok
  uint64_t saves_stored = 0;
  uint64_t saves_present = 0;
  uint64_t saves_dropped = 0;
  uint64_t quarantined_pages = 0;  // now
  uint64_t reconnects = 0;
};

class KvManager final : private SessionListener {
 public:
  static constexpr size_t kRequestsMax = 65'536;

  // kInvalidArgument / kUnsupported name the option.
  static Result<std::unique_ptr<KvManager>> Create(KvManagerOptions options);
  ~KvManager() override;
  KvManager(const KvManager&) = delete;
  KvManager& operator=(const KvManager&) = delete;

  uint64_t epoch() const { return epoch_; }
  Result<bool> WaitReady(double timeout_s);

  void AddRequest(const std::string& request_id, std::span<const uint32_t> tokens,
                  std::vector<KeyExtra> extras, std::span<const std::string> parts,
                  std::string_view salt = {});
  void ExtendRequest(const std::string& request_id, std::span<const uint32_t> tokens);
  void FinishRequest(const std::string& request_id);
  void NewNamespace();

  std::optional<uint64_t> MatchedTokens(const std::string& request_id, uint64_t computed_tokens);
  void BeginLoad(const std::string& request_id, std::span<const uint32_t> page_ids,
                 uint64_t computed_tokens, uint64_t external_tokens);
  bool CancelLoad(const std::string& request_id);
  bool Loading(const std::string& request_id);
  std::vector<uint32_t> LoadFinished(const std::string& request_id, bool failed);

  std::vector<uint32_t> BeginSaves(const std::string& request_id, uint64_t computed_tokens,
                                   std::span<const uint32_t> page_ids);
  bool Unsaved(const std::string& request_id);
  void Flush();

  std::vector<uint32_t> TakeReleases();
  size_t HeldPages();
  std::string Metadata();
  bool healthy() { return session_ != nullptr && session_->healthy(); }
  KvManagerStats TakeStats();
  void Close();

 private:
  struct Request {
    KeyChain chain;
    TenantId tenant{};
    uint32_t prompt_tokens = 0;
    uint64_t lookup_id = 0;    // 0: nothing was asked, or it came to nothing
    bool asked = false;        // MatchedTokens waited once
    bool load_failed = false;  // recompute, for ever
    size_t next_save = 0;      // chunks before this one need no save by this request
  };

  explicit KvManager(KvManagerOptions options);

  // SessionListener.
  Status MakeHello(v1::ClientMessage* hello) override;
  void OnConnected(const v1::HelloReply& reply, std::vector<v1::ClientMessage>* first) override;
  void OnMessage(const v1::ServerMessage& message) override;
  void OnBroken() override;
  bool Outstanding() override;

  // kv_manager.cc; all REQUIRE mu_.
  Request* Find(const std::string& request_id);
  bool StartLookup(Request& request);
  uint64_t UsableTokens(Request& request, uint64_t computed_tokens);
  void GiveUpLookup(Request& request);

  // kv_manager_loads.cc; REQUIRE mu_.
  Status SendLoad(const Load& load, const Request& request, std::span<const uint32_t> page_ids,
                  uint64_t computed_tokens, uint64_t external_tokens);
  void SendCancel(uint64_t attempt);
  void OnDrained(const v1::Drained& drained);

  // kv_manager_saves.cc; REQUIRE mu_.
  void SkipPresent(Request& request);
  void OnSaveRead(const v1::SaveRead& read);
  void OnSaveDone(const v1::SaveDone& done);

  PlaneProcessPtr AskProcess(const v1::HelloReply& reply);

  const KvManagerOptions options_;
  const SteadyClock steady_clock_;
  const Clock* const clock_;
  const uint64_t epoch_;
  const Digest root_;

  std::mutex mu_;
  std::condition_variable answered_;
  std::unordered_map<std::string, Request> requests_;
  std::string name_space_;
  LookupTable lookups_;
  LoadTable loads_;
  PageQuarantine quarantine_;
  SaveQueue saves_;
  std::vector<uint32_t> freed_;  // for TakeReleases
  PlaneProcessPtr process_;      // of the current or the last connection
  KvManagerStats stats_;
  uint64_t breaks_told_ = 0;

  // Last: its threads end before anything above goes.
  std::unique_ptr<Session> session_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_KV_MANAGER_H_
