#include "pipeline/decode_crew.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "flow/affinity.h"
#include "pipeline/stage_work.h"

namespace shadowserve {

uint32_t RunDecodeJob(SegmentDecoder* decoder, DecodeJob* job, uint64_t arrived, uint32_t blocks) {
  const uint64_t refused_before = decoder->refused();
  if (!job->cursor.begun()) job->status = decoder->Begin(job->cursor.task, &job->cursor);
  const uint32_t left_before = job->cursor.blocks_left;
  if (job->status.ok()) {
    const Result<bool> stepped = decoder->Step(&job->cursor, arrived, blocks);
    job->status = stepped.status();
    job->complete = stepped.ok() && *stepped;
  }
  // Another thread may report the segment's end, or its failure.
  StoreFence();
  job->refused = decoder->refused() > refused_before;
  return left_before - job->cursor.blocks_left;
}

Result<std::unique_ptr<DecodeCrew>> DecodeCrew::Create(std::span<const int> cpus,
                                                       std::span<const AuthKey> keys,
                                                       SealAlgorithm cipher, Metrics* metrics,
                                                       const Clock* clock,
                                                       const EnginePort::Options& engine) {
  auto crew = std::unique_ptr<DecodeCrew>(new DecodeCrew());
  crew->event_ = UniqueFd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  SS_CHECK(crew->event_.valid(), "cannot make an eventfd");
  crew->waiting_.reserve(cpus.size() * kJobsPerThread);
  crew->done_.reserve(cpus.size() * kJobsPerThread);
  crew->members_.resize(cpus.size());
  for (Member& member : crew->members_) {
    if (!keys.empty()) {
      SS_TRY_ASSIGN(member.seal, Seal::Create(keys, cipher));
    }
    SS_TRY_ASSIGN(member.decoder,
                  SegmentDecoder::Create(metrics, clock, member.seal.get(), engine));
    member.held.reserve(kJobsPerThread);
  }
  for (uint32_t i = 0; i < crew->threads(); ++i) {
    Member* const member = &crew->members_[i];
    member->thread = std::thread(
        [owner = crew.get(), member, i, cpu = cpus[i]] { owner->Run(member, i + 1, cpu); });
  }
  return crew;
}

DecodeCrew::~DecodeCrew() {
  SS_CHECK(out_ == 0, "a decode job outlived its crew");
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (Member& member : members_) {
    if (member.thread.joinable()) member.thread.join();
  }
}

uint32_t DecodeCrew::engine_threads() const {
  return static_cast<uint32_t>(std::ranges::count_if(
      members_, [](const Member& each) { return each.decoder->has_engine(); }));
}

void DecodeCrew::Hand(DecodeJob* job) {
  SS_CHECK(has_room(), "more decode jobs than threads take");
  ++out_;
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(job);
  }
  work_.notify_one();
}

DecodeJob* DecodeCrew::TakeBack() {
  if (out_ == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  if (done_.empty()) return nullptr;
  DecodeJob* const job = done_.front();
  done_.erase(done_.begin());
  if (done_.empty()) {
    uint64_t count = 0;
    (void)!read(event_.get(), &count, sizeof(count));
  }
  --out_;
  return job;
}

void DecodeCrew::Run(Member* member, uint32_t number, int cpu) {
  NameThisThread("ss-decode-" + std::to_string(number));
  trace_thread = static_cast<uint8_t>(number);
  if (const Status pinned = PinThisThread(std::span(&cpu, 1)); !pinned.ok()) {
    Log(LogLevel::kWarn, "{}", pinned.message());
  }
  while (Take(member)) {
    // Not on work_: whoever is woken there takes a job.
    if (!Work(member)) std::this_thread::sleep_for(std::chrono::nanoseconds(EnginePort::kPollNs));
  }
}

// One more job, if the thread can use it; waits when it has none. False when the crew ends.
bool DecodeCrew::Take(Member* member) {
  const bool has_engine = member->decoder->has_engine();
  if (!member->held.empty() && (!has_engine || member->held.size() == kJobsPerThread)) return true;
  std::unique_lock lock(mutex_);
  if (member->held.empty()) {
    ++idle_;
    work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    --idle_;
    if (waiting_.empty()) return false;
  } else if (waiting_.size() <= idle_) {
    return true;  // another thread has nothing at all
  }
  const uint32_t blocks = has_engine ? kBlocksPerEngineJob : kBlocksPerStep;
  member->held.push_back({waiting_.front(), blocks});
  waiting_.erase(waiting_.begin());
  return true;
}

// A step of each job that finds something to do. False when none did.
bool DecodeCrew::Work(Member* member) {
  SegmentDecoder* const decoder = member->decoder.get();
  bool moved = decoder->Poll();
  for (Held& held : member->held) {
    DecodeJob* const job = held.job;
    // Once it may begin no more, what is with the engine is still written.
    const bool finish_only = held.blocks == 0;
    const uint64_t arrived = finish_only ? 0 : job->arrived;
    const bool can_step = !job->cursor.begun() || decoder->CanStep(job->cursor, arrived);
    if (can_step) {
      const uint32_t most = finish_only ? kBlocksPerStep : std::min(held.blocks, kBlocksPerStep);
      held.blocks -= RunDecodeJob(decoder, job, arrived, most);
    }
    const bool over = held.over();
    moved |= can_step || over;
    if (over) HandBack(std::exchange(held.job, nullptr));
  }
  std::erase_if(member->held, [](const Held& held) { return held.job == nullptr; });
  return moved;
}

// Nothing of it is with the engine, or would be begun.
bool DecodeCrew::Held::over() const {
  const DecodeCursor& cursor = job->cursor;
  if (!job->status.ok() || job->complete) return true;
  return cursor.engine.out == 0 && (blocks == 0 || !cursor.next_arrived(job->arrived));
}

void DecodeCrew::HandBack(DecodeJob* job) {
  const std::lock_guard lock(mutex_);
  done_.push_back(job);
  const uint64_t one = 1;
  if (done_.size() == 1) (void)!write(event_.get(), &one, sizeof(one));
}

}  // namespace shadowserve
