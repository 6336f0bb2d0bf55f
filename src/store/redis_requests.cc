#include "store/redis_requests.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "store/resp_writer.h"

namespace shadowserve {

RedisRequests::RedisRequests(std::string key_prefix, uint64_t ttl_s)
    : key_prefix_(std::move(key_prefix)), ttl_s_(ttl_s), requests_(kRedisQueueDepth) {
  free_.reserve(kRedisQueueDepth);
  for (RedisRequest& request : requests_) free_.push_back(&request);
}

bool RedisRequests::EarlierChange(const ObjectName& name) const {
  if (changes_ == 0) return false;
  for (const RedisRequest& each : requests_) {
    if (each.used && IsChange(each.request.op) && each.request.name == name) return true;
  }
  return false;
}

RedisRequest* RedisRequests::Take(const StoreRequest& request) {
  RedisRequest* const taken = free_.back();
  free_.pop_back();
  taken->waits = IsChange(request.op) && EarlierChange(request.name);
  taken->used = true;
  taken->request = request;
  taken->number = next_number_++;
  taken->redirects = 0;
  taken->master_only = false;
  changes_ += IsChange(request.op) ? 1 : 0;
  waiting_ += taken->waits ? 1 : 0;
  std::memcpy(taken->key.data(), key_prefix_.data(), key_prefix_.size());
  taken->key_bytes =
      key_prefix_.size() +
      CopyText(request.name,
               std::span(taken->key).subspan(key_prefix_.size()).first<kObjectNameTextMax>());
  taken->target = request.op == StoreOp::kGet ? request.buffer : std::span<std::byte>();
  taken->expected_bytes = request.op == StoreOp::kPut ? request.buffer.size() : 0;
  Compose(taken, "");
  return taken;
}

RedisRequest* RedisRequests::Release(RedisRequest* request) {
  const bool change = IsChange(request->request.op);
  request->used = false;
  free_.push_back(request);
  changes_ -= change ? 1 : 0;
  if (!change || waiting_ == 0) return nullptr;
  RedisRequest* next = nullptr;
  for (RedisRequest& each : requests_) {
    if (!each.used || !each.waits || each.request.name != request->request.name) continue;
    if (next == nullptr || each.number < next->number) next = &each;
  }
  if (next == nullptr) return nullptr;
  next->waits = false;
  --waiting_;
  return next;
}

void RedisRequests::Compose(RedisRequest* request, std::string_view prefix) const {
  RespWriter head(request->head);
  RespWriter tail(request->tail);
  if (!prefix.empty()) {
    head.Begin(1);
    head.Argument(prefix);
  }
  const StoreOp op = request->request.op;
  const bool put = op == StoreOp::kPut;
  head.Begin(!put ? 2 : ttl_s_ == 0 ? 3 : 5);
  head.Argument(put                      ? "SET"
                : op == StoreOp::kGet    ? "GET"
                : op == StoreOp::kDelete ? "UNLINK"
                                         : "EXISTS");
  head.Argument(request->key_text());
  if (put) {
    head.RawHeader(request->request.buffer.size());
    tail.EndOfRaw();
    if (ttl_s_ > 0) {
      tail.Argument("EX");
      tail.Number(ttl_s_);
    }
  }
  SS_CHECK(head.fits() && tail.fits(), "a command larger than its place");
  request->replies_to_skip = prefix.empty() ? 0 : 1;
  request->pieces = {
      std::as_bytes(std::span(head.text())),
      put ? std::span<const std::byte>(request->request.buffer) : std::span<const std::byte>(),
      std::as_bytes(std::span(tail.text()))};
}

}  // namespace shadowserve
