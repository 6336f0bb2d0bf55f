#include "client/key_chain.h"

#include <algorithm>

#include "format/kv_layout.h"

namespace shadowserve {
namespace {

template <typename Integer>
void AppendLittleEndian(Integer value, std::string* out) {
  for (size_t i = 0; i < sizeof(value); ++i) {
    out->push_back(static_cast<char>(static_cast<unsigned char>(value >> (8 * i))));
  }
}

std::string_view AsText(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace

Digest RequestRoot(const Digest& engine_root, std::string_view name_space,
                   std::span<const std::string> parts) {
  std::vector<std::string_view> all = {AsText(engine_root), name_space};
  all.insert(all.end(), parts.begin(), parts.end());
  return RootKey(all);
}

Result<KeyChain> KeyChain::Make(const Digest& root, std::vector<KeyExtra> extras) {
  if (extras.size() > kMaxExtras) {
    return Status(StatusCode::kInvalidArgument, "too many extras in one request");
  }
  for (const KeyExtra& extra : extras) {
    if (extra.bytes.size() > kMaxExtraBytes) {
      return Status(StatusCode::kInvalidArgument, "an extra larger than 64 KiB");
    }
  }
  std::stable_sort(extras.begin(), extras.end(),
                   [](const KeyExtra& a, const KeyExtra& b) { return a.position < b.position; });
  KeyChain chain;
  chain.head_ = root;
  chain.extras_ = std::move(extras);
  return chain;
}

void KeyChain::Extend(std::span<const uint32_t> tokens) {
  const size_t chunks = tokens.size() / kChunkTokens;
  if (chunks <= keys_.size()) return;
  keys_.reserve(chunks);
  while (keys_.size() < chunks) {
    const size_t first = keys_.size() * kChunkTokens;
    head_ = NextChunkKey(head_, tokens.subspan(first, kChunkTokens),
                         TakeExtrasBefore(first + kChunkTokens));
    keys_.push_back(head_);
  }
}

// Per extra: u64 position, u32 length, bytes.
std::string KeyChain::TakeExtrasBefore(uint64_t end) {
  std::string text;
  for (; next_extra_ < extras_.size() && extras_[next_extra_].position < end; ++next_extra_) {
    const KeyExtra& extra = extras_[next_extra_];
    AppendLittleEndian(extra.position, &text);
    AppendLittleEndian(static_cast<uint32_t>(extra.bytes.size()), &text);
    text += extra.bytes;
  }
  return text;
}

}  // namespace shadowserve
