#include "server/side_channel.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "flow/affinity.h"

namespace shadowserve {

Result<std::unique_ptr<SideChannel>> SideChannel::Start(SideServerOptions options,
                                                        AllowedUids uids) {
  auto channel = std::unique_ptr<SideChannel>(new SideChannel(std::move(uids)));
  channel->clock_ = options.clock;
  channel->stop_event_ = UniqueFd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!channel->stop_event_.valid()) {
    return Status(StatusCode::kUnavailable, "cannot make an eventfd");
  }
  SS_TRY_ASSIGN(channel->server_, SideServer::Listen(std::move(options)));
  channel->thread_ = std::thread([raw = channel.get()] { raw->Run(); });
  return channel;
}

SideChannel::~SideChannel() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  (void)!write(stop_event_.get(), &one, sizeof(one));
  thread_.join();
}

void SideChannel::Run() {
  NameThisThread("ss-side");
  for (;;) {
    pollfd entries[2] = {{server_->fd(), POLLIN, 0}, {stop_event_.get(), POLLIN, 0}};
    (void)poll(entries, 2, -1);
    if (entries[1].revents != 0) return;
    server_->HandleEvents([this](SidePeer peer) { return Keep(std::move(peer)); });
  }
}

Status SideChannel::Keep(SidePeer peer) {
  if (!uids_.Allows(peer.who.uid)) {
    return Status(StatusCode::kUnsupported, "the worker's user is not in listen_uids");
  }
  const std::lock_guard lock(mutex_);
  const int64_t now_ns = clock_->NowNs();
  while (!waiting_.empty() && waiting_.front().since_ns + kPeerWaitNs < now_ns) {
    waiting_.pop_front();
  }
  if (waiting_.size() >= kPeersMax) {
    return Status(StatusCode::kExhausted, "too many workers wait on the side socket");
  }
  waiting_.push_back(Waiting{std::move(peer), now_ns});
  return OkStatus();
}

Result<SidePeer> SideChannel::Take(std::string_view token) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(waiting_.begin(), waiting_.end(), [token](const Waiting& waiting) {
        return token.size() == kSideTokenBytes &&
               std::memcmp(token.data(), waiting.peer.token.data(), kSideTokenBytes) == 0;
      });
  if (found == waiting_.end()) {
    return Status(StatusCode::kInvalidArgument,
                  "no connection on the side socket brought this token");
  }
  SidePeer peer = std::move(found->peer);
  waiting_.erase(found);
  return peer;
}

}  // namespace shadowserve
