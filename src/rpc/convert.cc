#include "rpc/convert.h"

#include <fmt/format.h>

#include <cstring>

#include "rpc/limits.h"

namespace shadowserve {
namespace {

Status Bad(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

v1::PlaneStride ToProto(const PlaneStride& stride) {
  v1::PlaneStride proto;
  proto.set_offset(stride.offset);
  proto.set_token_stride(stride.token_stride);
  proto.set_dim_stride(stride.dim_stride);
  return proto;
}

PlaneStride FromProto(const v1::PlaneStride& proto) {
  return {proto.offset(), proto.token_stride(), proto.dim_stride()};
}

Status CheckPageTokens(uint32_t page_tokens) {
  if (page_tokens < kMinPageTokens || page_tokens > kChunkTokens ||
      kChunkTokens % page_tokens != 0) {
    return Status(StatusCode::kUnsupported,
                  fmt::format("page_tokens {}: takes {} to {} that divide it: choose another block "
                              "size",
                              page_tokens, kMinPageTokens, kChunkTokens));
  }
  return OkStatus();
}

Status CheckId(std::string_view field, std::string_view id) {
  if (id.empty()) return Bad(fmt::format("{} is empty", field));
  if (id.size() > kMaxIdBytes) {
    return Bad(fmt::format("{} has {} bytes, more than {}", field, id.size(), kMaxIdBytes));
  }
  return OkStatus();
}

Status CheckProtocol(uint32_t protocol) {
  if (protocol == kProtocolVersion) return OkStatus();
  return Status(StatusCode::kUnsupported,
                fmt::format("protocol {}, this side speaks {}: install the same version on both "
                            "sides",
                            protocol, kProtocolVersion));
}

Status CheckWorldSize(uint32_t world_size) {
  if (world_size >= 1 && world_size <= kMaxWorldSize) return OkStatus();
  return Bad(fmt::format("world_size {}: takes 1 to {}", world_size, kMaxWorldSize));
}

template <typename Pages>
Status CheckPages(const Pages& pages, size_t expected, uint64_t page_count) {
  if (static_cast<size_t>(pages.size()) != expected) {
    return Bad(fmt::format("{} pages where {} belong", pages.size(), expected));
  }
  for (const uint32_t page : pages) {
    if (page >= page_count) return Bad(fmt::format("page {} of {}", page, page_count));
  }
  return OkStatus();
}

}  // namespace

v1::ModelShape ToProto(const ModelShape& shape) {
  v1::ModelShape proto;
  proto.set_layers(shape.layers);
  proto.set_kv_heads(shape.kv_heads);
  proto.set_head_dim(shape.head_dim);
  proto.set_dtype(std::string(DtypeName(shape.dtype)));
  return proto;
}

Result<ModelShape> FromProto(const v1::ModelShape& proto, uint32_t head_groups) {
  ModelShape shape;
  shape.layers = proto.layers();
  shape.kv_heads = proto.kv_heads();
  shape.head_dim = proto.head_dim();
  shape.head_groups = head_groups;
  SS_TRY_ASSIGN(shape.dtype, ParseDtype(proto.dtype()));
  SS_TRY(CheckModelShape(shape));
  return shape;
}

v1::PageLayout ToProto(const PageLayout& layout) {
  v1::PageLayout proto;
  proto.set_dtype(std::string(DtypeName(layout.dtype)));
  proto.set_page_tokens(layout.page_tokens);
  proto.set_page_count(layout.page_count);
  proto.set_first_layer(layout.first_layer);
  proto.mutable_layer_offset()->Assign(layout.layer_offset.begin(), layout.layer_offset.end());
  proto.set_first_head(layout.first_head);
  proto.set_heads(layout.heads);
  proto.set_head_dim(layout.head_dim);
  proto.set_page_stride(layout.page_stride);
  proto.set_head_stride(layout.head_stride);
  *proto.mutable_k() = ToProto(layout.k);
  *proto.mutable_v() = ToProto(layout.v);
  return proto;
}

Result<PageLayout> FromProto(const v1::PageLayout& proto, const ModelShape& shape,
                             uint64_t region_bytes) {
  PageLayout layout;
  SS_TRY_ASSIGN(layout.dtype, ParseDtype(proto.dtype()));
  SS_TRY(CheckPageTokens(proto.page_tokens()));
  if (proto.page_count() == 0 || proto.page_count() > kMaxPages) {
    return Bad(fmt::format("page_count {}: takes 1 to {}", proto.page_count(), kMaxPages));
  }
  if (static_cast<uint32_t>(proto.layer_offset_size()) > kLayersMax) {
    return Bad(fmt::format("layer_offset has {} entries, more than {}", proto.layer_offset_size(),
                           kLayersMax));
  }
  layout.page_tokens = proto.page_tokens();
  layout.page_count = proto.page_count();
  layout.first_layer = proto.first_layer();
  layout.layer_offset.assign(proto.layer_offset().begin(), proto.layer_offset().end());
  layout.first_head = proto.first_head();
  layout.heads = proto.heads();
  layout.head_dim = proto.head_dim();
  layout.page_stride = proto.page_stride();
  layout.head_stride = proto.head_stride();
  layout.k = FromProto(proto.k());
  layout.v = FromProto(proto.v());
  SS_TRY(CheckPageLayout(layout, shape, region_bytes));
  return layout;
}

std::string KeysToBytes(std::span<const ChunkKey> keys) {
  return std::string(reinterpret_cast<const char*>(keys.data()), keys.size_bytes());
}

Status KeysFromBytes(std::string_view bytes, size_t keys_max, std::vector<ChunkKey>* keys) {
  const size_t count = bytes.size() / sizeof(ChunkKey);
  if (bytes.empty() || bytes.size() % sizeof(ChunkKey) != 0) {
    return Bad(fmt::format("keys: {} bytes are no whole keys", bytes.size()));
  }
  if (count > keys_max) return Bad(fmt::format("keys: {} of at most {}", count, keys_max));
  keys->resize(count);
  std::memcpy(keys->data(), bytes.data(), bytes.size());
  return OkStatus();
}

StatusCode StatusCodeFromProto(uint32_t code) {
  return code <= static_cast<uint32_t>(StatusCode::kInternal) ? static_cast<StatusCode>(code)
                                                              : StatusCode::kInternal;
}

Status StatusFromProto(uint32_t code, std::string_view message) {
  if (code == 0) return OkStatus();
  return Status(StatusCodeFromProto(code), std::string(message.substr(0, kMaxTextBytes)));
}

Status CheckHello(const v1::SchedulerHello& hello) {
  SS_TRY(CheckProtocol(hello.protocol()));
  SS_TRY(CheckId("engine_id", hello.engine_id()));
  SS_TRY(CheckWorldSize(hello.world_size()));
  SS_TRY(CheckPageTokens(hello.page_tokens()));
  if (hello.profile().size() > kMaxIdBytes) return Bad("profile: name too long");
  return OkStatus();
}

Status CheckHello(const v1::WorkerHello& hello) {
  SS_TRY(CheckProtocol(hello.protocol()));
  SS_TRY(CheckId("engine_id", hello.engine_id()));
  SS_TRY(CheckWorldSize(hello.world_size()));
  if (hello.rank() >= hello.world_size()) {
    return Bad(fmt::format("rank {} of {}", hello.rank(), hello.world_size()));
  }
  if (hello.side_token().size() > kMaxTokenBytes) return Bad("side_token: too long");
  if (hello.ucx_worker_address().size() > kMaxUcxBytes) return Bad("ucx_worker_address: too long");
  if (hello.ucx_remote_key().size() > kMaxUcxBytes) return Bad("ucx_remote_key: too long");
  if (hello.device().size() > kMaxIdBytes) return Bad("device: name too long");
  return OkStatus();
}

Status CheckLoad(const v1::Load& load, uint32_t page_tokens, uint64_t page_count) {
  SS_TRY(CheckPageTokens(page_tokens));
  SS_TRY(CheckId("request_id", load.request_id()));
  const size_t keys = load.keys().size() / sizeof(ChunkKey);
  if (keys == 0 || load.keys().size() % sizeof(ChunkKey) != 0 || keys > kMaxKeysPerLoad) {
    return Bad(fmt::format("load {}: {} bytes of keys", load.attempt(), load.keys().size()));
  }
  if (load.first_token() >= kChunkTokens) {
    return Bad(fmt::format("load {}: first_token {}", load.attempt(), load.first_token()));
  }
  Status pages = CheckPages(load.pages(), keys * (kChunkTokens / page_tokens), page_count);
  if (pages.ok()) return pages;  // before the context is written, which allocates
  return std::move(pages).WithContext(fmt::format("load {}", load.attempt()));
}

Status CheckSave(const v1::Save& save, uint32_t page_tokens, uint64_t page_count) {
  SS_TRY(CheckPageTokens(page_tokens));
  if (static_cast<size_t>(save.items_size()) > kMaxItemsPerSave) {
    return Bad(fmt::format("save: {} items of at most {}", save.items_size(), kMaxItemsPerSave));
  }
  for (const v1::SaveItem& item : save.items()) {
    if (item.key().size() != sizeof(ChunkKey)) {
      return Bad(fmt::format("save {}: a key of {} bytes", item.save_id(), item.key().size()));
    }
    if (!item.tenant().empty() && item.tenant().size() != kTenantIdBytes) {
      return Bad(
          fmt::format("save {}: a tenant of {} bytes", item.save_id(), item.tenant().size()));
    }
    SS_TRY(CheckPages(item.pages(), kChunkTokens / page_tokens, page_count)
               .WithContext(fmt::format("save {}", item.save_id())));
  }
  return OkStatus();
}

TenantId TenantFromProto(const v1::SaveItem& item) {
  TenantId tenant = TenantOf("");
  if (item.tenant().size() == tenant.size()) {
    std::memcpy(tenant.data(), item.tenant().data(), tenant.size());
  }
  return tenant;
}

Status CheckIdCount(int count) {
  if (static_cast<size_t>(count) <= kMaxIdsPerMessage) return OkStatus();
  return Bad(fmt::format("{} ids in one message, at most {}", count, kMaxIdsPerMessage));
}

}  // namespace shadowserve
