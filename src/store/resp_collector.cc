#include "store/resp_collector.h"

namespace shadowserve {

void RespCollector::Reset() {
  items_.clear();
  open_.clear();
  bytes_ = 0;
}

RespCollector::Step RespCollector::Add(const RespToken& token) {
  RespItem item;
  item.type = token.type;
  item.number = token.number;
  if (token.type == RespType::kBulk) {
    if (!token.stored) return Step::kBad;
    item.text.assign(reinterpret_cast<const char*>(scratch_.data()),
                     static_cast<size_t>(token.number));
  } else {
    item.text = token.text;
  }
  bytes_ += item.text.size();
  if (items_.size() == kItemsMax || bytes_ > kBytesMax) return Step::kBad;
  if (!open_.empty()) --open_.back().left;
  items_.push_back(std::move(item));
  if (token.type == RespType::kArray && token.number > 0) {
    if (open_.size() == kDepthMax) return Step::kBad;
    open_.push_back({items_.size() - 1, token.number});
    return Step::kMore;
  }
  items_.back().end = items_.size();
  while (!open_.empty() && open_.back().left == 0) {
    items_[open_.back().item].end = items_.size();
    open_.pop_back();
  }
  return open_.empty() ? Step::kDone : Step::kMore;
}

}  // namespace shadowserve
