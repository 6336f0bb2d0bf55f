// Runs the side socket (rpc/side_socket.h) on a thread of its own and keeps what workers brought
// there until their WorkerHello asks for it.
//
// Thread-safe. Bounded: kPeersMax peers wait, each for at most kPeerWaitNs.
#ifndef SHADOWSERVE_SERVER_SIDE_CHANNEL_H_
#define SHADOWSERVE_SERVER_SIDE_CHANNEL_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "rpc/side_socket.h"

namespace shadowserve {

class SideChannel {
 public:
  static constexpr size_t kPeersMax = 256;
  static constexpr int64_t kPeerWaitNs = 30 * kNsPerSecond;

  // Workers of users that are not in `uids` are refused.
  static Result<std::unique_ptr<SideChannel>> Start(SideServerOptions options, AllowedUids uids);
  ~SideChannel();

  // The peer that sent this token, once. kInvalidArgument when there is none.
  Result<SidePeer> Take(std::string_view token);

 private:
  struct Waiting {
    SidePeer peer;
    int64_t since_ns = 0;
  };
  explicit SideChannel(AllowedUids uids) : uids_(std::move(uids)) {}
  void Run();
  Status Keep(SidePeer peer);

  const AllowedUids uids_;
  const Clock* clock_ = nullptr;
  std::unique_ptr<SideServer> server_;
  UniqueFd stop_event_;
  std::mutex mutex_;
  std::deque<Waiting> waiting_;
  std::thread thread_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_SIDE_CHANNEL_H_
