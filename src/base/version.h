// The version of this build, as in the top CMakeLists.txt: "0.1.0".
#ifndef SHADOWSERVE_BASE_VERSION_H_
#define SHADOWSERVE_BASE_VERSION_H_

#include <string_view>

namespace shadowserve {

std::string_view Version();

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_VERSION_H_
