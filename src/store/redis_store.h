// redis:// rediss:// redis+cluster:// rediss+cluster://: objects as values of Redis (7) or Valkey
// servers. URL and options: redis_url.h.
//
// A key is key_prefix + the object's name (object_name.h). GET, SET, UNLINK and EXISTS, pipelined
// over several connections per server; values move between the socket and the caller's buffer
// without a copy in this process. The server's eviction and expiry are plain misses. Changes of one
// name are run in order; other requests in any order.
//
// Errors beside those of store.h, by what the server says: OOM: kExhausted. LOADING, READONLY,
// CLUSTERDOWN, MASTERDOWN, NOPERM, ... and a server that is gone or silent: kUnavailable.
// WRONGTYPE, or a value larger than the buffer: kCorrupt. A change that ends in kUnavailable may or
// may not have been made.
//
// A server that is gone makes requests fail at once (redis_node.h, "Breaker"); it is probed in the
// background and used again when it answers. A request is sent again only when a cluster sends it
// elsewhere, at most kRedirectsMax times, and to a master after its replica, once.
//
// Replicas of a cluster are read with read_replicas=1. Replication lags, so only what a replica has
// is believed: a miss or an error there is asked again at the master, once. A chunk that this store
// changed is read from its master for a minute: what was put is found, what was deleted is gone.
//
// Poll does all I/O on the owner's thread and receives at most 1 MiB, so that the first object of
// many is delivered early. No thread, no allocation per request. List blocks: it asks every master
// over a connection of its own.
#ifndef SHADOWSERVE_STORE_REDIS_STORE_H_
#define SHADOWSERVE_STORE_REDIS_STORE_H_

#include <memory>

#include "base/metrics.h"
#include "base/result.h"
#include "store/redis_url.h"
#include "store/store.h"

namespace shadowserve {

// Waits at most connect_timeout_ms for the servers and opens without them when they are away.
// kInvalidArgument: what can never work, for example a wrong password, database or certificate.
// `servers`: counts what happens with each server; may be null, else it outlives the store.
Result<std::unique_ptr<Store>> OpenRedisStore(const RedisStoreOptions& options,
                                              ServerTable* servers);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_STORE_H_
