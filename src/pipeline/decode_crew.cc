#include "pipeline/decode_crew.h"

#include <sys/eventfd.h>

#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "flow/affinity.h"
#include "pipeline/stage_work.h"

namespace shadowserve {

void RunDecodeJob(SegmentDecoder* decoder, DecodeJob* job) {
  const uint64_t refused_before = decoder->refused();
  if (!job->cursor.begun()) job->status = decoder->Begin(job->cursor.task, &job->cursor);
  if (job->status.ok()) {
    const Result<bool> stepped = decoder->Step(&job->cursor, job->arrived, job->blocks);
    job->status = stepped.status();
    job->complete = stepped.ok() && *stepped;
  }
  // Another thread may report the segment's end, or its failure.
  StoreFence();
  job->refused = decoder->refused() > refused_before;
}

Result<std::unique_ptr<DecodeCrew>> DecodeCrew::Create(std::span<const int> cpus,
                                                       std::span<const AuthKey> keys,
                                                       SealAlgorithm cipher, Metrics* metrics,
                                                       const Clock* clock) {
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
    SS_TRY_ASSIGN(member.decoder, SegmentDecoder::Create(metrics, clock, member.seal.get()));
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
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    DecodeJob* const job = waiting_.front();
    waiting_.erase(waiting_.begin());
    lock.unlock();
    RunDecodeJob(member->decoder.get(), job);
    lock.lock();
    done_.push_back(job);
    const uint64_t one = 1;
    if (done_.size() == 1) (void)!write(event_.get(), &one, sizeof(one));
  }
}

}  // namespace shadowserve
