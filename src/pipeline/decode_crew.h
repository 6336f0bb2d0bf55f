// DecodeCrew: threads that decode beside the pipeline's own, one per further core.
//
// The pipeline hands out JOBS, a step of one segment each, and takes them back done. The queue
// between them is short (two jobs a thread: one under work, one that waits), so that the pipeline
// keeps the choice of what comes next; when it is full the pipeline decodes too. While a job is out
// its segment, its bytes and its pages belong to the thread that has it.
//
// With a codec engine each thread has a queue of its own, as far as there are queues, and the
// blocks of both its jobs on the way through it: it submits those of one while it writes those of
// the other. A job comes back when nothing of it is with the engine, so that any thread may have
// the segment's next one. Where the engine is gone for a thread, that thread decodes in software.
// A thread with blocks out looks for them every EnginePort::kPollNs; without, it is blocked.
//
// Owner thread: the pipeline's. Steady state allocates nothing.
#ifndef SHADOWSERVE_PIPELINE_DECODE_CREW_H_
#define SHADOWSERVE_PIPELINE_DECODE_CREW_H_

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "pipeline/segment_decoder.h"

namespace shadowserve {

// One step of a segment. `cursor.task` is filled by who makes the job.
struct DecodeJob {
  DecodeCursor cursor;
  uint64_t arrived = 0;   // leading bytes of the object that are there
  void* owner = nullptr;  // whose it is
  // What became of it.
  Status status;
  bool complete = false;  // all blocks are written and fenced
  bool refused = false;   // only a tag was wrong: no accident
};

// Blocks per step: about 0.2 ms of work, the longest that anything else of the thread waits.
constexpr uint32_t kBlocksPerStep = 8;

// Begins the segment if that was not done, and goes one step of up to `blocks` blocks, as far as
// the object's first `arrived` bytes go (0: no block is begun). All writes of the step are fenced.
// Returns how many blocks it has begun.
uint32_t RunDecodeJob(SegmentDecoder* decoder, DecodeJob* job, uint64_t arrived, uint32_t blocks);

class DecodeCrew {
 public:
  static constexpr uint32_t kJobsPerThread = 2;
  // Blocks that a job begins: a step's, or of a thread with an engine so many that its jobs
  // together fill what the engine takes.
  static constexpr uint32_t kBlocksPerEngineJob = EnginePort::kDepthMax / kJobsPerThread;

  // One thread for each of `cpus`, pinned to it. `metrics`, `clock` and `engine.engine` outlive the
  // crew. With `keys`, as Seal::Create.
  static Result<std::unique_ptr<DecodeCrew>> Create(std::span<const int> cpus,
                                                    std::span<const AuthKey> keys,
                                                    SealAlgorithm cipher, Metrics* metrics,
                                                    const Clock* clock,
                                                    const EnginePort::Options& engine = {});
  ~DecodeCrew();  // REQUIRES: no job is out

  uint32_t threads() const { return static_cast<uint32_t>(members_.size()); }
  // Threads that have a queue of the engine. REQUIRES: no job was handed out yet.
  uint32_t engine_threads() const;
  bool has_room() const { return out_ < threads() * kJobsPerThread; }
  uint32_t jobs_out() const { return out_; }
  // Lends the job. REQUIRES: has_room().
  void Hand(DecodeJob* job);
  // The next job that is done, or null.
  DecodeJob* TakeBack();
  // Readable when a job came back since the last look at it.
  int fd() const { return event_.get(); }

 private:
  // A job that a thread has.
  struct Held {
    DecodeJob* job = nullptr;
    uint32_t blocks = 0;  // that it may still begin
    bool over() const;
  };
  struct Member {
    std::unique_ptr<Seal> seal;
    std::unique_ptr<SegmentDecoder> decoder;
    std::vector<Held> held;  // the thread's
    std::thread thread;
  };
  DecodeCrew() = default;
  void Run(Member* member, uint32_t number, int cpu);
  bool Take(Member* member);
  bool Work(Member* member);
  void HandBack(DecodeJob* job);

  std::vector<Member> members_;
  UniqueFd event_;
  uint32_t out_ = 0;  // handed out and not taken back

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_. First in, first out; their capacity is all that can be out.
  std::vector<DecodeJob*> waiting_;
  std::vector<DecodeJob*> done_;
  uint32_t idle_ = 0;  // threads that are blocked, or waking up
  bool stopping_ = false;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_DECODE_CREW_H_
