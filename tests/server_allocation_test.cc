// What fetches and saves cost in heap allocations, from a client's message to those that answer it:
// the server's code and the pipeline below it, with messages as gRPC would give and take them.
#include <condition_variable>
#include <cstdio>
#include <mutex>

#include "client/kv_export.h"
#include "rpc/convert.h"
#include "rpc/limits.h"
#include "server/served_plane_testing.h"
#include "soak/kv_content.h"
#include "store/allocation_count_test.h"

namespace shadowserve::testing {
namespace {

constexpr ModelShape kShape = {4, 4, 64, KvDtype::kBf16, 1};
constexpr uint32_t kPageTokens = 128;
constexpr uint32_t kChunks = 3;
constexpr uint32_t kPages = kChunks * kChunkTokens / kPageTokens;
constexpr std::chrono::seconds kPatience(30);
constexpr int kHandOverMs = 30'000;

// A session's stream in place of gRPC's.
class Stream final : public SessionSink {
 public:
  OutgoingQueue::Message Take() override {
    const std::lock_guard lock(mutex_);
    return queue_.Take();
  }
  void Send(OutgoingQueue::Message message) override {
    const std::lock_guard lock(mutex_);
    queue_.Push(std::move(message));
    sent_.notify_one();
  }
  // The next message that was sent, looked at by `look`; nothing else is kept of it.
  template <typename Look>
  void Next(Look look) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(sent_.wait_for(lock, kPatience, [this] { return !queue_.empty(); }));
    look(queue_.front());
    queue_.Pop();
  }

 private:
  std::mutex mutex_;
  std::condition_variable sent_;
  OutgoingQueue queue_;
};

class ServerAllocation : public ::testing::Test {
 protected:
  void SetUp() override {
    plane_.server->Stop(0);  // nothing of gRPC takes part
    memory_ = soak::KvMemory::Create(kShape, kPageTokens, kPages, false).value();
    for (uint32_t page = 0; page < kPages; ++page) {
      for (uint32_t granule = 0; granule < memory_->page_granules(); ++granule) {
        memory_->Write(page, granule, soak::Mix(page * 100 + granule));
      }
    }
    AttachScheduler();
    AttachWorker();
    for (uint32_t i = 0; i < kChunks; ++i) {
      keys_[i].fill(std::byte(i + 1));
      std::memset(keys_[i].data(), 0, sizeof(uint32_t));  // number 0
      v1::SaveItem* const item = save_.mutable_save()->add_items();
      item->set_key(KeysToBytes(std::span(keys_).subspan(i, 1)));
      for (uint32_t page = 0; page < kPages / kChunks; ++page) {
        item->add_pages(i * kPages / kChunks + page);
      }
    }
    v1::Load* const load = load_.mutable_load();
    load->set_request_id("a request id that is longer than a string without memory of its own");
    load->set_keys(KeysToBytes(keys_));
    for (uint32_t page = 0; page < kPages; ++page) load->add_pages(page);
    lookup_.mutable_lookup()->set_keys(KeysToBytes(keys_));
    grant_.mutable_grant()->set_epoch(kEpoch);
    grant_.mutable_grant()->add_attempts(0);
  }

  void Handle(const std::shared_ptr<Stream>& from, const v1::ClientMessage& message) {
    const Status status = plane_.engines->Handle(from.get(), message);
    ASSERT_TRUE(status.ok()) << status.ToString();
  }

  // Saves all pages under keys of this number, and waits for what becomes of each chunk.
  void Save(uint32_t number, const char* result) {
    for (v1::SaveItem& item : *save_.mutable_save()->mutable_items()) {
      item.set_save_id(next_save_++);
      std::memcpy(item.mutable_key()->data(), &number, sizeof(number));
    }
    v1::SaveConfirm* const confirm = confirm_.mutable_save_confirm();
    Handle(scheduler_, save_);
    for (uint32_t done = 0; done < kChunks;) {
      confirm->clear_held();
      scheduler_->Next([&](const v1::ServerMessage& message) {
        for (const uint64_t id : message.save_read().save_ids()) confirm->add_held(id);
        if (!message.has_save_done()) return;
        EXPECT_EQ(message.save_done().result(), result);
        ++done;
      });
      if (confirm->held_size() > 0) Handle(scheduler_, confirm_);
    }
  }

  // Looks up and fetches all chunks, as one request of an engine does it.
  void Fetch(uint64_t id) {
    lookup_.mutable_lookup()->set_lookup_id(id);
    load_.mutable_load()->set_attempt(id);
    grant_.mutable_grant()->set_attempts(0, id);
    Handle(scheduler_, lookup_);
    scheduler_->Next([&](const v1::ServerMessage& message) {
      EXPECT_EQ(message.lookup_reply().lookup_id(), id);
      EXPECT_EQ(message.lookup_reply().chunks(), kChunks);
    });
    // In every other one the grant comes first, as it may: it travels on another stream.
    if (id % 2 == 0) Handle(worker_, grant_);
    Handle(scheduler_, load_);
    if (id % 2 == 1) Handle(worker_, grant_);
    worker_->Next([&](const v1::ServerMessage& message) {
      EXPECT_EQ(message.load_done().attempt(), id);
      EXPECT_EQ(message.load_done().status(), 0u) << message.load_done().message();
      EXPECT_EQ(message.load_done().kv_bytes(), memory_->region().size());
    });
    scheduler_->Next([&](const v1::ServerMessage& message) {
      ASSERT_EQ(message.drained().attempts_size(), 1);
      EXPECT_EQ(message.drained().attempts(0), id);
    });
  }

  static constexpr uint64_t kEpoch = 7;

  void AttachScheduler() {
    v1::ClientMessage message;
    v1::SchedulerHello* const hello = message.mutable_scheduler_hello();
    hello->set_protocol(kProtocolVersion);
    hello->set_engine_id(kEngineId);
    hello->set_epoch(kEpoch);
    hello->set_world_size(1);
    hello->set_page_tokens(kPageTokens);
    *hello->mutable_shape() = ToProto(kShape);
    const v1::HelloReply reply = plane_.engines->Attach(scheduler_, message);
    ASSERT_EQ(reply.status(), 0u) << reply.message();
  }
  void AttachWorker() {
    exporter_ = KvExporter::Create(memory_->region(), KvExportOptions{}).value();
    ASSERT_EQ(exporter_->info().kind, "mapped");
    const SideToken token = MakeSideToken();
    ASSERT_TRUE(ExchangeSide(SideSocketPath(plane_.address.path), token, exporter_->memory_fd(),
                             kHandOverMs)
                    .ok());
    v1::ClientMessage message;
    v1::WorkerHello* const hello = message.mutable_worker_hello();
    hello->set_protocol(kProtocolVersion);
    hello->set_engine_id(kEngineId);
    hello->set_world_size(1);
    *hello->mutable_shape() = ToProto(kShape);
    *hello->mutable_layout() = ToProto(memory_->layout());
    hello->set_device(exporter_->info().kind);
    hello->set_region_bytes(exporter_->info().region_bytes);
    hello->set_memory_offset(exporter_->info().memory_offset);
    hello->set_side_token(reinterpret_cast<const char*>(token.data()), token.size());
    const v1::HelloReply reply = plane_.engines->Attach(worker_, message);
    ASSERT_EQ(reply.status(), 0u) << reply.message();
  }

  static constexpr const char* kEngineId = "an engine id that needs memory of its own";

  ServedPlane plane_{AllowedUids{true, {}}};
  std::unique_ptr<soak::KvMemory> memory_;
  std::unique_ptr<KvExporter> exporter_;
  const std::shared_ptr<Stream> scheduler_ = std::make_shared<Stream>();
  const std::shared_ptr<Stream> worker_ = std::make_shared<Stream>();
  std::array<ChunkKey, kChunks> keys_{};
  v1::ClientMessage lookup_;
  v1::ClientMessage load_;
  v1::ClientMessage grant_;
  v1::ClientMessage save_;
  v1::ClientMessage confirm_;
  uint64_t next_save_ = 1;
};

// Repeats `work` until a round of it allocates what it must, at most kRounds times: how much is on
// its way at a time, which is what memory is kept for, depends on how the threads take turns.
template <typename Work>
void ExpectAllocations(size_t wanted_each, Work work) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  work();
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  constexpr size_t kRounds = 10;
  constexpr size_t kRoundSize = 50;
  size_t calls = 0;
  for (size_t round = 0; round < kRounds; ++round) {
    const size_t before = CountAllocations().calls;
    for (size_t i = 0; i < kRoundSize; ++i) work();
    calls = CountAllocations().calls - before;
    if (calls == wanted_each * kRoundSize) return;
  }
  EXPECT_EQ(calls, wanted_each * kRoundSize) << "in " << kRoundSize << " of them";
#endif
}

TEST_F(ServerAllocation, AFetchAllocatesNothingOnceOthersLikeItWereServed) {
  Save(0, "stored");
  uint64_t id = 0;
  ExpectAllocations(0, [&] { Fetch(++id); });
}

TEST_F(ServerAllocation, ASaveAllocatesOnlyWhatTheStoreKeepsOnceOthersLikeItWereServed) {
  uint32_t number = 0;
  // A memory store keeps each object in an allocation of its own: a segment and a marker.
  ExpectAllocations(kChunks * 2, [&] { Save(number++, "stored"); });
  ExpectAllocations(0, [&] { Save(number - 1, "present"); });
}

}  // namespace
}  // namespace shadowserve::testing
