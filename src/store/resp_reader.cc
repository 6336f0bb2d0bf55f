#include "store/resp_reader.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <system_error>

namespace shadowserve {
namespace {

bool ParseNumber(std::string_view text, int64_t* number) {
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && stop == text.data() + text.size();
}

}  // namespace

void RespReader::Reset() {
  begin_ = end_ = 0;
  in_body_ = false;
  body_ = nullptr;
  body_bytes_ = body_left_ = 0;
}

RespReader::Step RespReader::Next(std::span<std::byte> target, RespToken* token) {
  if (in_body_) return Body(token);
  std::string_view line;
  const Step step = Line(&line);
  return step == Step::kToken ? Parse(line, target, token) : step;
}

// A line without its end. kBad: it is too long, or a lone carriage return is in it.
RespReader::Step RespReader::Line(std::string_view* line) {
  const std::string_view text(reinterpret_cast<const char*>(tail_.data()) + begin_, buffered());
  const size_t end = text.find('\r');
  if (std::min(end, text.size()) > kLineBytesMax) return Step::kBad;
  if (end == std::string_view::npos || end + 1 == text.size()) return Step::kMore;
  if (text[end + 1] != '\n' || end == 0) return Step::kBad;
  *line = text.substr(0, end);
  begin_ += end + 2;
  return Step::kToken;
}

RespReader::Step RespReader::Parse(std::string_view line, std::span<std::byte> target,
                                   RespToken* token) {
  *token = RespToken{};
  const char sign = line[0];
  line.remove_prefix(1);
  if (sign == '+' || sign == '-') {
    token->type = sign == '+' ? RespType::kSimple : RespType::kError;
    token->text = line;
    return Step::kToken;
  }
  if ((sign != ':' && sign != '$' && sign != '*') || !ParseNumber(line, &token->number)) {
    return Step::kBad;
  }
  if (sign == ':') {
    token->type = RespType::kInteger;
    return Step::kToken;
  }
  if (token->number == -1) {
    token->type = RespType::kNil;
    return Step::kToken;
  }
  if (token->number < 0) return Step::kBad;
  if (sign == '*') {
    token->type = RespType::kArray;
    return token->number <= kArrayItemsMax ? Step::kToken : Step::kBad;
  }
  if (token->number > kBulkBytesMax) return Step::kBad;
  in_body_ = true;
  body_bytes_ = body_left_ = static_cast<uint64_t>(token->number);
  body_ = body_bytes_ <= target.size() ? target.data() : nullptr;
  return Body(token);
}

RespReader::Step RespReader::Body(RespToken* token) {
  const size_t take = std::min<uint64_t>(body_left_, buffered());
  if (take > 0) {
    if (body_ != nullptr) {
      std::memcpy(body_, tail_.data() + begin_, take);
      body_ += take;
    }
    begin_ += take;
    body_left_ -= take;
  }
  if (body_left_ > 0 || buffered() < 2) return Step::kMore;
  if (tail_[begin_] != std::byte{'\r'} || tail_[begin_ + 1] != std::byte{'\n'}) return Step::kBad;
  begin_ += 2;
  in_body_ = false;
  *token = RespToken{};
  token->type = RespType::kBulk;
  token->number = static_cast<int64_t>(body_bytes_);
  token->stored = body_ != nullptr || body_bytes_ == 0;
  body_ = nullptr;
  return Step::kToken;
}

size_t RespReader::Places(size_t read_ahead, size_t bytes_max, std::span<iovec, 2> places) {
  if (in_body_ && body_ != nullptr && body_left_ > 0) {
    // Next has emptied the tail into the body.
    begin_ = end_ = 0;
    places[0] = {body_, std::min<uint64_t>(body_left_, bytes_max)};
    if (places[0].iov_len < body_left_ || bytes_max <= body_left_) return 1;
    places[1] = {tail_.data(), std::min({read_ahead, bytes_max - body_left_, kTailBytes})};
    return 2;
  }
  if (begin_ > 0) {
    std::memmove(tail_.data(), tail_.data() + begin_, buffered());
    end_ -= begin_;
    begin_ = 0;
  }
  const size_t wanted = in_body_ ? body_left_ + read_ahead : read_ahead;  // drained in big pieces
  places[0] = {tail_.data() + end_, std::min({wanted, bytes_max, kTailBytes - end_})};
  return 1;
}

void RespReader::Received(size_t bytes) {
  if (in_body_ && body_ != nullptr) {
    const size_t in_place = std::min<uint64_t>(bytes, body_left_);
    body_ += in_place;
    body_left_ -= in_place;
    bytes -= in_place;
  }
  end_ += bytes;
}

}  // namespace shadowserve
