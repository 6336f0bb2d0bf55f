#include "bench/kv_sample.h"

#include <array>
#include <bit>
#include <cmath>

#include "base/check.h"

namespace shadowserve {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ULL + 0x2545f4914f6cdd1dULL) {}

  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  // Sum of four 16-bit uniforms, normalized: close to a Gaussian up to 3 sigma.
  float Normal() {
    const uint64_t bits = Next();
    const auto sum = static_cast<float>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                        (bits >> 32 & 0xffff) + (bits >> 48));
    constexpr float kMean = 2.0F * 65535.0F;
    constexpr float kSigma = 37837.0F;  // 65536 * sqrt(4 / 12)
    return (sum - kMean) / kSigma;
  }

 private:
  uint64_t state_;
};

uint16_t RoundToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Channel {
  float mean = 0;
  float scale = 0;
  float state = 0;
};

}  // namespace

void FillKvPlane(uint64_t seed, bool value, uint32_t head_dim, std::span<uint16_t> values) {
  SS_CHECK(head_dim <= kHeadDimMax && values.size() == size_t{kChunkTokens} * head_dim,
           "values of one plane");
  Random random(seed * 2 + (value ? 1 : 0));
  const float rho = value ? 0.35F : 0.75F;
  const float fresh = std::sqrt(1 - rho * rho);
  std::array<Channel, kHeadDimMax> channels;
  for (uint32_t d = 0; d < head_dim; ++d) {
    Channel& channel = channels[d];
    channel.scale = std::exp((value ? 0.3F : 0.7F) * random.Normal()) * (value ? 0.3F : 1.0F);
    if (!value && random.Next() % 25 == 0) channel.scale *= 6;
    channel.mean = value ? 0.0F : channel.scale * random.Normal();
    channel.state = random.Normal();
  }
  uint16_t* at = values.data();
  for (uint32_t t = 0; t < kChunkTokens; ++t) {
    const float jitter = std::exp(0.25F * random.Normal());
    for (uint32_t d = 0; d < head_dim; ++d) {
      Channel& channel = channels[d];
      channel.state = rho * channel.state + fresh * random.Normal();
      *at++ = RoundToBf16(channel.mean + jitter * channel.scale * channel.state);
    }
  }
}

}  // namespace shadowserve
