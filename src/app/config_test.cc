#include "app/config.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "app/config_file.h"
#include "base/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shadowserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class ConfigTest : public ::testing::Test {
 protected:
  // Writes a config file and returns its path.
  std::string File(std::string_view text) {
    // A name of its own: tests of one program run side by side.
    const std::string path =
        fmt::format("{}shadowserve_config_test.{}.toml", ::testing::TempDir(), getpid());
    std::ofstream(path, std::ios::trunc) << text;
    files_.insert(path);
    return path;
  }

  ~ConfigTest() override {
    for (const std::string& path : files_) unlink(path.c_str());
  }

  static Config Load(const std::vector<std::string>& arguments,
                     const Environment& environment = {}) {
    auto loaded = LoadConfig(arguments, environment);
    EXPECT_TRUE(loaded.ok()) << loaded.status().ToString();
    return loaded.ok() ? loaded->config : Config();
  }

  static std::string Output(const std::vector<std::string>& arguments) {
    auto loaded = LoadConfig(arguments, {});
    EXPECT_TRUE(loaded.ok()) << loaded.status().ToString();
    return loaded.ok() ? loaded->output : "";
  }

  // The error, which must be one line.
  static std::string Error(const std::vector<std::string>& arguments,
                           const Environment& environment = {}) {
    const auto loaded = LoadConfig(arguments, environment);
    EXPECT_FALSE(loaded.ok());
    const std::string message(loaded.status().message());
    EXPECT_THAT(message, Not(HasSubstr("\n")));
    return message;
  }

 private:
  std::set<std::string> files_;
};

TEST_F(ConfigTest, DefaultsPassTheirOwnChecks) {
  const Config defaults;
  EXPECT_TRUE(CheckConfig(defaults).ok());
  for (const ConfigKey& key : ConfigKeys()) {
    Config copy;
    const Status status = key.set(copy, key.show(defaults));
    EXPECT_TRUE(status.ok()) << key.name() << ": " << status.ToString();
    EXPECT_EQ(key.show(copy), key.show(defaults)) << key.name();
  }
}

TEST_F(ConfigTest, TheCommandLineBeatsTheEnvironmentBeatsTheFile) {
  const std::string file = File(
      "listen = 'unix:///file'\ncores = '1'\n[metrics]\nlisten = 'a:1'\n[fetch]\ndeadline_s = 5\n");
  const Environment environment = {
      {"SHADOWSERVE_CORES", "2"}, {"SHADOWSERVE_METRICS_LISTEN", "b:2"}, {"PATH", "/bin"}};
  const Config config = Load({"--config", file, "--metrics", "c:3"}, environment);
  EXPECT_EQ(config.listen, "unix:///file");
  EXPECT_EQ(config.cores, std::vector<int>{2});
  EXPECT_EQ(config.metrics_listen, "c:3");
  EXPECT_EQ(config.fetch_deadline_s, 5);
}

TEST_F(ConfigTest, EveryOptionOfTheCommandLineReachesItsKey) {
  const Config config = Load({"--listen", "tcp://h:1", "--store", "memory://?capacity=2GiB",
                              "--cores=1,3-4", "--metrics", "127.0.0.1:9", "--log-level", "debug"});
  EXPECT_EQ(config.listen, "tcp://h:1");
  EXPECT_EQ(config.store_url, "memory://?capacity=2GiB");
  EXPECT_EQ(config.cores, (std::vector<int>{1, 3, 4}));
  EXPECT_EQ(config.metrics_listen, "127.0.0.1:9");
  EXPECT_EQ(config.log_level, LogLevel::kDebug);
}

TEST_F(ConfigTest, AnUnknownOptionIsNamed) {
  EXPECT_THAT(Error({"--stoer", "x"}), HasSubstr("--stoer"));
  EXPECT_THAT(Error({"stray"}), HasSubstr("stray"));
  EXPECT_THAT(Error({"--store"}), HasSubstr("--store"));
}

TEST_F(ConfigTest, ABadValueOfAnOptionNamesTheOption) {
  EXPECT_THAT(Error({"--store", "floppy:///a"}), HasSubstr("--store: "));
  EXPECT_THAT(Error({"--cores", "1-"}), HasSubstr("--cores: '1-'"));
  EXPECT_THAT(Error({"--log-level", "loud"}), HasSubstr("--log-level: 'loud'"));
  EXPECT_THAT(Error({"--metrics", "9100"}), HasSubstr("--metrics: '9100'"));
}

TEST_F(ConfigTest, AnUnknownVariableWithThePrefixIsNamed) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_STORE_URI", "x"}}), HasSubstr("SHADOWSERVE_STORE_URI"));
}

TEST_F(ConfigTest, ABadValueOfAVariableNamesTheVariable) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_FETCH_DEADLINE_S", "0"}}),
              HasSubstr("SHADOWSERVE_FETCH_DEADLINE_S: '0'"));
}

TEST_F(ConfigTest, AnUnknownKeyOfTheFileIsNamedWithTheFile) {
  const std::string file = File("[store]\nurll = 'x'\n");
  EXPECT_EQ(Error({"--config", file}), file + ": unknown key 'store.urll'");
}

TEST_F(ConfigTest, AnUnknownSectionIsNamedEvenWhenItIsEmpty) {
  EXPECT_THAT(Error({"--config", File("[stoer]\n")}), HasSubstr("unknown section 'stoer'"));
}

TEST_F(ConfigTest, ASyntaxErrorNamesFileAndLine) {
  const std::string file = File("listen = 'unix:///a'\ncores = \n");
  EXPECT_THAT(Error({"--config", file}), HasSubstr(file + ":2"));
}

TEST_F(ConfigTest, AMissingFileIsNamed) {
  EXPECT_THAT(Error({"--config", "/nowhere/a.toml"}), HasSubstr("/nowhere/a.toml"));
  EXPECT_THAT(Error({"--config", "/"}), HasSubstr("/: cannot read"));
}

TEST_F(ConfigTest, AValueOfTheWrongTomlTypeNamesTheKey) {
  EXPECT_THAT(Error({"--config", File("cores = 1\n")}), HasSubstr("cores: write text in quotes"));
  EXPECT_THAT(Error({"--config", File("[format]\nhead_groups = '1'\n")}),
              HasSubstr("format.head_groups: write a whole number"));
  EXPECT_THAT(Error({"--config", File("[memory]\nslab_size = true\n")}),
              HasSubstr("memory.slab_size: write a size"));
  EXPECT_THAT(Error({"--config", File("[fetch.deadline_s]\n")}),
              HasSubstr("fetch.deadline_s: write a number"));
}

TEST_F(ConfigTest, SizesAndModesAreTakenAsTextAndAsIntegers) {
  const Config config = Load({"--config", File("listen_mode = 0o600\n[memory]\n"
                                               "slab_budget = 67108864\nslab_size = '8MiB'\n")});
  EXPECT_EQ(config.listen_mode, 0600U);
  EXPECT_EQ(config.slab_budget, 64 * kMiB);
  EXPECT_EQ(config.slab_size, 8 * kMiB);
}

TEST_F(ConfigTest, TakesUsersOfTheSocketByNumberOrAll) {
  const Config defaults = Load({});
  EXPECT_EQ(defaults.listen_mode, 0600U);
  EXPECT_TRUE(defaults.listen_uids.empty());
  EXPECT_FALSE(defaults.listen_any_uid);
  const Config some =
      Load({"--config", File("listen_mode = '0660'\nlisten_uids = '1000,70000'\n")});
  EXPECT_THAT(some.listen_uids, ElementsAre(1000U, 70000U));
  EXPECT_TRUE(Load({"--config", File("listen_uids = 'any'\n")}).listen_any_uid);
  for (const std::string text : {",", "1,", "-1", "alice", "1 2", "4294967296", "any,1"}) {
    EXPECT_THAT(Error({}, {{"SHADOWSERVE_LISTEN_UIDS", text}}), HasSubstr("uids")) << text;
  }
}

TEST_F(ConfigTest, RefusesUsersThatCouldNeverConnect) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_LISTEN_UIDS", std::to_string(geteuid() + 1)}}),
              HasSubstr("cannot open a socket of mode 0600; set listen_mode"));
  EXPECT_THAT(Error({"--listen", "tcp://127.0.0.1:0"}, {{"SHADOWSERVE_LISTEN_UIDS", "any"}}),
              HasSubstr("listen_uids: only a unix:// address"));
}

TEST_F(ConfigTest, HasNoQuotaUntilToldSo) {
  EXPECT_EQ(Load({}).quota_tenant_bytes, 0U);
  const Config config = Load({"--config", File("[quota]\ntenant_bytes = '3GiB'\nwindow_s = 60\n")});
  EXPECT_EQ(config.quota_tenant_bytes, 3 * kGiB);
  EXPECT_EQ(config.quota_window_s, 60);
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_QUOTA_WINDOW_S", "0"}}),
              HasSubstr("SHADOWSERVE_QUOTA_WINDOW_S"));
}

TEST_F(ConfigTest, TakesACipherOnlyWithKeys) {
  const auto loaded = LoadConfig(
      {}, {{"SHADOWSERVE_AUTH_KEY_FILE", "/etc/key"}, {"SHADOWSERVE_AUTH_CIPHER", "aes-256-gcm"}});
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(loaded->config.auth_key_file, "/etc/key");
  EXPECT_EQ(loaded->config.auth_cipher, SealAlgorithm::kAes256Gcm);
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_AUTH_CIPHER", "aes-256-gcm"}}),
              HasSubstr("auth.cipher: aes-256-gcm without auth.key_file"));
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_AUTH_CIPHER", "none"}}),
              HasSubstr("'none' is neither gmac nor aes-256-gcm"));
}

TEST_F(ConfigTest, RefusesByNameWhatThisBuildDoesNotHave) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_CODEC_ENGINE", "qat"}}),
              HasSubstr("SHADOWSERVE_CODEC_ENGINE: 'qat' is no codec engine"));
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_CODEC_PROFILE", "small"}}),
              HasSubstr("SHADOWSERVE_CODEC_PROFILE: "));
}

TEST_F(ConfigTest, RefusesAnEngineDeviceThatNothingWouldUse) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_CODEC_ENGINE_DEVICE", "compress_isal"}}),
              HasSubstr("codec.engine_device"));
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_CODEC_ENGINE_LIBRARY", "/x.so"}}),
              HasSubstr("codec.engine_library"));
}

TEST_F(ConfigTest, RefusesAnEngineWithoutItsDevice) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_CODEC_ENGINE", "compressdev"}}),
              HasSubstr("codec.engine_device: codec.engine is compressdev, which needs one"));
}

TEST_F(ConfigTest, RefusesABudgetBelowFourSlabs) {
  EXPECT_THAT(Error({}, {{"SHADOWSERVE_MEMORY_SLAB_BUDGET", "16MiB"}}),
              HasSubstr("memory.slab_budget"));
}

TEST_F(ConfigTest, RefusesCpuListsThatAreNone) {
  for (const std::string text :
       {",", "1,", ",1", "-1", "a", "3-1", "1--2", "1024", "0-99999999", "1 2", "99999999999"}) {
    EXPECT_THAT(Error({"--cores=" + text}), HasSubstr("--cores: ")) << text;
  }
  EXPECT_THAT(Error({"--cores", "1-3,2"}), HasSubstr("twice"));
}

TEST_F(ConfigTest, SharesTheBudgetOutWithoutARest) {
  Config config;
  EXPECT_EQ(config.fetch_slabs() + config.save_slabs(), 60U);  // 256 MiB / 4.25 MiB
  EXPECT_EQ(config.save_slabs(), 15U);
  config.slab_budget = 4 * config.slab_size;
  EXPECT_EQ(config.fetch_slabs(), 2U);
  EXPECT_EQ(config.save_slabs(), 2U);
}

TEST_F(ConfigTest, PrintConfigPrintsAFileThatLoadsToTheSameValues) {
  const std::string printed = Output({"--cores", "1,3-4", "--store", "memory://?capacity=3GiB",
                                      "--metrics", "127.0.0.1:0", "--print-config"});
  EXPECT_THAT(printed, HasSubstr("cores = \"1,3-4\"  # CPU list; command line\n"));
  EXPECT_THAT(printed, HasSubstr("slab_budget = \"256MiB\"  # bytes; default\n"));
  const Config again = Load({"--config", File(printed)});
  EXPECT_EQ(PrintConfig(again, {}),
            PrintConfig(Load({"--cores", "1,3-4", "--store", "memory://?capacity=3GiB", "--metrics",
                              "127.0.0.1:0"}),
                        {}));
}

TEST_F(ConfigTest, PrintConfigEscapesWhatTomlWouldMisread) {
  Config config;
  config.codec_engine_device = "a\"b\\c\x01";
  const auto values = ParseConfigText(PrintConfig(config, {}), "printed");
  ASSERT_TRUE(values.ok()) << values.status().ToString();
  for (const FileValue& value : *values) {
    if (value.key->name() == "codec.engine_device") {
      EXPECT_EQ(value.text, "a\"b\\c\x01");
    }
  }
}

TEST_F(ConfigTest, PrintConfigHidesThePasswordOfTheStore) {
  Config config;
  config.store_url = "redis://user:p@ss/word@host:6379/0";
  const std::string printed = PrintConfig(config, {});
  EXPECT_THAT(printed, HasSubstr("url = \"redis://user:***@host:6379/0\""));
  config.store_url = "redis://host:6379/0";
  EXPECT_THAT(PrintConfig(config, {}), HasSubstr("url = \"redis://host:6379/0\""));
}

TEST_F(ConfigTest, HelpNamesEveryOptionAndEveryKey) {
  const std::string help = Output({"--help"});
  for (const ConfigKey& key : ConfigKeys()) {
    EXPECT_THAT(help, HasSubstr("  " + key.name() + " (")) << key.name();
    if (!key.option.empty()) {
      EXPECT_THAT(help, HasSubstr("  " + std::string(key.option) + " "));
    }
  }
}

TEST_F(ConfigTest, VersionPrintsNameAndVersion) {
  EXPECT_EQ(Output({"--version"}), "shadowserved " + std::string(Version()) + "\n");
}

TEST_F(ConfigTest, TheDocumentationHasTheRowsOfTheTable) {
  std::vector<std::string> expected;
  const Config defaults;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string value = key.show(defaults);
    expected.push_back(fmt::format("| `{}` | {} | {} | {} | {} | `{}` | {} |", key.name(),
                                   ValueTypeName(key.type), value.empty() ? "-" : "`" + value + "`",
                                   key.unit.empty() ? "-" : key.unit, key.help, key.environment(),
                                   key.option.empty() ? "-" : fmt::format("`{}`", key.option)));
  }
  std::vector<std::string> documented;
  std::ifstream file(SS_DOCS_DIR "/config.md");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| `") && line.find("`SHADOWSERVE_") != line.npos) {
      documented.push_back(line);  // other tables are those of the store's URLs
    }
  }
  EXPECT_EQ(documented, expected);
}

}  // namespace
}  // namespace shadowserve
