// SS_CHECK: an invariant of this program is broken. The data plane dies and is restarted (its
// engine sees misses); the client library, which lives inside the engine, must not use it on
// anything that the data plane, the store or the user can influence.
#ifndef SHADOWSERVE_BASE_CHECK_H_
#define SHADOWSERVE_BASE_CHECK_H_

#include <string_view>

namespace shadowserve {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              std::string_view message);

}  // namespace shadowserve

#define SS_CHECK(condition, message)                                         \
  do {                                                                       \
    if (!(condition)) [[unlikely]]                                           \
      ::shadowserve::CheckFailed(__FILE__, __LINE__, #condition, (message)); \
  } while (false)

#endif  // SHADOWSERVE_BASE_CHECK_H_
