// Loads from begin_load until the worker half reported them (load_finished), and what the worker
// half must be told about them. Not thread-safe: guarded by its owner's lock. Time is passed in.
#ifndef SHADOWSERVE_CLIENT_LOAD_TABLE_H_
#define SHADOWSERVE_CLIENT_LOAD_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/plane_process.h"
#include "client/step_metadata.h"

namespace shadowserve {

struct Load {
  uint64_t attempt = 0;
  std::string request_id;
  std::vector<uint32_t> pages;  // that the load may write
  uint32_t tokens = 0;
  int64_t deadline_ns = 0;
  PlaneProcessPtr process;  // who was asked; null: nobody ever was
  bool drained = false;     // nothing writes these pages any more
  bool failed = false;      // the worker half was, or will be, told so
};

class LoadTable {
 public:
  // Above this many nothing new is offered to the engine.
  static constexpr size_t kLoadsMax = 4096;

  uint64_t NextAttempt() { return next_attempt_++; }
  // Enters the next step's metadata. REQUIRES: no load of this request is in the table.
  Load& Add(Load load);
  bool Contains(std::string_view request_id) const;
  Load* Find(uint64_t attempt);
  Load* FindByRequest(std::string_view request_id);
  std::optional<Load> Take(std::string_view request_id);

  // Tells the worker half, once.
  void Fail(Load& load);
  void FailAll();
  // Those over their deadline that have not failed yet.
  std::vector<uint64_t> Expired(int64_t now_ns) const;
  // Attempts that `incarnation` was given and that are not drained, added to `attempts`.
  void AddUndrained(uint64_t incarnation, std::vector<uint64_t>* attempts) const;
  void TakeStep(StepMetadata* step);

  size_t size() const { return loads_.size(); }
  uint64_t tokens() const { return tokens_; }
  bool full() const { return loads_.size() >= kLoadsMax; }

 private:
  std::map<uint64_t, Load> loads_;
  std::unordered_map<std::string, uint64_t> attempt_of_;  // by request
  std::vector<StepMetadata::NewLoad> new_loads_;
  std::vector<uint64_t> new_failures_;
  uint64_t next_attempt_ = 1;
  uint64_t tokens_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_LOAD_TABLE_H_
