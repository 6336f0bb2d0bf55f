// The session's side of KvManager: all on the reader thread.
#include "base/log.h"
#include "client/kv_manager.h"
#include "rpc/convert.h"
#include "rpc/limits.h"

namespace shadowserve {
namespace {

v1::ClientMessage DrainQueryOf(std::span<const uint64_t> attempts) {
  v1::ClientMessage message;
  message.mutable_drain_query()->mutable_attempts()->Assign(attempts.begin(), attempts.end());
  return message;
}

}  // namespace

Status KvManager::MakeHello(v1::ClientMessage* message) {
  v1::SchedulerHello* const hello = message->mutable_scheduler_hello();
  hello->set_protocol(kProtocolVersion);
  hello->set_engine_id(options_.engine_id);
  hello->set_epoch(epoch_);
  hello->set_world_size(options_.world_size);
  hello->set_page_tokens(options_.page_tokens);
  *hello->mutable_shape() = ToProto(options_.shape);
  hello->set_profile(options_.profile);
  return OkStatus();
}

// Who the data plane is, with a pidfd where it lives on this host.
PlaneProcessPtr KvManager::AskProcess(const v1::HelloReply& reply) {
  auto process = std::make_shared<PlaneProcess>();
  process->incarnation = reply.incarnation();
  if (options_.session.address.path.empty() || reply.side_socket().empty()) return process;
  Result<SideAnswer> answer = options_.ask_process(reply.side_socket());
  if (!answer.ok()) {
    Log(LogLevel::kWarn,
        "no pidfd of the data plane: {}; pages of a load that it never ends stay "
        "held",
        answer.status().ToString());
  } else if (answer->incarnation == process->incarnation) {
    process->pidfd = std::move(answer->data_plane_pidfd);
  }
  return process;
}

void KvManager::OnConnected(const v1::HelloReply& reply, std::vector<v1::ClientMessage>* first) {
  PlaneProcessPtr process;
  {
    const std::lock_guard lock(mu_);
    process = process_;
  }
  const bool same = process != nullptr && process->incarnation == reply.incarnation();
  if (!same || !process->pidfd.valid()) process = AskProcess(reply);

  const std::lock_guard lock(mu_);
  process_ = process;
  std::vector<uint64_t> undrained;
  // Only the process that was given an attempt can say that it is drained: to any other it is
  // unknown.
  quarantine_.AddUndrained(process->incarnation, &undrained);
  loads_.AddUndrained(process->incarnation, &undrained);
  for (std::span<const uint64_t> rest = undrained; !rest.empty();) {
    const size_t count = std::min(rest.size(), kMaxIdsPerMessage);
    first->push_back(DrainQueryOf(rest.first(count)));
    rest = rest.subspan(count);
  }
  if (const size_t pages = quarantine_.stranded_page_count(process->incarnation); pages > 0) {
    Log(LogLevel::kWarn,
        "the data plane was replaced and its end cannot be proved: {} pages stay "
        "held until the engine restarts",
        pages);
  }
}

void KvManager::OnMessage(const v1::ServerMessage& message) {
  bool wake = false;
  {
    const std::lock_guard lock(mu_);
    if (message.has_lookup_reply()) {
      const v1::LookupReply& reply = message.lookup_reply();
      const uint32_t chunks = reply.status() == 0 ? reply.chunks() : 0;
      if (lookups_.Answer(reply.lookup_id(), chunks)) {
        ++(lookups_.Get(reply.lookup_id()).chunks > 0 ? stats_.lookups_hit : stats_.lookups_miss);
        wake = true;
      }
    } else if (message.has_drained()) {
      OnDrained(message.drained());
    } else if (message.has_save_read()) {
      OnSaveRead(message.save_read());
    } else if (message.has_save_done()) {
      OnSaveDone(message.save_done());
    }
  }
  if (wake) answered_.notify_all();
}

void KvManager::OnBroken() {
  {
    const std::lock_guard lock(mu_);
    stats_.lookups_timeout += lookups_.pending();
    lookups_.FailPending();
    loads_.FailAll();
    stats_.saves_dropped += saves_.RevokeAll(&freed_);
  }
  answered_.notify_all();
}

bool KvManager::Outstanding() {
  const std::lock_guard lock(mu_);
  return lookups_.pending() > 0 || loads_.size() > 0 || saves_.size() > 0 || !quarantine_.empty();
}

}  // namespace shadowserve
