#include "app/auth_keys.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace shadowserve {
namespace {

const std::string kHexA = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
const std::string kHexB = "f" + std::string(63, '0');

std::string Reason(std::string_view text) {
  const Result<std::vector<AuthKey>> keys = ParseAuthKeys(text);
  EXPECT_EQ(keys.status().code(), StatusCode::kInvalidArgument) << text;
  EXPECT_EQ(keys.status().message().find("0a0b0c"), std::string::npos) << "shows a key";
  return std::string(keys.status().message());
}

TEST(AuthKeys, AreReadInTheirOrder) {
  const auto keys = ParseAuthKeys("# new\n\n 7:" + kHexA + " \r\n4294967295:" + kHexB).value();
  ASSERT_EQ(keys.size(), 2u);
  EXPECT_EQ(keys[0].id, 7u);
  EXPECT_EQ(keys[0].secret[31], std::byte{0x1f});
  EXPECT_EQ(keys[1].id, 4294967295u);
  EXPECT_EQ(keys[1].secret[0], std::byte{0xf0});
}

TEST(AuthKeys, ABadLineIsNamedWithoutItsKey) {
  EXPECT_EQ(Reason(""), "no key in it");
  EXPECT_EQ(Reason("#1:" + kHexA), "no key in it");
  EXPECT_EQ(Reason("\n" + kHexA), "line 2: no ':' between id and key");
  for (const std::string id : {"0", "", "-1", "+1", "4294967296", "a", "1 "}) {
    EXPECT_EQ(Reason(id + ":" + kHexA), "line 1: the id is no whole number from 1 to 4294967295");
  }
  EXPECT_EQ(Reason("1:" + kHexA + "00"), "line 1: the key has 66 characters, not 64 hex digits");
  EXPECT_EQ(Reason("1:" + kHexA.substr(0, 63) + "g"),
            "line 1: the key has characters that are no hex digits");
  EXPECT_EQ(Reason("1:" + kHexA + "\n1:" + kHexB), "line 2: id 1 comes twice");
  EXPECT_EQ(Reason("1:" + kHexA + "\n2:" + kHexB + "\n3:" + kHexA),
            "line 3: a third key; two at most");
  EXPECT_EQ(Reason("1:" + std::string(64, '0')),
            "line 1: the key is one byte repeated; make one with `openssl rand -hex 32`");
}

class KeyFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "/auth_keys_XXXXXX";
    ASSERT_NE(mkdtemp(path.data()), nullptr);
    folder_ = path;
    path_ = folder_ + "/keys";
    std::ofstream(path_) << "1:" << kHexA << "\n";
    ASSERT_EQ(chmod(path_.c_str(), 0600), 0);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string Reason() {
    const Result<std::vector<AuthKey>> keys = ReadAuthKeys(path_);
    EXPECT_EQ(keys.status().code(), StatusCode::kInvalidArgument);
    const std::string prefix = "auth.key_file: " + path_ + ": ";
    EXPECT_TRUE(keys.status().message().starts_with(prefix)) << keys.status().message();
    EXPECT_EQ(keys.status().message().find('\n'), std::string::npos);
    return std::string(keys.status().message().substr(prefix.size()));
  }
  std::string folder_;
  std::string path_;
};

TEST_F(KeyFile, OfItsOwnerAloneIsRead) {
  EXPECT_EQ(ReadAuthKeys(path_)->front().id, 1u);
  ASSERT_EQ(chmod(path_.c_str(), 0400), 0);
  EXPECT_TRUE(ReadAuthKeys(path_).ok());
}

TEST_F(KeyFile, ThatOthersMayReadOrWriteIsRefused) {
  for (const mode_t mode : {0640, 0604, 0620, 0602, 0644, 0777}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_TRUE(Reason().ends_with("lets others than its owner at the keys; chmod 600")) << mode;
  }
}

TEST_F(KeyFile, OfAnotherUserIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(chown(path_.c_str(), 12345, 0), 0);
  EXPECT_EQ(Reason(), "belongs to user 12345; it must be this user's or root's");
}

TEST_F(KeyFile, ThatIsNoneIsRefusedAtOnce) {
  std::ofstream(path_) << std::string(5000, '#');
  EXPECT_EQ(Reason(), "longer than 4096 bytes");
  std::filesystem::remove(path_);
  EXPECT_EQ(Reason(), "cannot read it: No such file or directory");
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(Reason(), "not a plain file");
}

}  // namespace
}  // namespace shadowserve
