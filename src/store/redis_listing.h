// Lists a Redis store's objects by SCAN and STRLEN, over connections of its own. Blocks; for tools.
#ifndef SHADOWSERVE_STORE_REDIS_LISTING_H_
#define SHADOWSERVE_STORE_REDIS_LISTING_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "format/object_name.h"
#include "store/redis_connection.h"

namespace shadowserve {

// Every object once (objects that come or go meanwhile may be missed), until `visit` says false.
// kUnavailable: a server does not answer.
Status ListRedisObjects(const RedisConnectionOptions& options, const std::vector<HostPort>& servers,
                        const std::string& key_prefix,
                        const std::function<bool(const ObjectName&, uint64_t bytes)>& visit);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_LISTING_H_
