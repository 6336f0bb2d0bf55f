// Control messages to and from our own types. Everything that comes in is hostile: counts, sizes
// and ids are checked here, before anything else sees them. All errors are kInvalidArgument or
// kUnsupported and name the field. Thread-safe.
#ifndef SHADOWSERVE_RPC_CONVERT_H_
#define SHADOWSERVE_RPC_CONVERT_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "format/chunk_key.h"
#include "format/kv_layout.h"
#include "format/tenant.h"
#include "rpc/control.pb.h"

namespace shadowserve {

v1::ModelShape ToProto(const ModelShape& shape);
// `head_groups` is the data plane's own constant. The result passed CheckModelShape.
Result<ModelShape> FromProto(const v1::ModelShape& proto, uint32_t head_groups);

v1::PageLayout ToProto(const PageLayout& layout);
// The result passed CheckPageLayout and has at most kMaxPages pages of kMinPageTokens or more.
Result<PageLayout> FromProto(const v1::PageLayout& proto, const ModelShape& shape,
                             uint64_t region_bytes);

std::string KeysToBytes(std::span<const ChunkKey> keys);
// Into `keys`: at least one, at most `keys_max`.
Status KeysFromBytes(std::string_view bytes, size_t keys_max, std::vector<ChunkKey>* keys);

// A code from a peer: one that this version does not know becomes kInternal.
StatusCode StatusCodeFromProto(uint32_t code);
Status StatusFromProto(uint32_t code, std::string_view message);

// Checks of whole messages. `page_count` bounds page ids (exclusive).
Status CheckHello(const v1::SchedulerHello& hello);
Status CheckHello(const v1::WorkerHello& hello);
Status CheckLoad(const v1::Load& load, uint32_t page_tokens, uint64_t page_count);
Status CheckSave(const v1::Save& save, uint32_t page_tokens, uint64_t page_count);
// REQUIRES: CheckSave has seen it. An item that names none (an older client's) is without a salt.
TenantId TenantFromProto(const v1::SaveItem& item);
// Id lists of Grant, Cancel, Drained, DrainQuery, SaveRead, SaveConfirm, SaveDone.
Status CheckIdCount(int count);

}  // namespace shadowserve

#endif  // SHADOWSERVE_RPC_CONVERT_H_
