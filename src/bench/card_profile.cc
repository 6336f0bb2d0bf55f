#include "bench/card_profile.h"

#include <array>
#include <string>

#include "base/clock.h"

namespace shadowserve {
namespace {

// BlueField-3 with 16 cores.
//
// One task: DOCA Compress takes 2 MiB; DPDK's mlx5 driver, which the plug-in uses, has no
// scatter-gather, and one segment of it has 16 bits of length. Blocks of this format fit both.
constexpr uint32_t kBf3TaskBytesMax = 65'535;
// As deep as EnginePort goes; measured cards reach their rate with as many.
constexpr uint32_t kBf3Depth = 64;
// An unreviewed public measurement of decompression on a card (2026, DOCA 2.9): 6.5 Gbit/s with
// tasks of 4 KiB, one after the other, and 188 Gbit/s with tasks of 2 MiB.
constexpr int64_t kBf3TaskNs = 5'000;
constexpr double kBf3EngineBytesPerS = 188e9 / 8;
// NVIDIA's user manual, "Supported Interfaces": DDR5 of 128 data bits at 5200 or 5600 MT/s; the
// slower one. That is what the pins can do, more than any program gets.
constexpr double kBf3MemoryBytesPerS = 128.0 / 8 * 5200e6;

constexpr std::array<CardProfile, 1> kCards = {{
    {.name = "bf3",
     .cores = 16,
     .engine = {.op_bytes_max = kBf3TaskBytesMax, .depth = kBf3Depth},
     .engine_bytes_per_s = kBf3EngineBytesPerS,
     .engine_task_ns = kBf3TaskNs,
     .memory_bytes_per_s = kBf3MemoryBytesPerS},
}};

}  // namespace

Result<const CardProfile*> FindCard(std::string_view name) {
  std::string known;
  for (const CardProfile& card : kCards) {
    if (card.name == name) return &card;
    known += known.empty() ? card.name : std::string(", ") + card.name;
  }
  return Status(
      StatusCode::kInvalidArgument,
      "'" + std::string(name) + "' is no card that can be emulated (known: " + known + ")");
}

}  // namespace shadowserve
