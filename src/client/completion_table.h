// Loads of one worker rank: which are expected, which are done, which are done before they were
// expected. Each expected attempt comes out of Take exactly once.
// Not thread-safe: guarded by its owner's lock. Time is passed in.
#ifndef SHADOWSERVE_CLIENT_COMPLETION_TABLE_H_
#define SHADOWSERVE_CLIENT_COMPLETION_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace shadowserve {

class CompletionTable {
 public:
  using Key = std::pair<uint64_t, uint64_t>;  // epoch, attempt
  // Completions that came before their step; more push out the oldest, whose load then runs into
  // its deadline.
  static constexpr size_t kEarlyMax = 4096;

  struct Finished {
    std::vector<std::string> received;
    std::vector<std::string> failed;
    bool empty() const { return received.empty() && failed.empty(); }
  };

  // REQUIRES: attempts of one epoch are expected in rising order. An attempt that is not above all
  // earlier ones is ignored.
  void Expect(const Key& key, std::string request_id, int64_t deadline_ns);
  // The data plane's word on an attempt, or ours. Later ones on the same attempt are ignored.
  void Complete(const Key& key, bool ok);
  // Only what is expected and not done: the metadata of the scheduler half, a deadline.
  void Fail(const Key& key);
  void FailAll();
  // Fails what is over its deadline; returns those attempts.
  std::vector<Key> Expire(int64_t now_ns);
  Finished Take();
  bool has_finished() const { return !finished_.empty(); }
  size_t pending() const { return expected_.size(); }

 private:
  struct Expected {
    std::string request_id;
    int64_t deadline_ns = 0;
  };
  using Expectations = std::map<Key, Expected>;
  Expectations::iterator Finish(Expectations::iterator expected, bool ok);

  Expectations expected_;
  std::map<Key, bool> early_;
  Finished finished_;
  Key last_{0, 0};  // the highest attempt expected of the current epoch
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_COMPLETION_TABLE_H_
