#include "client/fingerprint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace shadowserve {
namespace {

namespace fs = std::filesystem;

class Fingerprint : public testing::Test {
 protected:
  Fingerprint() {
    std::string name = (fs::temp_directory_path() / "ssfpXXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~Fingerprint() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ / name; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  std::string Cache() const { return Path("cache"); }
  Digest Of(const std::vector<std::string>& names, const std::string& cache) const {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(Path(name));
    Result<Digest> digest = FingerprintFiles(paths, cache);
    EXPECT_TRUE(digest.ok()) << digest.status().ToString();
    return digest.ok() ? *digest : Digest{};
  }

  fs::path directory_;
};

TEST_F(Fingerprint, DependsOnContentsAndOrderNotOnNames) {
  Write("a", "one");
  Write("b", "two");
  Write("c", "one");
  EXPECT_EQ(Of({"a", "b"}, ""), Of({"c", "b"}, ""));
  EXPECT_NE(Of({"a", "b"}, ""), Of({"b", "a"}, ""));
  EXPECT_NE(Of({"a"}, ""), Of({"a", "a"}, ""));
}

TEST_F(Fingerprint, IsTheSameWithAndWithoutACache) {
  Write("a", std::string(3 << 20, 'x'));
  const Digest digest = Of({"a"}, "");
  EXPECT_EQ(Of({"a"}, Cache()), digest);
  EXPECT_TRUE(fs::exists(Cache()));
  EXPECT_EQ(Of({"a"}, Cache()), digest);
}

TEST_F(Fingerprint, TakesADigestFromTheCacheWithoutReadingTheFile) {
  Write("a", "one");
  Of({"a"}, Cache());
  std::ifstream file(Cache());
  std::string text((std::istreambuf_iterator<char>(file)), {});
  ASSERT_EQ(text[text.size() - 1], '\n');
  text.replace(text.size() - 65, 64, std::string(64, '0'));
  Write("cache", text);
  EXPECT_NE(Of({"a"}, Cache()), Of({"a"}, ""));
}

TEST_F(Fingerprint, ReadsAReplacedFileAnewThoughNameAndSizeAreTheSame) {
  Write("a", "one");
  const Digest before = Of({"a"}, Cache());
  Write("new", "two");
  fs::rename(Path("new"), Path("a"));
  EXPECT_NE(Of({"a"}, Cache()), before);
  EXPECT_EQ(Of({"a"}, Cache()), Of({"a"}, ""));
}

TEST_F(Fingerprint, ReadsAFileAnewWhenItsTimeChanged) {
  Write("a", "one");
  const Digest before = Of({"a"}, Cache());
  Write("a", "two");
  fs::last_write_time(Path("a"), fs::last_write_time(Path("a")) + std::chrono::seconds(5));
  EXPECT_NE(Of({"a"}, Cache()), before);
}

TEST_F(Fingerprint, ToleratesAnyCache) {
  Write("a", "one");
  const Digest digest = Of({"a"}, "");
  for (const std::string& text :
       {std::string(), std::string("shadowserve digests v1\n\n  \n1 2 3\nx y z zz\n"),
        std::string(2 << 20, 'x'), std::string("\0\0\0\n\n", 5)}) {
    Write("cache", text);
    EXPECT_EQ(Of({"a"}, Cache()), digest);
  }
  fs::remove(Cache());
  fs::create_directory(Cache());
  EXPECT_EQ(Of({"a"}, Cache()), digest);
  EXPECT_EQ(Of({"a"}, Path("no/such/directory/cache")), digest);
}

TEST_F(Fingerprint, NamesAFileThatCannotBeRead) {
  const std::vector<std::string> paths = {Path("missing")};
  const Result<Digest> digest = FingerprintFiles(paths, "");
  ASSERT_FALSE(digest.ok());
  EXPECT_NE(digest.status().message().find(paths[0]), std::string_view::npos);
  const std::vector<std::string> folder = {directory_.string()};
  EXPECT_FALSE(FingerprintFiles(folder, "").ok());
}

}  // namespace
}  // namespace shadowserve
