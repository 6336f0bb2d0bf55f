// RespCollector: a whole reply, arrays in arrays included, as a flat list in the order of the
// stream. For answers about the server (topology, listings), not for values: it allocates. Bounded
// by what follows; beyond it the reply is refused. Not thread-safe.
#ifndef SHADOWSERVE_STORE_RESP_COLLECTOR_H_
#define SHADOWSERVE_STORE_RESP_COLLECTOR_H_

#include <string>
#include <vector>

#include "store/resp_reader.h"

namespace shadowserve {

struct RespItem {
  RespType type = RespType::kNil;
  int64_t number = 0;  // kInteger: value; kArray: items
  std::string text;    // kSimple, kError, kBulk
  size_t end = 0;      // index behind this item and all that is in it
};

class RespCollector {
 public:
  static constexpr size_t kDepthMax = 8;
  static constexpr size_t kItemsMax = 1 << 18;
  static constexpr size_t kBytesMax = size_t{16} << 20;
  static constexpr size_t kBulkMax = size_t{256} << 10;

  enum class Step : uint8_t { kMore, kDone, kBad };

  void Reset();
  // Where the next bulk goes.
  std::span<std::byte> target() { return scratch_; }
  Step Add(const RespToken& token);
  const std::vector<RespItem>& items() const { return items_; }

 private:
  std::vector<std::byte> scratch_ = std::vector<std::byte>(kBulkMax);
  std::vector<RespItem> items_;
  struct Open {
    size_t item;
    int64_t left;
  };
  std::vector<Open> open_;
  size_t bytes_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_RESP_COLLECTOR_H_
