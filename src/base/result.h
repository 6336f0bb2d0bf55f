// Errors are values: Status and Result<T>.
//
// A Status is eight bytes when OK (a null pointer); building an error allocates. Neither may be
// dropped in silence ([[nodiscard]]), and reading the value of a failed Result aborts.
// Codes are named after what the caller does next, not after where the failure happened.
#ifndef SHADOWSERVE_BASE_RESULT_H_
#define SHADOWSERVE_BASE_RESULT_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace shadowserve {

enum class StatusCode : unsigned char {
  kOk = 0,
  kNotFound,         // not stored: recompute
  kCorrupt,          // stored but not to be trusted: evict, recompute
  kExhausted,        // a bound was reached: try after the next completion
  kUnavailable,      // the other side is gone or refuses: back off
  kDeadline,         // took too long: recompute
  kCancelled,        // the caller asked for it
  kInvalidArgument,  // the caller's input can never work: fix it
  kUnsupported,      // not built, not mapped, or not allowed here: choose something else
  kInternal,         // a broken invariant that was contained
};

// Lower-case word for logs and metric labels, e.g. "not_found".
std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message);
  Status(Status&&) = default;
  Status& operator=(Status&&) = default;
  Status(const Status& other) { *this = other; }
  Status& operator=(const Status& other);

  bool ok() const { return state_ == nullptr; }
  StatusCode code() const { return state_ ? state_->code : StatusCode::kOk; }
  std::string_view message() const { return state_ ? std::string_view(state_->message) : ""; }
  // "corrupt: chunk 17: bad magic"; "ok" when OK.
  std::string ToString() const;
  // Puts "context: " in front of the message; OK stays OK.
  Status WithContext(std::string_view context) &&;

 private:
  struct State {
    StatusCode code;
    std::string message;
  };
  std::unique_ptr<State> state_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    SS_CHECK(!status_.ok(), "a Result made from a Status needs an error");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const& { return status_; }
  Status status() && { return std::move(status_); }

  T& value() & {
    SS_CHECK(ok(), status_.ToString());
    return *value_;
  }
  const T& value() const& {
    SS_CHECK(ok(), status_.ToString());
    return *value_;
  }
  T&& value() && {
    SS_CHECK(ok(), status_.ToString());
    return *std::move(value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

inline Status OkStatus() {
  return Status();
}

}  // namespace shadowserve

#define SS_CONCAT_INNER(a, b) a##b
#define SS_CONCAT(a, b) SS_CONCAT_INNER(a, b)

// Returns from the calling function when `expression` (a Status) is an error.
#define SS_TRY(expression)                                                                 \
  do {                                                                                     \
    if (::shadowserve::Status ss_status = (expression); !ss_status.ok()) return ss_status; \
  } while (false)

// SS_TRY_ASSIGN(auto x, MakeX()): x is the value, or the calling function returns the error.
#define SS_TRY_ASSIGN(declaration, expression)                  \
  auto SS_CONCAT(ss_result_, __LINE__) = (expression);          \
  if (!SS_CONCAT(ss_result_, __LINE__).ok())                    \
    return std::move(SS_CONCAT(ss_result_, __LINE__)).status(); \
  declaration = std::move(SS_CONCAT(ss_result_, __LINE__)).value()

#endif  // SHADOWSERVE_BASE_RESULT_H_
