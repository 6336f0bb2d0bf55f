#include "base/units.h"

#include <gtest/gtest.h>

namespace shadowserve {
namespace {

TEST(Units, RoundTripsTheSizesPeopleWrite) {
  for (const char* text : {"10GiB", "1536MiB", "17B", "1TiB", "3KiB"}) {
    EXPECT_EQ(FormatByteSize(*ParseByteSize(text)), text);
  }
  EXPECT_EQ(*ParseByteSize("4096"), 4096u);
}

TEST(Units, RefusesWhatIsNoSizeAndNamesIt) {
  for (const char* text :
       {"", "GiB", "-1", "10GB", "1.5GiB", "99999999999999999999", "17179869184TiB"}) {
    const Result<uint64_t> result = ParseByteSize(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_NE(result.status().message().find(text), std::string_view::npos);
  }
}

}  // namespace
}  // namespace shadowserve
