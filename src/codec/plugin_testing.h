// For tests: where the plug-ins of this build lie, and whether there is one with DPDK.
#ifndef SHADOWSERVE_CODEC_PLUGIN_TESTING_H_
#define SHADOWSERVE_CODEC_PLUGIN_TESTING_H_

#include <filesystem>
#include <string>

#include "codec/plugin_engine.h"

namespace shadowserve::testing {

inline std::filesystem::path PluginPath(const std::string& file) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / file;
}
// Devices: fake_plugin.cc.
inline std::string FakePlugin() {
  return PluginPath("libshadowserve_test_engine.so").string();
}
inline std::string OtherVersionPlugin() {
  return PluginPath("libshadowserve_test_engine_other_version.so").string();
}
// Not in sanitizer builds, and where libdpdk is missing.
inline bool HasCompressdev() {
  return std::filesystem::exists(PluginPath(kCompressdevPlugin));
}
constexpr const char* kNoCompressdev =
    "this build has no DPDK plug-in (libdpdk is missing, or a sanitizer is on)";

}  // namespace shadowserve::testing

#endif  // SHADOWSERVE_CODEC_PLUGIN_TESTING_H_
