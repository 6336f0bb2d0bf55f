#include "kv_content.h"

#include <sys/mman.h>

#include <cstring>

namespace shadowserve::soak {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

// Four bf16 values: sign, three bits of exponent and the mantissa are random, the rest is fixed.
uint64_t Word(uint64_t base, uint64_t index) {
  uint64_t value = base + index * kGolden;
  value = (value ^ (value >> 32)) * 0xD6E8FEB86659FD93u;
  value ^= value >> 29;
  return (value & 0x83FF83FF83FF83FFu) | 0x3C003C003C003C00u;
}

uint64_t RunBase(ContentKey key, uint32_t layer, uint32_t head) {
  return Mix(key ^ Mix(uint64_t{layer} << 32 | (head + 1)));
}

PageLayout LayoutOf(const ModelShape& shape, uint32_t page_tokens, uint64_t page_count,
                    bool pages_outermost) {
  const uint64_t plane_row = uint64_t{shape.head_dim} * DtypeBytes(shape.dtype);
  PageLayout layout;
  layout.dtype = shape.dtype;
  layout.page_tokens = page_tokens;
  layout.page_count = page_count;
  layout.heads = shape.kv_heads;
  layout.head_dim = shape.head_dim;
  layout.head_stride = page_tokens * 2 * plane_row;
  const uint64_t page_of_layer = shape.kv_heads * layout.head_stride;
  layout.page_stride = pages_outermost ? shape.layers * page_of_layer : page_of_layer;
  for (uint64_t layer = 0; layer < shape.layers; ++layer) {
    layout.layer_offset.push_back(layer * (pages_outermost ? 1 : page_count) * page_of_layer);
  }
  layout.k = {0, 2 * plane_row, DtypeBytes(shape.dtype)};
  layout.v = {plane_row, 2 * plane_row, DtypeBytes(shape.dtype)};
  return layout;
}

}  // namespace

uint64_t Mix(uint64_t value) {
  value += kGolden;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

std::vector<ContentKey> GranuleKeys(ContentKey root, std::span<const uint32_t> tokens) {
  std::vector<ContentKey> keys;
  keys.reserve(tokens.size() / kGranuleTokens + 1);
  ContentKey key = root;
  for (size_t first = 0; first < tokens.size(); first += kGranuleTokens) {
    const size_t count = std::min<size_t>(kGranuleTokens, tokens.size() - first);
    for (const uint32_t token : tokens.subspan(first, count)) key = Mix(key ^ token);
    keys.push_back(key);
  }
  return keys;
}

ContentKey RootOf(uint64_t seed, uint64_t weights, std::string_view salt) {
  ContentKey key = Mix(seed) ^ Mix(weights);
  for (const char letter : salt) key = Mix(key ^ static_cast<unsigned char>(letter));
  return Mix(key ^ salt.size());
}

Result<std::unique_ptr<KvMemory>> KvMemory::Create(const ModelShape& shape, uint32_t page_tokens,
                                                   uint64_t page_count, bool pages_outermost) {
  std::unique_ptr<KvMemory> memory(
      new KvMemory(LayoutOf(shape, page_tokens, page_count, pages_outermost)));
  const uint64_t bytes = page_count * memory->page_granules() * memory->granule_bytes();
  void* const address =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return Status(StatusCode::kExhausted, "no memory for pages");
  memory->region_ = {static_cast<std::byte*>(address), bytes};
  SS_TRY(CheckPageLayout(memory->layout_, shape, bytes));
  return memory;
}

KvMemory::~KvMemory() {
  if (!region_.empty()) ::munmap(region_.data(), region_.size());
}

uint64_t KvMemory::granule_bytes() const {
  return layout_.layer_offset.size() * layout_.heads * kGranuleTokens * layout_.k.token_stride;
}

std::span<std::byte> KvMemory::Run(uint32_t page, uint32_t granule, uint32_t layer,
                                   uint32_t head) const {
  const uint64_t bytes = kGranuleTokens * layout_.k.token_stride;
  const uint64_t offset = layout_.layer_offset[layer] + page * layout_.page_stride +
                          head * layout_.head_stride + granule * bytes;
  return region_.subspan(offset, bytes);
}

void KvMemory::Write(uint32_t page, uint32_t granule, ContentKey key) {
  for (uint32_t layer = 0; layer < layout_.layer_offset.size(); ++layer) {
    for (uint32_t head = 0; head < layout_.heads; ++head) {
      const std::span<std::byte> run = Run(page, granule, layer, head);
      const uint64_t base = RunBase(key, layer, head);
      for (size_t i = 0; i < run.size() / 8; ++i) {
        const uint64_t word = Word(base, i);
        std::memcpy(run.data() + 8 * i, &word, 8);
      }
    }
  }
}

bool KvMemory::Holds(uint32_t page, uint32_t granule, ContentKey key) const {
  uint64_t different = 0;
  for (uint32_t layer = 0; layer < layout_.layer_offset.size(); ++layer) {
    for (uint32_t head = 0; head < layout_.heads; ++head) {
      const std::span<const std::byte> run = Run(page, granule, layer, head);
      const uint64_t base = RunBase(key, layer, head);
      for (size_t i = 0; i < run.size() / 8; ++i) {
        uint64_t word = 0;
        std::memcpy(&word, run.data() + 8 * i, 8);
        different |= word ^ Word(base, i);
      }
    }
  }
  return different == 0;
}

void KvMemory::Flip(uint32_t page) {
  Run(page, 0, 0, 0)[100] ^= std::byte{1};
}

}  // namespace shadowserve::soak
