// DecodeCrew: threads that decode beside the pipeline's own, one per further core.
//
// The pipeline hands out JOBS, a step of one segment each, and takes them back done. The queue
// between them is short (two jobs a thread: one under work, one that waits), so that the pipeline
// keeps the choice of what comes next; when it is full the pipeline decodes too. While a job is out
// its segment, its bytes and its pages belong to the thread that has it.
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
  uint32_t blocks = 0;    // most blocks of this step
  void* owner = nullptr;  // whose it is
  // What became of it.
  Status status;
  bool complete = false;  // all blocks are written and fenced
  bool refused = false;   // only a tag was wrong: no accident
};

// Begins the segment if that was not done, and goes one step. All writes of the step are fenced.
void RunDecodeJob(SegmentDecoder* decoder, DecodeJob* job);

class DecodeCrew {
 public:
  static constexpr uint32_t kJobsPerThread = 2;

  // One thread for each of `cpus`, pinned to it. `metrics` and `clock` outlive the crew. With
  // `keys`, as Seal::Create.
  static Result<std::unique_ptr<DecodeCrew>> Create(std::span<const int> cpus,
                                                    std::span<const AuthKey> keys,
                                                    SealAlgorithm cipher, Metrics* metrics,
                                                    const Clock* clock);
  ~DecodeCrew();  // REQUIRES: no job is out

  uint32_t threads() const { return static_cast<uint32_t>(members_.size()); }
  bool has_room() const { return out_ < threads() * kJobsPerThread; }
  uint32_t jobs_out() const { return out_; }
  // Lends the job. REQUIRES: has_room().
  void Hand(DecodeJob* job);
  // The next job that is done, or null.
  DecodeJob* TakeBack();
  // Readable when a job came back since the last look at it.
  int fd() const { return event_.get(); }

 private:
  struct Member {
    std::unique_ptr<Seal> seal;
    std::unique_ptr<SegmentDecoder> decoder;
    std::thread thread;
  };
  DecodeCrew() = default;
  void Run(Member* member, uint32_t number, int cpu);

  std::vector<Member> members_;
  UniqueFd event_;
  uint32_t out_ = 0;  // handed out and not taken back

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_. First in, first out; their capacity is all that can be out.
  std::vector<DecodeJob*> waiting_;
  std::vector<DecodeJob*> done_;
  bool stopping_ = false;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_DECODE_CREW_H_
