// Who is attached, and what is in flight for whom: joins the sessions of an engine's scheduler half
// and workers by engine id, fans a load or save out to the ranks, and gathers their answers.
//
// Called on gRPC's threads (sessions) and on the pipeline thread (events); one mutex guards the
// state, held for microseconds and never while anything blocks. Calls into the pipeline go through
// its mailbox.
#ifndef SHADOWSERVE_SERVER_ENGINES_H_
#define SHADOWSERVE_SERVER_ENGINES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "format/kv_layout.h"
#include "pipeline/data_plane.h"
#include "pipeline/events.h"
#include "rpc/control.pb.h"
#include "server/outgoing_queue.h"
#include "server/side_channel.h"
#include "server/slots.h"

namespace shadowserve {

// One stream, as the registry sees it. Thread-safe.
class SessionSink {
 public:
  virtual ~SessionSink() = default;
  // A message to fill, on this thread, and to send.
  virtual OutgoingQueue::Message Take() = 0;
  // Queues it; a full queue ends the session.
  virtual void Send(OutgoingQueue::Message message) = 0;
};

class Engines final : public PipelineEvents {
 public:
  struct Options {
    uint32_t head_groups = 1;
    StoredForm form;  // for engines that ask for no profile of their own
    int64_t deadline_max_ns = 30 * kNsPerSecond;
    uint64_t incarnation = 0;
    std::string side_socket;  // path, or empty
  };
  // Early grants kept per engine: a Grant may overtake its Load, which comes on another stream.
  static constexpr size_t kEarlyGrantsMax = 1024;

  Engines(Options options, Metrics* metrics, const Clock* clock)
      : options_(std::move(options)), metrics_(metrics), clock_(clock) {}
  // Before any session: where the work goes. `side` may be null (no side socket).
  void Bind(DataPlane* plane, SideChannel* side);

  // A session's first message. The reply's status 0 means attached; else the session ends.
  v1::HelloReply Attach(const std::shared_ptr<SessionSink>& session,
                        const v1::ClientMessage& hello);
  // Any further message. An error ends the session.
  Status Handle(SessionSink* session, const v1::ClientMessage& message);
  // The stream is over: what it started is cancelled.
  void Detach(SessionSink* session);

  std::vector<v1::SessionStatus> SessionStatuses() const;

  void OnLoadDone(const LoadResult& result) override;
  void OnSaveRead(uint64_t job_id, bool last) override;
  void OnSaveDone(const SaveResult& result) override;

 private:
  using AttemptKey = std::pair<uint64_t, uint64_t>;  // epoch, attempt or save id
  struct Worker {
    std::shared_ptr<SessionSink> session;
    uint64_t rank_id = 0;
    uint64_t page_count = 0;
    uint64_t region_bytes = 0;
    std::string device;
  };
  struct Attempt {
    // Its loads have ids in a row; those that are not done are in loads_.
    uint64_t first_load = 0;
    uint32_t loads = 0;
    uint32_t loads_left = 0;
    StatusCode worst = StatusCode::kOk;
  };
  struct SaveJob {
    uint64_t job_id = 0;
    bool read_over = false;
  };
  struct Save {
    std::pmr::vector<SaveJob> jobs;   // those not done
    std::pmr::vector<uint64_t> asks;  // job ids that wait for their question to be asked
    uint64_t asked = 0;               // the job whose question is out, or 0
    uint32_t dropped = 0;
    uint32_t stored = 0;
    DropLabel reason = DropLabel::kCount;

    using allocator_type = std::pmr::polymorphic_allocator<>;  // its map's
    explicit Save(const allocator_type& nodes) : jobs(nodes), asks(nodes) {}
  };
  struct Engine {
    std::string id;
    std::shared_ptr<SessionSink> scheduler;
    uint64_t epoch = 0;
    uint32_t world_size = 0;
    uint32_t page_tokens = 0;
    ModelShape shape;
    StoredForm form;
    std::map<uint32_t, Worker> workers;
    std::pmr::map<AttemptKey, Attempt> attempts;
    std::pmr::map<AttemptKey, Save> saves;
    std::vector<std::pair<uint32_t, AttemptKey>> early_grants;

    explicit Engine(std::pmr::memory_resource* nodes) : attempts(nodes), saves(nodes) {}
  };
  struct Place {               // of a load or save job
    Engine* engine = nullptr;  // has its attempt or save, so it stays
    uint32_t rank = 0;
    AttemptKey key;
  };
  // What is on its way to the pipeline. A closure is this engine table and one of them: it fits
  // into a std::function as it is.
  struct LookupTrip {
    LookupPipeline::Spec spec;
    std::shared_ptr<SessionSink> session;
    uint64_t lookup_id = 0;
    size_t wanted = 0;  // chunks
  };
  struct LoadTrip {
    LoadSpec spec;
    uint64_t rank_id = 0;
  };
  struct SaveTrip {
    SaveSpec spec;
    uint64_t rank_id = 0;
  };
  struct Attached {
    std::string engine_id;
    bool scheduler = false;
    uint32_t rank = 0;
  };

  Status AttachScheduler(const std::shared_ptr<SessionSink>& session,
                         const v1::SchedulerHello& hello, v1::HelloReply* reply);
  Status AttachWorker(const std::shared_ptr<SessionSink>& session, const v1::WorkerHello& hello);
  Result<std::unique_ptr<RankMemory>> OpenRank(const v1::WorkerHello& hello);
  Result<StoredForm> FormFor(std::string_view profile, KvDtype dtype) const;

  Engine* EngineOf(const std::string& engine_id);
  void HandleLookup(Engine* engine, const v1::Lookup& lookup);
  void EndLookup(LookupTrip* trip, StatusCode code, uint32_t chunks);
  Status HandleLoad(Engine* engine, const v1::Load& load);
  void StartLoad(Engine* engine, uint64_t load_id, const Worker& worker, const v1::Load& load);
  void RunLoad(LoadTrip* trip);
  void CancelLoads(const Attempt& attempt, const char* why);
  void HandleGrant(Engine* engine, uint32_t rank, const v1::Grant& grant);
  void HandleCancel(Engine* engine, const v1::Cancel& cancel);
  Status HandleSave(Engine* engine, const v1::Save& save);
  bool StartSave(Engine* engine, uint64_t job_id, const Worker& worker, const v1::SaveItem& item);
  void RunSave(SaveTrip* trip);
  void HandleConfirm(Engine* engine, const v1::SaveConfirm& confirm);
  void HandleDrainQuery(Engine* engine, const v1::DrainQuery& query);

  void CancelEpoch(Engine* engine, uint64_t epoch);
  void RemoveWorker(Engine* engine, uint32_t rank);
  void AskNext(Engine* engine, const AttemptKey& key, Save* save);
  void FinishAttempt(Engine* engine, const AttemptKey& key, const Attempt& attempt);
  void FinishSave(Engine* engine, const AttemptKey& key, const Save& save);
  void ForgetIfUnused(const std::string& engine_id);
  // Posts, or answers for the pipeline when its mailbox is full.
  void PostOr(std::function<void()> work, std::function<void()> refused);

  const Options options_;
  Metrics* metrics_;
  const Clock* clock_;
  DataPlane* plane_ = nullptr;
  SideChannel* side_ = nullptr;

  mutable std::mutex mutex_;
  // What comes and goes with each request takes its nodes from here again and again.
  std::pmr::unsynchronized_pool_resource nodes_;
  std::map<std::string, Engine> engines_;
  std::unordered_map<const SessionSink*, Attached> sessions_;
  std::pmr::unordered_map<uint64_t, Place> loads_{&nodes_};
  std::pmr::unordered_map<uint64_t, Place> save_jobs_{&nodes_};
  Slots<LookupTrip> lookup_trips_;
  Slots<LoadTrip> load_trips_;
  Slots<SaveTrip> save_trips_;
  uint64_t next_id_ = 1;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_ENGINES_H_
