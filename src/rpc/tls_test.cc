#include "rpc/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace shadowserve {
namespace {

using ::testing::HasSubstr;

TEST(TlsFiles, AreAllThereOrNoneAndOnlyOfTcp) {
  const Address tcp = *ParseAddress("tcp://host:1");
  const Address local = *ParseAddress("unix:///s");
  EXPECT_TRUE(CheckTlsFiles({}, tcp).ok());
  EXPECT_TRUE(CheckTlsFiles({}, local).ok());
  EXPECT_TRUE(CheckTlsFiles({"a", "b", "c"}, tcp).ok());
  for (const TlsFiles& files : {TlsFiles{"a", "", ""}, {"", "b", "c"}, {"a", "b", ""}}) {
    EXPECT_THAT(CheckTlsFiles(files, tcp).ToString(), HasSubstr("all three"));
  }
  EXPECT_THAT(CheckTlsFiles({"a", "b", "c"}, local).ToString(), HasSubstr("only a tcp:// address"));
}

TEST(TlsFiles, WhatIsNoCertificateIsRefusedByName) {
  const std::string directory = ::testing::TempDir() + "tls_test." + std::to_string(::getpid());
  std::filesystem::create_directory(directory);
  const std::string text = directory + "/text";
  std::ofstream(text) << "no certificate";
  const auto error = [](const TlsFiles& files) { return ReadTlsFiles(files).status().ToString(); };
  EXPECT_THAT(error({text, text, text}), HasSubstr("tls: " + text + ": no certificate"));
  EXPECT_THAT(error({directory, text, text}), HasSubstr("not a plain file"));
  EXPECT_THAT(error({directory + "/none", text, text}), HasSubstr("/none: cannot read it"));
  std::filesystem::resize_file(text, (1 << 20) + 1);
  EXPECT_THAT(error({text, text, text}), HasSubstr("longer than 1048576 bytes"));
  std::filesystem::remove_all(directory);
}

TEST(TlsFiles, NoFilesAreNoIdentity) {
  const auto none = ReadTlsFiles({});
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
}

}  // namespace
}  // namespace shadowserve
