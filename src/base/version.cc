#include "base/version.h"

namespace shadowserve {

std::string_view Version() {
  return SS_VERSION;
}

}  // namespace shadowserve
