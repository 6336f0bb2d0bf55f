// The process's log: spdlog behind two functions, so that nobody else includes it.
//
// Levels: error (a request was lost), warn (degraded), info (start, stop, config, connections),
// debug. Text is lower case, "name value" pairs; keys and request ids may appear, payload and
// secrets never. Thread-safe. Lines go to standard error.
#ifndef SHADOWSERVE_BASE_LOG_H_
#define SHADOWSERVE_BASE_LOG_H_

#include <fmt/format.h>

#include <string_view>

#include "base/result.h"

namespace shadowserve {

enum class LogLevel : unsigned char { kDebug, kInfo, kWarn, kError, kOff };

// "debug", "info", "warn", "error", "off"; kInvalidArgument names anything else.
Result<LogLevel> ParseLogLevel(std::string_view text);
void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);
void LogText(LogLevel level, std::string_view text);

template <typename... Args>
void Log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(level)) LogText(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_LOG_H_
