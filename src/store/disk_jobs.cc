#include "store/disk_jobs.h"

#include "base/check.h"

namespace shadowserve {

DiskJobs::DiskJobs() {
  for (uint32_t i = 0; i < kDiskQueueDepth; ++i) {
    free_[i] = kDiskQueueDepth - 1 - i;
    jobs_[i].temp_path = TempPath(i);
  }
}

uint32_t DiskJobs::Take(const StoreRequest& request) {
  SS_CHECK(!full(), "no free job");
  const uint32_t id = free_[--free_count_];
  DiskJob& job = jobs_[id];
  job.request = request;
  job.code = StatusCode::kOk;
  job.attempts = 0;
  job.sequence = next_sequence_++;
  job.size = request.buffer.size();
  job.done = 0;
  return id;
}

void DiskJobs::Release(uint32_t id) {
  jobs_[id].step = DiskStep::kFree;
  free_[free_count_++] = id;
}

bool DiskJobs::MustWait(uint32_t id) const {
  const DiskJob& job = jobs_[id];
  for (const DiskJob& other : jobs_) {
    if (other.step == DiskStep::kFree || &other == &job) continue;
    const bool earlier_change = IsChange(other.request.op) && other.sequence < job.sequence &&
                                other.request.name == job.request.name;
    const bool eviction = other.step == DiskStep::kEvict && other.victim == job.request.name;
    if (earlier_change || eviction) return true;
  }
  return false;
}

bool DiskJobs::ChangesName(const ObjectName& name, uint32_t except) const {
  for (uint32_t i = 0; i < kDiskQueueDepth; ++i) {
    if (i == except || jobs_[i].step == DiskStep::kFree) continue;
    if (IsChange(jobs_[i].request.op) && jobs_[i].request.name == name) return true;
  }
  return false;
}

uint32_t DiskJobs::NextUnblocked() const {
  uint32_t next = kDiskQueueDepth;
  for (uint32_t i = 0; i < kDiskQueueDepth; ++i) {
    if (jobs_[i].step != DiskStep::kBlocked || MustWait(i)) continue;
    if (next == kDiskQueueDepth || jobs_[i].sequence < jobs_[next].sequence) next = i;
  }
  return next;
}

}  // namespace shadowserve
