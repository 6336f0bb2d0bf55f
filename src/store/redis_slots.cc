#include "store/redis_slots.h"

#include <array>
#include <charconv>
#include <system_error>

namespace shadowserve {
namespace {

// CRC16/XMODEM: polynomial 0x1021, nothing reflected, starts at 0.
constexpr std::array<uint16_t, 256> MakeCrcTable() {
  std::array<uint16_t, 256> table = {};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte << 8;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1;
    }
    table[byte] = static_cast<uint16_t>(crc);
  }
  return table;
}
constexpr std::array<uint16_t, 256> kCrcTable = MakeCrcTable();

Status NoSlots(const char* what) {
  return Status(StatusCode::kInvalidArgument, std::string("cluster slots: ") + what);
}

bool SlotNumber(const RespItem& item, uint32_t* slot) {
  *slot = static_cast<uint32_t>(item.number);
  return item.type == RespType::kInteger && item.number >= 0 && item.number < kRedisSlots;
}

// Servers write IPv6 addresses without brackets; HostPort has them with.
std::string HostOf(std::string_view text, const HostPort& asked) {
  if (text.empty() || text == "?") return asked.host;
  const bool bare_ipv6 = text.find(':') != std::string_view::npos && text[0] != '[';
  return bare_ipv6 ? "[" + std::string(text) + "]" : std::string(text);
}

// An array of an address, a port and more.
Result<HostPort> ParseServer(std::span<const RespItem> items, size_t at, const HostPort& asked) {
  if (items[at].type != RespType::kArray || items[at].number < 2 || at + 2 >= items.size()) {
    return NoSlots("no server");
  }
  const RespItem& host = items[at + 1];
  const RespItem& port = items[at + 2];
  const bool named = host.type == RespType::kBulk && host.text.size() < 256;
  if ((!named && host.type != RespType::kNil) || port.type != RespType::kInteger ||
      port.number < 1 || port.number > UINT16_MAX) {
    return NoSlots("no address");
  }
  return HostPort{HostOf(host.text, asked), static_cast<uint16_t>(port.number)};
}

}  // namespace

uint32_t RedisSlot(std::string_view key) {
  const size_t open = key.find('{');
  if (open != std::string_view::npos) {
    const size_t close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1) {
      key = key.substr(open + 1, close - open - 1);
    }
  }
  uint32_t crc = 0;
  for (const char c : key) {
    crc = (crc << 8 ^ kCrcTable[(crc >> 8 ^ static_cast<unsigned char>(c)) & 0xFF]) & 0xFFFF;
  }
  return crc % kRedisSlots;
}

Result<std::vector<RedisSlotRange>> ParseClusterSlots(std::span<const RespItem> items,
                                                      const HostPort& asked) {
  if (items.empty() || items[0].type != RespType::kArray) return NoSlots("no array");
  std::vector<RedisSlotRange> ranges;
  for (size_t at = 1; at < items.size(); at = items[at].end) {
    const RespItem& entry = items[at];
    if (entry.type != RespType::kArray || entry.number < 3 || at + 3 >= items.size()) {
      return NoSlots("no range");
    }
    RedisSlotRange range;
    if (!SlotNumber(items[at + 1], &range.first) || !SlotNumber(items[at + 2], &range.last) ||
        range.first > range.last) {
      return NoSlots("bad slot numbers");
    }
    SS_TRY_ASSIGN(range.master, ParseServer(items, at + 3, asked));
    for (size_t replica = items[at + 3].end; replica < entry.end; replica = items[replica].end) {
      SS_TRY_ASSIGN(range.replicas.emplace_back(), ParseServer(items, replica, asked));
    }
    ranges.push_back(std::move(range));
  }
  if (ranges.empty()) return NoSlots("nobody serves any");
  return ranges;
}

Result<RedisRedirect> ParseRedirect(std::string_view error, const HostPort& asked) {
  RedisRedirect redirect;
  redirect.ask = error.starts_with("ASK ");
  if (!redirect.ask && !error.starts_with("MOVED ")) return NoSlots("no redirect");
  error.remove_prefix(error.find(' ') + 1);
  const char* const end = error.data() + error.size();
  const auto slot = std::from_chars(error.data(), end, redirect.slot);
  if (slot.ec != std::errc() || slot.ptr == end || *slot.ptr != ' ' ||
      redirect.slot >= kRedisSlots) {
    return NoSlots("bad redirect");
  }
  const std::string_view place(slot.ptr + 1, static_cast<size_t>(end - slot.ptr - 1));
  const size_t colon = place.rfind(':');
  if (colon == std::string_view::npos || colon > 255) return NoSlots("bad redirect");
  const auto port = std::from_chars(place.data() + colon + 1, end, redirect.server.port);
  if (port.ec != std::errc() || port.ptr != end || redirect.server.port == 0) {
    return NoSlots("bad redirect");
  }
  redirect.server.host = HostOf(place.substr(0, colon), asked);
  return redirect;
}

}  // namespace shadowserve
